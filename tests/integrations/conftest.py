import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest

from leapgen import LeapGenerator
from leapgen.demo import SETTINGS, load_smollm2
from leapgen.pretrained import load
from leapgen.tasks.maze import MAZE_SHAPE, make_maze

# What SmolLM2 gets through in a second or two.
SMALL = {**SETTINGS, "interval": 12, "max_new_tokens": 24, "summary_tokens": 8, "explain": False}
MAZES = [make_maze(f"held-out/{number}", MAZE_SHAPE) for number in range(6)]


@pytest.fixture(scope="session")
def maze():
    """The bundled maze model and its tokenizer."""
    return load("maze")


@pytest.fixture(scope="session")
def generator(maze):
    """What every host's tokens are compared with: a generator that no host knows."""
    return LeapGenerator(*load("maze"))


@pytest.fixture(scope="session")
def smollm2():
    """Loaded once for all hosts: that alone takes half a minute."""
    return load_smollm2()
