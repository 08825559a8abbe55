"""A stand-in until the tasks are here."""

from leapgen.tasks.base import load_task

__all__ = ["load_task"]
