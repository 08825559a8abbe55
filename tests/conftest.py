import os
import signal

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Who runs the tests in the background or under nohup has these ignored, and a command leaves an ignored signal alone.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported: the GPU kernels then run on CPU tensors
torch.set_num_threads(1)  # tiny models: a second thread only waits
settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def llama():
    """A float64 model shared by tests that only need some model."""
    import tiny

    return tiny.build("llama")


@pytest.fixture(scope="session")
def llama32():
    import tiny

    return tiny.build("llama", dtype=torch.float32)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny model on disk, as the command line loads one."""
    import tiny
    import tiny_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tiny.build("llama", torch.float32, vocab_size=tiny_tokenizer.VOCAB).save_pretrained(folder)
    tiny_tokenizer.byte_level().save_pretrained(folder)
    return folder
