"""Problems with known answers, and how they are graded."""

from leapgen.tasks.base import Problem, Task
from leapgen.tasks.loading import load_task

__all__ = ["Problem", "Task", "load_task"]
