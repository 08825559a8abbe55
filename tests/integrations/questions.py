"""What the hosts are asked, and with which settings."""

from leapgen.demo import SETTINGS
from leapgen.tasks.maze import MAZE_SHAPE, make_maze

# What SmolLM2 gets through in a second or two.
SMALL = {**SETTINGS, "interval": 12, "max_new_tokens": 24, "summary_tokens": 8, "explain": False}
MAZES = [make_maze(f"held-out/{number}", MAZE_SHAPE) for number in range(6)]
