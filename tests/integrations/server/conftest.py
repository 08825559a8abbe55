import openai
import pytest
import torch
from serving import serving

from leapgen import EngineConfig, LeapGenerator
from leapgen.demo import load_smollm2


@pytest.fixture(scope="session")
def maze32():
    """The maze model in float32: on the CPU kernels a path's tokens are the same bits alone and among others."""
    return LeapGenerator.from_pretrained("maze", dtype=torch.float32, engine=EngineConfig(kv_cache_bytes=1 << 28))


@pytest.fixture(scope="session")
def smollm2():
    return load_smollm2()


@pytest.fixture(scope="session")
def running(maze32):
    with serving(maze32) as server:
        yield server


@pytest.fixture
def server(running):
    """A server with nothing to do, before and after."""
    running.rest()
    yield running
    running.rest()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
