"""A search task that is easy to check and hard to guess, and everything to train a small reasoner on it."""

from leapgen.tasks.maze.maze import Maze, Shape, make_maze

__all__ = ["Maze", "Shape", "make_maze"]
