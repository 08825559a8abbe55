"""The C++ kernels against the same oracle as plain torch: attention written out query by query in float64."""

from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import Phase, example, given, settings
from leapgen_kernels import cpu
from test_attention import CASES, MIXED, Case, Step

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine

pytestmark = pytest.mark.skipif(cpu.library() is None, reason="built without a C++ compiler")

# float32: a polynomial exponential (2e-7) and sums over tiles of 16 in float32. bfloat16 rounds once, at the end.
TOLERANCES = {torch.float32: {"rtol": 5e-5, "atol": 5e-6}, torch.bfloat16: {"rtol": 2**-8, "atol": 1e-5}}


class KernelStep(Step):
    """A step whose layer is stored and attended to by the kernels."""

    def run(self):
        case, tensors = self.case, self.plan.on(torch.device("cpu"))
        self.store(computed_now=False)
        key = torch.cat([k[s:e] for k, (s, e) in zip(self.keys, case.spans, strict=True)])
        value = torch.cat([v[s:e] for v, (s, e) in zip(self.values, case.spans, strict=True)])
        keys, values = self.cache.keys[self.layer], self.cache.values[self.layer]
        # As models hand them over: [heads, tokens, dim] transposed.
        cpu.store(key.transpose(0, 1).contiguous().transpose(0, 1), keys, tensors.slots)
        cpu.store(value, values, tensors.slots)
        query = self.query.transpose(0, 1).contiguous().transpose(0, 1)
        return cpu.attend(query, keys, values, tensors.page_table, tensors.query_starts, tensors.kv_lengths,
                          scaling=case.key_dim**-0.5 if case.scaling is None else case.scaling,
                          sliding_window=case.sliding_window, softcap=case.softcap, sinks=self.sinks)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@settings(max_examples=80, phases=[Phase.explicit, Phase.generate])
@given(case=CASES)
@example(case=Case(MIXED, page_size=16, sliding_window=5, softcap=2.0, sinks=True, scaling=0.3))
@example(case=Case([(100, 133), (0, 70), (64, 65)], page_size=16, key_dim=64, value_dim=64, group=3, kv_heads=3))
@example(case=Case([(40, 41), (0, 1), (20, 49)], page_size=64, key_dim=80, value_dim=33, group=1, kv_heads=2))
def test_kernel_is_attention(dtype, case):
    """Would catch: any page, window, head, softcap, sink or rounding error of the kernel, and NaN from unwritten slots."""
    step = KernelStep(case, dtype)
    actual = step.run()
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), step.expected(), **TOLERANCES[dtype])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_result_does_not_depend_on_threads(threads):
    """Would catch: two threads that share scratch memory."""
    step = KernelStep(Case([(30, 31)] * 20 + [(0, 50)], page_size=4, kv_heads=3, group=2, key_dim=16, value_dim=16),
                      torch.float32)
    before = torch.get_num_threads()
    expected = step.run()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(step.run(), expected)
    finally:
        torch.set_num_threads(before)


def test_a_sequence_is_attended_alike_alone_and_in_a_batch():
    """Would catch: results that depend on neighbours, which would make a path's tokens depend on them."""
    alone = Step(Case([(37, 38)], page_size=4, key_dim=16, value_dim=16), torch.float32)
    together = KernelStep(replace(alone.case, spans=[(37, 38), (0, 9), (12, 13)]), torch.float32)
    alone.__class__ = KernelStep
    for name in ("query", "keys", "values"):
        mine, its = getattr(alone, name), getattr(together, name)
        its[0] = mine[0]
    assert torch.equal(alone.run()[0], together.run()[0])


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "mistral", "deepseek_v3"])
def test_engine_says_the_same_with_and_without_kernels(name):
    """Would catch: a kernel that is called with other arguments than plain torch."""
    outputs = []
    for kernels in (True, False):
        engine = Engine(tiny.build(name, torch.float32), EngineConfig(page_size=4, kv_cache_bytes=1 << 22, kernels=kernels))
        sequence = engine.add(list(range(3, 40)), SamplingConfig.greedy(), limit=60)
        while engine.has_work:
            engine.step()
        outputs.append(sequence.tokens)
    assert outputs[0] == outputs[1]
