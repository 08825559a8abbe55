"""leapgen inside lm-eval: ``--model leapgen``, and tasks that score all paths of a question."""

from leapgen.integrations.lm_eval.model import TASKS, LeapLM

__all__ = ["TASKS", "LeapLM"]
