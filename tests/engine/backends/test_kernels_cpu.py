"""The C++ kernels against the same oracle as plain torch: attention written out query by query in float64."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st
from leapgen_kernels import cpu
from leapgen_kernels.interface import TILE_DEPTH
from test_attention import CASES, MIXED, Case, Step

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine
from leapgen.engine.backends.cpu.backend import CPUBackend
from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.sampling.host import draw
from leapgen.engine.sharing import shared_segments
from leapgen.engine.step import Step as EngineStep

pytestmark = pytest.mark.skipif(cpu.library() is None, reason="built without a C++ compiler")

# float32: a polynomial exponential (2e-7) and sums over tiles of 16 in float32. bfloat16 rounds once, at the end.
TOLERANCES = {torch.float32: {"rtol": 5e-5, "atol": 5e-6}, torch.bfloat16: {"rtol": 2**-8, "atol": 1e-5}}
# Every kernel for attention and linear layers, chosen by name; "amx_model" is what AMX computes, in software.
KERNELS = [(torch.float32, "float32"), (torch.bfloat16, "bfloat16"), (torch.bfloat16, "amx_model"),
           pytest.param(torch.bfloat16, "amx", marks=pytest.mark.skipif(
               cpu.library() is None or not cpu.library().leapgen_has_amx(), reason="this machine has no AMX"))]


def kernel(verb, name):
    return getattr(cpu.library(), f"leapgen_{verb}_{name}")


class KernelStep(Step):
    """A step whose layer is stored and attended to by the kernels."""

    def run(self, name=None):
        self.store(computed_now=False)
        plan = CPUBackend().prepare(self.step)
        return cpu.attend(*self.handed_over, plan.at(self.layer), **self.options,
                          kernel=kernel("attend", name or cpu.DTYPES[self.dtype]))[0]


@pytest.mark.parametrize(("dtype", "name"), KERNELS)
@settings(max_examples=80, phases=[Phase.explicit, Phase.generate])
@given(case=CASES)
@example(case=Case(MIXED, page_size=16, sliding_window=5, softcap=2.0, sinks=True, scaling=0.3))
@example(case=Case([(100, 133), (0, 70), (64, 65)], page_size=16, key_dim=64, value_dim=64, group=3, kv_heads=3))
@example(case=Case([(0, 150), (37, 119)], page_size=16, key_dim=64, value_dim=64, group=3, kv_heads=3, sliding_window=20))
@example(case=Case([(40, 41), (0, 1), (20, 49)], page_size=64, key_dim=80, value_dim=33, group=1, kv_heads=2))
@example(case=Case([(70, 71), (90, 99), (0, 40)], page_size=32, key_dim=64, value_dim=32, group=1, kv_heads=20))
def test_kernel_is_attention(dtype, name, case):
    """Would catch: any page, window, head, softcap, sink or rounding error of the kernel, and NaN from unwritten slots."""
    step = KernelStep(case, dtype)
    step.tolerance = TOLERANCES[dtype]
    step.assert_close(step.run(name), amx=name.startswith("amx"))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("dtype", "name"), KERNELS)
def test_result_does_not_depend_on_threads(dtype, name, threads):
    """Would catch: two threads that share scratch memory."""
    step = KernelStep(Case([(30, 31)] * 20 + [(0, 50)], page_size=4, kv_heads=3, group=2, key_dim=16, value_dim=16),
                      dtype)
    before = torch.get_num_threads()
    expected = step.run(name)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(step.run(name), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("dtype", "name"), KERNELS)
def test_a_sequence_is_attended_alike_alone_and_in_a_batch(dtype, name):
    """Would catch: results that depend on neighbours, which would make a path's tokens depend on them."""
    alone = Step(Case([(37, 38)], page_size=4, key_dim=16, value_dim=16), dtype)
    together = KernelStep(replace(alone.case, spans=[(37, 38), (0, 9), (12, 13)]), dtype)
    alone.__class__ = KernelStep
    for part in ("query", "keys", "values"):
        mine, its = getattr(alone, part), getattr(together, part)
        its[0] = mine[0]
    assert torch.equal(alone.run(name)[0], together.run(name)[0])


