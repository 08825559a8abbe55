"""The command line: ``leapgen run``, ``demo``, ``show``, ``resume``, ``synth`` and ``sft``."""
