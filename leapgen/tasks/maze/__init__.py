"""A search task that is easy to check and hard to guess, and everything to train a small reasoner on it."""

from leapgen.tasks.maze.maze import Maze, Shape, make_maze
from leapgen.tasks.maze.task import MAZE_SETTINGS, MAZE_SHAPE

__all__ = ["MAZE_SETTINGS", "MAZE_SHAPE", "Maze", "Shape", "make_maze"]