@pytest.mark.parametrize("page_size", [16, 5])
@pytest.mark.parametrize(("dtype", "name"), KERNELS)
def test_a_token_is_attended_alike_alone_and_in_a_prefill(dtype, name, page_size):
    """Would catch: other sums where many rows go through a tile than where few do, read in place or copied."""
    case = Case([(60, 100)], page_size=page_size, kv_heads=3, group=3, key_dim=64, value_dim=64)
    prefill, alone = KernelStep(case, dtype), KernelStep(replace(case, spans=[(99, 100)]), dtype)
    alone.query, alone.keys, alone.values = prefill.query[-1:], prefill.keys, prefill.values
    assert torch.equal(alone.run(name)[0], prefill.run(name)[-1])


class Tree:
    """Sequences whose page lists are random paths down a tree, so that runs of neighbours share pages, nested."""

    def __init__(self, seed, dtype, group=3, page_size=16):
        rng = np.random.default_rng(seed)
        self.dtype, self.group = dtype, group
        pages, ends = [[]], []
        while len(pages[-1]) < 9 and len(pages) < 40:  # each keeps some of its neighbour's full pages
            keep = int(rng.integers(0, max(len(pages[-1]), 1))) if rng.random() < 0.8 else 0
            own = int(rng.integers(1, 4))
            first = max((p for row in pages for p in row), default=-1) + 1
            pages.append(pages[-1][:keep] + list(range(first, first + own)))
            ends.append((keep + own) * page_size - int(rng.integers(0, page_size)))
        self.pages, self.ends = pages[1:], ends
        # What is computed now lies in a sequence's last page, which is its own.
        self.starts = [end - int(rng.integers(1, end - (end - 1) // page_size * page_size + 1)) for end in ends]
        generator = torch.Generator().manual_seed(seed)
        spec = LayerSpec(2, 24, 16, dtype, torch.device("cpu"))
        self.cache = KVCache({0: spec}, max(p for row in pages for p in row) + 1, page_size)
        self.cache.keys[0].normal_(generator=generator)
        self.cache.values[0].normal_(generator=generator)
        tokens = sum(self.ends) - sum(self.starts)
        self.query, self.key, self.value = (
            torch.randn(1, heads, tokens, dim, generator=generator).to(dtype)
            for heads, dim in ((2 * group, 24), (2, 24), (2, 16)))

    def attend(self, step, name="float32"):
        packed = CPUBackend().prepare(step).at(0)
        return cpu.attend(self.query, self.key, self.value, packed, 0.2, None, None, None, kernel("attend", name))

    def step(self):
        return EngineStep.build(self.cache, self.pages, self.starts, self.ends)


@pytest.mark.parametrize(("dtype", "name"), KERNELS)
@pytest.mark.parametrize("seed", range(12))
def test_sharing_pages_changes_no_bit(seed, dtype, name, monkeypatch):
    """Would catch: a segment that covers the wrong pages or rows, and sums whose order depends on who shares."""
    tree = Tree(seed, dtype)
    shared = tree.attend(tree.step(), name)
    alone = np.array([(0, i, i + 1, 0, end) for i, end in enumerate(tree.ends)])
    monkeypatch.setattr("leapgen.engine.backends.cpu.plan.shared_segments", lambda *_: alone)
    assert torch.equal(tree.attend(tree.step(), name), shared)


@pytest.mark.parametrize("tile", [1, 16, 32, 48])
@pytest.mark.parametrize("seed", range(12))
def test_segments_cover_every_position_once_and_only_shared_pages(seed, tile):
    """Would catch: a position read twice or never, a level out of order, pages that the run does not share."""
    tree = Tree(seed, torch.float32)
    step = tree.step()
    segments = shared_segments(step.page_table, step.kv_lengths, 16, tile)
    for i, end in enumerate(tree.ends):
        mine = sorted((level, start, stop) for level, first, last, start, stop in segments.tolist() if first <= i < last)
        assert [level for level, _, _ in mine] == list(range(len(mine)))
        assert [start for _, start, _ in mine] == [0, *(stop for _, _, stop in mine[:-1])]
        assert mine[-1][2] == end
    for _, first, last, start, stop in segments.tolist():
        assert start % tile == 0
        assert last - first == 1 or len({tuple(tree.pages[i][start // 16 : stop // 16]) for i in range(first, last)}) == 1
    if seed == 0:
        assert any(last - first > 1 for _, first, last, _, _ in segments.tolist())


def test_padding_is_left_alone():
    """Would catch: rows past the plan's that write KV or come back unset."""
    tree = Tree(3, torch.float32)
    step, tokens = tree.step(), tree.query.shape[2]
    expected = tree.attend(step)
    before = tree.cache.keys[0].clone()
    tree.query, tree.key, tree.value = (torch.cat([t, torch.full_like(t[:, :, :3], torch.nan)], dim=2)
                                        for t in (tree.query, tree.key, tree.value))
    padded = tree.attend(step)
    assert torch.equal(padded[:, :tokens], expected) and not padded[:, tokens:].any()
    assert torch.equal(tree.cache.keys[0], before)


@pytest.mark.parametrize(("dtype", "name"), KERNELS)
@settings(max_examples=60)
@given(rows=st.integers(1, 40), depth=st.integers(1, 90), columns=st.lists(st.integers(1, 40), min_size=1, max_size=3),
       bias=st.booleans(), strided=st.booleans(), threads=st.integers(1, 3))
@example(rows=9, depth=1405, columns=[21], bias=True, strided=False, threads=1)
@example(rows=200, depth=1284, columns=[16, 7], bias=False, strided=True, threads=2)
@example(rows=32, depth=1536, columns=[50], bias=True, strided=False, threads=2)
@example(rows=70, depth=96, columns=[64, 40], bias=True, strided=True, threads=2)
@example(rows=300, depth=64, columns=[700], bias=False, strided=True, threads=1)
def test_linear_is_a_matrix_product(dtype, name, rows, depth, columns, bias, strided, threads):
    """Would catch: edges of blocks, tails and runs of the sum, biases mixed up, two threads in one scratch buffer, and
    weights that straddle cache lines (as safetensors leaves them) taken for others."""
    generator = torch.Generator().manual_seed(rows * 1000 + depth)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    x = normal(1, rows, depth + 3)[..., :depth] if strided else normal(1, rows, depth)
    weights = [normal(c * depth + 4)[4 * strided :][: c * depth].view(c, depth) for c in columns]
    biases = [normal(c) if bias else None for c in columns]
    torch.set_num_threads(threads)
    try:
        outputs = cpu.linear(x, weights, biases, kernel("linear", name))
    finally:
        torch.set_num_threads(1)
    for output, weight, offset in zip(outputs, weights, biases, strict=True):
        exact = x.double() @ weight.double().T + (0 if offset is None else offset.double())
        scale = x.double().abs() @ weight.double().abs().T + 1  # the sum of the terms' sizes bounds what rounding can do
        error = (output.double() - exact).abs()
        assert output.shape == exact.shape and output.dtype == dtype
        assert (error <= depth * 2**-24 * scale + (2**-8 * exact.abs() if dtype == torch.bfloat16 else 0)).all()


@pytest.mark.parametrize(("dtype", "name"), KERNELS)
def test_no_rows_are_multiplied_to_none(dtype, name):
    """Would catch: a division by the number of passes over the rows."""
    nothing, weight = torch.empty(1, 0, 30, dtype=dtype), torch.ones(5, 30, dtype=dtype)
    assert cpu.linear(nothing, [weight], [None], kernel("linear", name))[0].shape == (1, 0, 5)


@pytest.mark.parametrize("depth", [203, 1403])
@pytest.mark.parametrize(("dtype", "name"), KERNELS)
def test_a_row_is_multiplied_alike_alone_and_in_a_batch(dtype, name, depth):
    """Would catch: sums whose order depends on the batch, which would make a path's tokens depend on other paths."""
    linear = kernel("linear", name)
    x, weight = torch.randn(300, depth).to(dtype), torch.randn(67, depth).to(dtype)
    together = cpu.linear(x, [weight], [None], linear)[0]
    for rows in (1, 2, 3, 4, 8, 9, 10, 32, 33, 49, 65, 80, 81, 96, 97, 112, 128, 129, 280):
        assert torch.equal(cpu.linear(x[:rows], [weight], [None], linear)[0], together[:rows])
    assert torch.equal(cpu.linear(x[7:8], [weight], [None], linear)[0], together[7:8])


GATES = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu}


def gated_case(rows, depth, inner, columns, bias, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=generator)).bfloat16()

    x, outer = normal(rows, depth), (inner, inner, columns)
    weights = [normal(c, d, scale=2 * d**-0.5) for c, d in zip(outer, (depth, depth, inner), strict=True)]
    return x, weights, [normal(c) if bias else None for c in outer]


@pytest.mark.parametrize(("dtype", "name"), KERNELS[2:])
@settings(max_examples=60)
@given(rows=st.integers(1, 40), depth=st.integers(1, 90), steps=st.integers(1, 4), columns=st.integers(1, 70),
       bias=st.booleans(), gate=st.sampled_from(sorted(GATES)), threads=st.integers(1, 3), seed=st.integers(0, 99))
@example(rows=130, depth=96, steps=3, columns=40, bias=True, gate="silu", threads=2, seed=0)
@example(rows=70, depth=64, steps=2, columns=33, bias=False, gate="gelu_tanh", threads=1, seed=0)
@example(rows=1030, depth=64, steps=2, columns=32, bias=True, gate="relu", threads=2, seed=0)
def test_gated_layers_are_their_product(dtype, name, rows, depth, steps, columns, bias, gate, threads, seed):
    """Would catch: gate and factor changed over, a tile of what lies between stored in another's place, rows past the last
    one that reach it, activations outside their error."""
    x, weights, biases = gated_case(rows, depth, TILE_DEPTH * steps, columns, bias, seed)
    torch.set_num_threads(threads)
    try:
        y = cpu.gated(x, gate, weights, biases, kernel("gated", name))
    finally:
        torch.set_num_threads(1)
    (v, w, u), (a, b, c) = [m.double() for m in weights], [0 if m is None else m.double() for m in biases]
    x = x.double()
    g, f = x @ v.T + a, x @ w.T + b
    product = GATES[gate](g) * f
    exact = product @ u.T + c
    sums = depth * 2**-24 * (x.abs() @ v.abs().T + 1), depth * 2**-24 * (x.abs() @ w.abs().T + 1)  # by rounding, of g and f
    activated = GATES[gate](g).abs()
    between = 2**-8 * product.abs() + (1.13 * sums[0] + 1e-5 * activated + 1e-6 * g.abs()) * f.abs() + activated * sums[1]
    bound = between @ u.abs().T + len(u.T) * 2**-24 * (product.abs() @ u.abs().T + 1) + 2**-8 * exact.abs()
    assert y.shape == exact.shape and y.dtype == dtype
    assert ((y.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize(("dtype", "name"), KERNELS[2:])
def test_a_row_passes_gated_layers_alike_alone_and_in_a_batch(dtype, name):
    """Would catch: sums whose order depends on the batch; a tile of another row's."""
    x, weights, biases = gated_case(300, 203, 96, 67, True, 0)
    gated = kernel("gated", name)
    together = cpu.gated(x, "silu", weights, biases, gated)
    for rows in (1, 2, 16, 17, 32, 33, 80, 97, 128, 129, 280):
        assert torch.equal(cpu.gated(x[:rows], "silu", weights, biases, gated), together[:rows])
    assert torch.equal(cpu.gated(x[7:8], "silu", weights, biases, gated), together[7:8])


@pytest.mark.parametrize(("dtype", "name"), KERNELS[2:])
@pytest.mark.parametrize("gate", GATES)
def test_not_a_number_passes_gated_layers(dtype, name, gate):
    """Would catch: an overflow hidden by an approximation: the engine has to name the path and position it came from."""
    x, weights, biases = gated_case(3, 64, 64, 32, False, 0)
    x[1, 5] = torch.nan
    y = cpu.gated(x, gate, weights, biases, kernel("gated", name))
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@settings(max_examples=80)
@given(vocab=st.integers(1, 700), k=st.integers(1, 60), levels=st.sampled_from([3, 50, 10**6]), seed=st.integers(0, 999),
       hidden=st.floats(0, 1), strided=st.booleans(), normalise=st.booleans())
def test_candidates_are_the_sorted_row_s_head(dtype, vocab, k, levels, seed, hidden, strided, normalise):
    """Would catch: a threshold that loses one of the k, ties dropped or out of order, block tails, masked logits."""
    k = min(k, vocab)
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(4, vocab + strided, generator=generator) * 4)[:, :vocab]
    logits = ((logits * levels).round() / levels).to(dtype)
    logits[torch.rand(logits.shape, generator=generator) < hidden * 0.9] = -torch.inf
    logits[:, seed % vocab] = 1.0
    room = k + 8
    normalisers, scores, ids = cpu.candidates(logits, k, room, normalise)
    exact = logits.double()
    expected = exact.logsumexp(dim=1) if normalise else exact.amax(dim=1)
    torch.testing.assert_close(normalisers.double(), expected, rtol=1e-6, atol=2e-6)
    ranked, order = exact.sort(dim=1, descending=True, stable=True)
    counts = (exact >= ranked[:, k - 1 : k]).sum(dim=1)
    if counts.max() > room:
        assert scores is None and ids is None
        return
    for row, count in enumerate(counts.tolist()):
        assert torch.equal(scores[row, :count].double(), ranked[row, :count])
        assert torch.equal(ids[row, :count], order[row, :count])
        assert (scores[row, count:] == -torch.inf).all()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@settings(max_examples=60)
@given(vocab=st.integers(40, 500), k=st.integers(1, 30), levels=st.sampled_from([3, 10**6]), seed=st.integers(0, 999),
       temperature=st.floats(0.2, 2), top_p=st.sampled_from([0.3, 0.9, 1.0]), min_p=st.sampled_from([0.0, 0.05, 0.5]))
def test_a_draw_is_the_sampler_s(dtype, vocab, k, levels, seed, temperature, top_p, min_p):
    """Would catch: a filter left out, a tie cut off, weights or the target summed over other tokens than may be drawn."""
    generator = torch.Generator().manual_seed(seed)
    logits = ((torch.randn(5, vocab, generator=generator) * 4 * levels).round() / levels).to(dtype)
    uniforms = torch.rand(5, generator=generator, dtype=torch.float64)
    # Whether a token on the very edge of a filter is kept is a matter of rounding.
    weights = (logits.double().sort(dim=1, descending=True)[0] / temperature).softmax(dim=1)
    kept = weights.masked_fill(weights < weights[:, k - 1 : k], 0)
    assume(min_p == 0 or ((weights / weights[:, :1] - min_p).abs() > 1e-5).all())
    assume(top_p == 1 or ((kept.cumsum(1) / kept.sum(1, keepdim=True) - top_p).abs() > 1e-5).all())
    drawn = cpu.draw(logits, k, vocab, True, temperature, top_p, min_p, uniforms.numpy())
    config = SamplingConfig(temperature=temperature, top_k=k, top_p=top_p, min_p=min_p)
    tokens, logprobs = draw(logits.double(), config, uniforms)
    same = drawn.tokens == tokens
    assert same.sum() >= 4  # a number on the very edge of two tokens may fall to either side
    torch.testing.assert_close(drawn.logprobs[same].double(), logprobs[same], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drawn.logits, logits.gather(1, drawn.tokens[:, None])[:, 0].float())
    torch.testing.assert_close(drawn.normalisers.double(), logits.double().logsumexp(1), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 63, 64, 129])
def test_candidates_of_a_row_that_is_not_finite_say_so(bad, place):
    """Would catch: NaN lost in a comparison; a row without any token to draw taken for one with."""
    logits = torch.randn(2, 130)
    logits[1, place] = bad
    if bad == -torch.inf:
        logits[1] = bad
    normalisers = cpu.candidates(logits, 5, 10, True)[0]
    assert normalisers[0].isfinite() and not normalisers[1].isfinite()


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
