"""``torch.set_default_dtype`` is the user's: what leapgen computes does not depend on it."""

import pytest
import tiny
import torch
from leapgen_kernels import cpu

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, Stream

PROMPT = [3 + 5 * i % 150 for i in range(20)]
SAMPLINGS = [SamplingConfig(temperature=1.0, top_k=20), SamplingConfig(temperature=1.0, top_k=None, top_p=0.9),
             SamplingConfig.greedy(), SamplingConfig(repetition_penalty=1.2, min_p=0.01)]


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16], ids=str)
def default(request):
    before = torch.get_default_dtype()
    yield request.param
    torch.set_default_dtype(before)


def engine_of(model, **changes):
    return Engine(model, EngineConfig(page_size=4, kv_cache_bytes=1 << 22, **changes))


def drawn(engine):
    """What each path draws, with its log-probabilities: all paths by the same settings, one setting after the other."""
    found = []
    for sampling in SAMPLINGS:
        for path in range(8):
            engine.add(PROMPT, sampling, stream=Stream(1, path), limit=26)
        while engine.has_work:
            found += [(e.sequence.stream.path, e.token, e.logprob, e.sampling_logprob) for e in engine.step()]
    return found


@pytest.mark.parametrize("changes", [{"compile": True}, {"compile": False}, {"kernels": False}],
                         ids=["compiled", "kernels", "plain"])
def test_tokens_and_log_probabilities_do_not_depend_on_the_default_dtype(changes, default):
    """Would catch: a tensor made in the default dtype that C++ fills with float32: numbers misread, or written past its end.
    """
    model = tiny.build("llama", torch.float32)
    expected = drawn(engine_of(model, **changes))
    engine = engine_of(model, **changes)
    torch.set_default_dtype(default)
    assert drawn(engine) == expected  # made before the default changed
    assert drawn(engine_of(model, **changes)) == expected  # and after


@pytest.mark.skipif(cpu.library() is None, reason="built without a C++ compiler")
def test_the_most_likely_tokens_do_not_depend_on_the_default_dtype(default):
    """Would catch: the same in a kernel's own results."""
    logits = torch.randn(64, 500, generator=torch.Generator().manual_seed(0))
    expected = cpu.candidates(logits, 20, 40, True)
    torch.set_default_dtype(default)
    found = cpu.candidates(logits, 20, 40, True)
    assert all(map(torch.equal, found, expected))
    assert [t.dtype for t in found] == [torch.float32, torch.float32, torch.int64]
