"""Problems with known answers, and how they are graded."""

from leapgen.tasks.base import Task
from leapgen.tasks.loading import load_task
from leapgen.tasks.problems import Problem

__all__ = ["Problem", "Task", "load_task"]
