import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest

from leapgen import LeapGenerator
from leapgen.demo import load_smollm2
from leapgen.pretrained import load


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
