"""How a run ends that is not let finish: with an error, or with Ctrl-C. Both keep what was generated."""

from __future__ import annotations

from leapgen.record.run import LeapOutput


class GenerationFailed(RuntimeError):
    """Something raised during a run. ``outputs`` holds what was generated; ``__cause__`` is what happened."""

    def __init__(self, cause: BaseException, outputs: list[LeapOutput]) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.outputs = outputs
        self.__cause__ = cause


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run. ``outputs`` holds what was generated; ``LeapGenerator.resume`` goes on from there."""

    def __init__(self, outputs: list[LeapOutput]) -> None:
        super().__init__("interrupted")
        self.outputs = outputs
