"""Paged attention against attention written out sequence by sequence, head by head, query by query."""

from copy import copy
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from leapgen_kernels import cpu

from leapgen.engine import step as steps
from leapgen.engine.backends.cpu.backend import CPUBackend
from leapgen.engine.backends.reference import ReferenceBackend, paged_attention
from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.model.attention import UnsupportedAttentionError, attention_forward
from leapgen.engine.model.probe import Probe

# The engine computes in float32 (float64 for float64) and rounds once, at the end: bfloat16 keeps 8 bits.
TOLERANCES = {torch.float64: {"rtol": 1e-11, "atol": 1e-12}, torch.float32: {"rtol": 2e-5, "atol": 2e-6},
              torch.bfloat16: {"rtol": 2**-8, "atol": 1e-5}, torch.float16: {"rtol": 2**-10, "atol": 1e-5}}


@dataclass
class Case:
    """Shapes and settings of one step. ``spans`` are (start, end): positions computed now, of each sequence."""

    spans: list[tuple[int, int]]
    page_size: int = 3
    kv_heads: int = 2
    group: int = 2
    key_dim: int = 4
    value_dim: int = 6
    scaling: float | None = None
    sliding_window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    seed: int = 0


class Step:
    """A case with numbers in it; everything of the pool that no sequence has written is NaN."""

    def __init__(self, case, dtype, layer=0):
        self.case, self.dtype, self.layer = case, dtype, layer
        self.tolerance = TOLERANCES[dtype]
        self.generator = torch.Generator().manual_seed(case.seed)
        heads, size = case.kv_heads * case.group, case.page_size
        total = sum(end - start for start, end in case.spans)
        self.query = self.normal(total, heads, case.key_dim)
        self.keys = [self.normal(end, case.kv_heads, case.key_dim) for _, end in case.spans]
        self.values = [self.normal(end, case.kv_heads, case.value_dim) for _, end in case.spans]
        self.sinks = self.normal(heads) if case.sinks else None
        # Pages in no order, some held ahead of need, some belonging to nobody.
        counts = [-(-end // size) + int(torch.randint(0, 3, (), generator=self.generator)) for _, end in case.spans]
        num_pages = sum(counts) + 2
        shuffled = torch.randperm(num_pages, generator=self.generator).tolist()
        self.pages = [[shuffled.pop() for _ in range(count)] for count in counts]
        spec = LayerSpec(case.kv_heads, case.key_dim, case.value_dim, dtype, torch.device("cpu"))
        self.cache = KVCache({layer: spec}, num_pages, size)
        self.cache.keys[layer].fill_(torch.nan)
        self.cache.values[layer].fill_(torch.nan)
        starts, ends = zip(*case.spans, strict=True)
        self.step = steps.Step.build(self.cache, self.pages, list(starts), list(ends))

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).mul(1.5).to(self.dtype)

    def slot(self, i, position):
        return self.pages[i][position // self.case.page_size] * self.case.page_size + position % self.case.page_size

    def store(self, computed_now):
        """Puts the history into the pages, and this step's keys and values too if asked."""
        for i, (start, end) in enumerate(self.case.spans):
            for position in range(end if computed_now else start):
                self.cache.keys[self.layer].flatten(0, 1)[self.slot(i, position)] = self.keys[i][position]
                self.cache.values[self.layer].flatten(0, 1)[self.slot(i, position)] = self.values[i][position]

    @property
    def options(self):
        """What the layer asks for."""
        case = self.case
        return {"scaling": case.key_dim**-0.5 if case.scaling is None else case.scaling,
                "sliding_window": case.sliding_window, "softcap": case.softcap, "sinks": self.sinks}

    @property
    def handed_over(self):
        """Query, key and value of this step as models hand them over, [1, heads, tokens, dim]: in memory either way."""
        key, value = (torch.cat([part[start:end] for part, (start, end) in zip(parts, self.case.spans, strict=True)])
                      for parts in (self.keys, self.values))
        query, key, value = (tensor.transpose(0, 1)[None] for tensor in (self.query, key, value))
        return query.contiguous(), key.contiguous(), value

    @property
    def prepared(self):
        return ReferenceBackend().prepare(self.step)

    def run(self):
        self.store(computed_now=True)
        return paged_attention(self.query, self.cache.keys[self.layer], self.cache.values[self.layer], self.prepared,
                               **self.options)

    def attend(self, backend):
        """By a backend: it stores this step's keys and values itself."""
        self.store(computed_now=False)
        return backend.attend(self.layer, *self.handed_over, backend.prepare(self.step), **self.options)[0]

    def expected(self):
        """[tokens, heads, value_dim] float64."""
        case, rows, output = self.case, iter(self.query.double()), []
        scaling = case.key_dim**-0.5 if case.scaling is None else case.scaling
        for (start, end), keys, values in zip(case.spans, self.keys, self.values, strict=True):
            for position in range(start, end):
                first = 0 if case.sliding_window is None else max(0, position - case.sliding_window + 1)
                row = next(rows)
                output.append(torch.stack([
                    self.one(row[head] * scaling, keys[first : position + 1, head // case.group].double(),
                             values[first : position + 1, head // case.group].double(), head)
                    for head in range(case.kv_heads * case.group)]))
        return torch.stack(output)

    def assert_close(self, actual, amx=False):
        """By matrix tiles (``amx``) weights, too, are rounded to bfloat16: by 2**-8 of each at most, as the result is."""
        assert actual.dtype == self.dtype
        expected = self.expected()
        if not amx:
            torch.testing.assert_close(actual.double(), expected, **self.tolerance)
            return
        sizes = copy(self)
        sizes.values = [values.abs() for values in self.values]
        bound = 1.01 * 2**-8 * (sizes.expected() + expected.abs()) + self.tolerance["atol"]
        assert ((actual.double() - expected).abs() <= bound).all()

    def one(self, query, keys, values, head):
        scores = keys @ query
        if self.case.softcap is not None:
            scores = self.case.softcap * torch.tanh(scores / self.case.softcap)
        weights = scores.exp()
        total = weights.sum() + (0 if self.sinks is None else self.sinks[head].double().exp())
        return weights @ values / total


@st.composite
def spans(draw):
    """A mixed step: decodes (one token after a history), whole prefills, and chunks of prefills."""
    start = st.integers(0, 40)
    decode = st.builds(lambda s: (s, s + 1), start)
    chunk = st.builds(lambda s, n: (s, s + n), start, st.integers(1, 20))
    return draw(st.lists(decode | chunk, min_size=1, max_size=6))


CASES = st.builds(
    Case, spans=spans(), page_size=st.sampled_from([1, 3, 16]), kv_heads=st.integers(1, 3), group=st.integers(1, 4),
    key_dim=st.integers(1, 9), value_dim=st.integers(1, 9), scaling=st.none() | st.floats(0.05, 1.0),
    sliding_window=st.none() | st.integers(1, 30), softcap=st.none() | st.floats(0.5, 30), sinks=st.booleans(),
    seed=st.integers(0, 1 << 30))
MIXED = [(12, 13), (0, 7), (5, 12), (30, 31), (0, 1), (16, 32), (0, 7)]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@settings(max_examples=60, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
@given(case=CASES)
@example(case=Case(MIXED, page_size=16, sliding_window=5, softcap=2.0, sinks=True, scaling=0.3))
@example(case=Case(MIXED, page_size=1, kv_heads=1, group=5, key_dim=7, value_dim=3))
@example(case=Case([(63, 64), (0, 1), (47, 49)], page_size=16, sliding_window=1, sinks=True))
def test_paged_attention_is_attention(dtype, case):
    """Would catch: wrong head grouping, page addressing, window edges, scaling after the cap, sinks that carry a value,
    results in the wrong row, half-precision sums, and NaN from slots that no one has written.
    """
    step = Step(case, dtype)
    step.assert_close(step.run())


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize(("backend", "dtype"), [
    (ReferenceBackend, torch.float64), (ReferenceBackend, torch.bfloat16),
    pytest.param(CPUBackend, torch.bfloat16, marks=pytest.mark.skipif(
        cpu.library() is None, reason="built without a C++ compiler"))])
def test_the_attention_function_writes_then_attends(page_size, backend, dtype):
    """Would catch: a step that reads what it has not yet written, writes into another's slots, or drops an argument."""
    case = Case(MIXED, page_size=page_size, sliding_window=6, softcap=3.0, sinks=True, scaling=0.4)
    step = Step(case, dtype, layer=5)
    step.store(computed_now=False)
    module = SimpleNamespace(layer_idx=5, is_causal=True)
    actual, weights = attention_forward(module, *step.handed_over, None, leapgen_plan=backend().prepare(step.step),
                                        scaling=0.4, sliding_window=6, softcap=3.0, s_aux=step.sinks)
    assert weights is None
    step.assert_close(actual[0], amx=backend is CPUBackend and cpu.amx())
    written = Step(case, dtype, layer=5)  # the same numbers, stored by the test
    written.store(computed_now=True)
    for mine, theirs in ((step.cache.keys, written.cache.keys), (step.cache.values, written.cache.values)):
        torch.testing.assert_close(mine[5], theirs[5], rtol=0, atol=0, equal_nan=True)


def test_scaling_defaults_to_the_square_root_of_the_key_width():
    """Would catch: a default taken from the value width, or none."""
    step = Step(Case([(0, 5)], key_dim=5, value_dim=3), torch.float64)
    packed = (tensor.transpose(0, 1)[None] for tensor in (step.query, step.keys[0], step.values[0]))
    actual, _ = attention_forward(SimpleNamespace(layer_idx=0), *packed, None, leapgen_plan=step.prepared)
    torch.testing.assert_close(actual[0], step.expected(), **TOLERANCES[torch.float64])


@pytest.mark.parametrize(("arguments", "module", "message"), [
    ({"attention_mask": torch.zeros(1)}, {}, "attention mask of its own"),
    ({"dropout": 0.1}, {}, "dropout"),
    ({"is_causal": False}, {}, "not causal"),
    ({}, {"is_causal": False}, "not causal"),
    ({}, {"layer_idx": None}, "layer_idx"),
    ({"position_bias": torch.zeros(1)}, {}, "position_bias="),
    ({"head_mask": torch.ones(4)}, {}, "head_mask="),
    ({"more_keys": True}, {}, "cross-attention"),
], ids=["mask", "dropout", "argument not causal", "module not causal", "layer_idx", "bias", "head mask", "cross"])
def test_what_attention_cannot_honour_is_refused_and_nothing_is_written(arguments, module, message):
    """Would catch: an argument that is swallowed, so that the model computes something else than it says."""
    step = Step(Case([(0, 3)]), torch.float32)
    packed = [tensor.transpose(0, 1)[None] for tensor in (step.query, step.keys[0], step.values[0])]
    arguments = dict(arguments)
    if arguments.pop("more_keys", False):
        packed[1:] = [torch.cat([tensor, tensor], dim=2) for tensor in packed[1:]]
    mask = arguments.pop("attention_mask", None)
    with pytest.raises(UnsupportedAttentionError, match=message):
        attention_forward(SimpleNamespace(**{"layer_idx": 0, **module}), *packed, mask, leapgen_plan=step.prepared,
                          **arguments)
    assert step.cache.keys[0].isnan().all()
    assert step.cache.values[0].isnan().all()


def test_arguments_that_change_nothing_are_let_through():
    """Would catch: a check so strict that models which pass their bookkeeping along are refused."""
    step = Step(Case([(0, 3)]), torch.float64)
    packed = [tensor.transpose(0, 1)[None] for tensor in (step.query, step.keys[0], step.values[0])]
    actual, _ = attention_forward(
        SimpleNamespace(layer_idx=0), *packed, None, leapgen_plan=step.prepared, position_ids=torch.arange(3)[None],
        use_cache=False, output_attentions=False, head_mask=None, cu_seq_lens_q=torch.tensor([0, 3]), max_length_k=3)
    torch.testing.assert_close(actual[0], step.expected(), **TOLERANCES[torch.float64])


@settings(max_examples=60)
@given(case=CASES)
def test_a_step_addresses_every_position_once(case):
    """Would catch: slots that collide or fall outside the sequence's pages, positions that restart or run on."""
    step = Step(case, torch.float32)
    plan, prepared = step.step, step.prepared
    expected = [(step.slot(i, position), position) for i, (start, end) in enumerate(case.spans)
                for position in range(start, end)]
    assert list(zip(plan.slots.tolist(), plan.positions.tolist(), strict=True)) == expected
    assert len(set(plan.slots.tolist())) == len(expected)
    assert plan.kv_lengths.tolist() == [end for _, end in case.spans]
    assert np.diff(plan.query_starts).tolist() == [end - start for start, end in case.spans]
    tensors = prepared.on(torch.device("cpu"))
    assert tensors is prepared.on(torch.device("cpu")), "moved more than once"
    assert all(tensor.dtype == torch.int64 for tensor in tensors)


def test_copying_a_page_copies_every_layer_and_nothing_else():
    """Would catch: a copy-on-write that leaves a layer, or keys or values, behind."""
    specs = {i: LayerSpec(1 + i, 2, 3, torch.float32, torch.device("cpu")) for i in (0, 1, 4)}
    cache = KVCache(specs, num_pages=5, page_size=3)
    tensors = [*cache.keys.values(), *cache.values.values()]
    for tensor in tensors:
        tensor.normal_()
    before = [tensor.clone() for tensor in tensors]
    cache.copy_page(3, 1)
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor[1], old[3])
        assert torch.equal(tensor[[0, 2, 3, 4]], old[[0, 2, 3, 4]])


def test_bytes_per_token_are_those_of_the_tensors():
    """Would catch: a limit in bytes that counts keys only, or heads instead of KV heads."""
    cpu = torch.device("cpu")
    specs = {0: LayerSpec(2, 5, 3, torch.bfloat16, cpu), 1: LayerSpec(1, 4, 4, torch.float32, cpu)}
    cache = KVCache(specs, num_pages=7, page_size=3)
    held = sum(t.numel() * t.element_size() for t in (*cache.keys.values(), *cache.values.values()))
    assert cache.bytes_per_token * 7 * 3 == held


def test_a_probe_learns_what_layers_hand_over():
    """Would catch: a geometry guessed from the config, which multi-head latent attention does not follow."""
    probe = Probe(ReferenceBackend(), KVCache({}, num_pages=2, page_size=2))
    prepared = probe.prepare(steps.Step.build(probe.cache, [[1, 0]], [0], [3]))
    double = torch.ones(1, 1, 3, 4, dtype=torch.float64)
    for layer, window, key, value in ((3, 5, torch.ones(1, 2, 3, 5), torch.ones(1, 2, 3, 7)), (0, None, double, double)):
        module = SimpleNamespace(layer_idx=layer)
        output, _ = attention_forward(module, key, key, value, None, leapgen_plan=prepared, sliding_window=window)
        assert torch.equal(output, torch.ones_like(value).transpose(1, 2))
    assert probe.calls == [3, 0] and probe.windows == {3: 5, 0: None}
    assert prepared.layers == probe.cache.specs == {3: LayerSpec(2, 5, 7, torch.float32, torch.device("cpu")),
                                                    0: LayerSpec(1, 4, 4, torch.float64, torch.device("cpu"))}


@pytest.mark.parametrize("change", [
    lambda q, k, v: (q.double(), k.double(), v.double()),
    lambda q, k, v: (q.double(), k, v), lambda q, k, v: (q, k, v.double()),
    lambda q, k, v: (q, k[:, :1], v[:, :1]), lambda q, k, v: (q[..., 1:], k[..., 1:], v), lambda q, k, v: (q, k, v[..., 1:]),
    lambda q, k, v: (q.to("meta"), k.to("meta"), v.to("meta"))],
    ids=["dtype", "query's dtype", "value's dtype", "heads", "key width", "value width", "device"])
def test_what_the_pool_does_not_hold_is_refused(change):
    """Would catch: a kernel, which sees addresses only, that reads and writes past them."""
    step = Step(Case([(0, 3)]), torch.float32)
    with pytest.raises(UnsupportedAttentionError, match="which the KV pool does not hold"):
        attention_forward(SimpleNamespace(layer_idx=0), *change(*step.handed_over), None, leapgen_plan=step.prepared)
    assert step.cache.keys[0].isnan().all()
