"""The Triton kernels against attention written out in float64: on a GPU if there is one, else in the interpreter."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from leapgen_kernels import gpu
from test_attention import Case, Step

from leapgen.engine.backends.cuda.backend import CUDABackend
from leapgen.engine.backends.cuda.tiles import Attends, cut
from leapgen.engine.sharing import shared_segments
from leapgen.engine.step import Step as EngineStep

pytestmark = pytest.mark.skipif(gpu.library() is None, reason="Triton is not installed")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Products are exact and sums float32. A half-precision weight and the output are rounded once each: twice 2^-8 in
# bfloat16 (the interpreter cuts off instead, which is twice as much), twice 2^-11 in float16, of the attention over the
# values' sizes.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7 if DEVICE.type == "cuda" else 2**-6, torch.float16: 2**-10}


class KernelStep(Step):
    """A step whose layer is stored and attended to by the Triton kernels."""

    @cached_property
    def plan(self):
        return CUDABackend().prepare(self.step)

    def run(self):
        cache, layer = self.cache, self.layer
        self.store(computed_now=False)
        keys, values = cache.keys[layer].to(DEVICE), cache.values[layer].to(DEVICE)
        query, key, value = (tensor.to(DEVICE) for tensor in self.handed_over)
        sinks = None if self.sinks is None else self.sinks.to(DEVICE)
        output = gpu.attend(query, key, value, keys, values, self.plan.tiles(Attends.of(query, key)),
                            **{**self.options, "sinks": sinks})
        cache.keys[layer], cache.values[layer] = keys.cpu(), values.cpu()
        return output[0].cpu()

    def error_in_roundings(self):
        """The largest error, in units of what rounding may do."""
        actual, expected = self.run(), self.expected()
        assert actual.dtype == self.dtype and actual.shape == expected.shape and actual.isfinite().all()
        self.values = [value.abs() for value in self.values]
        bound = ROUNDING[self.dtype] * (self.expected() + 1e-2)
        return float(((actual.double() - expected).abs() / bound).max())


MIXED = [(12, 13), (0, 4), (5, 8), (30, 31), (0, 1)]  # few tokens: the interpreter takes milliseconds for each row
CASES = {
    "one token": Case([(0, 1)]),
    "decode": Case([(12, 13), (0, 1), (140, 141)], page_size=16, kv_heads=2, group=3, key_dim=16, value_dim=16),
    "mixed": Case(MIXED, page_size=16),
    "pages of one": Case(MIXED, page_size=1, kv_heads=1, group=5, key_dim=7, value_dim=3),
    "odd widths": Case([(40, 41), (0, 1), (70, 78)], page_size=64, key_dim=40, value_dim=33, group=1, kv_heads=2),
    "wide values": Case([(9, 10), (3, 5)], page_size=4, key_dim=5, value_dim=70, group=4, kv_heads=1),
    "window": Case([(150, 151), (0, 2), (60, 66)], page_size=16, sliding_window=17),
    "window of one": Case([(63, 64), (0, 1), (47, 49)], page_size=16, sliding_window=1, sinks=True),
    "softcap": Case(MIXED, page_size=3, softcap=2.0, scaling=0.9, group=1),
    "sinks": Case([(12, 13), (0, 1), (5, 8)], page_size=3, sinks=True, group=3),
    "all at once": Case(MIXED, page_size=16, sliding_window=5, softcap=2.0, sinks=True, scaling=0.3),
    "group of 17": Case([(12, 13), (0, 2)], page_size=4, kv_heads=1, group=17, key_dim=8, value_dim=8),
    "group wider than a tile": Case([(12, 13)], page_size=4, kv_heads=1, group=71, key_dim=8, value_dim=8),
}
HALF = ("decode", "mixed", "all at once", "odd widths")


@pytest.mark.parametrize(("name", "dtype"), [(name, torch.float32) for name in CASES] + [
    (name, dtype) for name in HALF for dtype in (torch.bfloat16, torch.float16)], ids=str)
def test_kernels_are_attention(name, dtype):
    """Would catch: any page, window, head, softcap, sink or rounding error, NaN from slots that no one has written."""
    assert KernelStep(CASES[name], dtype).error_in_roundings() <= 1


@pytest.mark.parametrize("seed", range(4))
def test_random_steps(seed):
    """Would catch: an edge between pieces, pages or blocks that the cases above do not have."""
    rng = np.random.default_rng(seed)
    spans = [(start := int(rng.integers(0, 300)), start + (1 if rng.random() < 0.6 else int(rng.integers(1, 9))))
             for _ in range(int(rng.integers(1, 4)))]
    case = Case(spans, page_size=int(rng.choice([2, 16, 32])), kv_heads=int(rng.integers(1, 3)),
                group=int(rng.integers(1, 5)), key_dim=24, value_dim=16, sliding_window=[None, 33][seed % 2], seed=seed)
    assert KernelStep(case, torch.float32).error_in_roundings() <= 1


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_the_store_writes_its_slots_and_nothing_else(dtype):
    """Would catch: a key or value in another's slot, a head out of place, a write past the head's width."""
    case = Case(MIXED, page_size=3, kv_heads=3, key_dim=5, value_dim=9)
    step, written = KernelStep(case, dtype), Step(case, dtype)
    step.run()
    written.store(computed_now=True)
    for mine, theirs in ((step.cache.keys, written.cache.keys), (step.cache.values, written.cache.values)):
        torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=0, equal_nan=True)


class SharingStep(KernelStep):
    """A step of sequences that are paths down a random tree: neighbours share pages, nested."""

    def __init__(self, case, dtype, seed):
        rng = np.random.default_rng(seed)
        size, pages, self.parents = case.page_size, [[]], []
        for i in range(5):
            keep = int(rng.integers(1, len(pages[-1]))) if len(pages[-1]) > 1 and rng.random() < 0.8 else 0
            free = max((p for row in pages for p in row), default=-1) + 1
            pages.append(pages[-1][:keep] + list(range(free, free + int(rng.integers(2, 5)))))
            self.parents.append((i - 1, keep * size))
        spans = []
        for row, (_, shared) in zip(pages[1:], self.parents, strict=True):  # computed now: what is a sequence's own
            end = len(row) * size - int(rng.integers(0, size))
            spans.append((int(rng.integers(max(shared, end - 2), end)), end))
        super().__init__(replace(case, spans=spans), dtype)
        for i, (parent, shared) in enumerate(self.parents):
            if shared:
                for parts in (self.keys, self.values):
                    parts[i][:shared] = parts[parent][:shared]
        self.pages = pages[1:]
        spec = self.cache.specs[0]
        self.cache = type(self.cache)({0: spec}, max(p for row in pages for p in row) + 1, size)
        self.cache.keys[0].fill_(torch.nan)
        self.cache.values[0].fill_(torch.nan)
        self.step = EngineStep.build(self.cache, self.pages, *map(list, zip(*spans, strict=True)))


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_shared_pages_are_attended_to_by_all_who_share_them(seed, dtype):
    """Would catch: a tile that covers the wrong tokens or pages, a part that overwrites another, one merged twice."""
    case = Case([], page_size=8, kv_heads=2, group=[1, 3, 5, 9][seed], key_dim=16, value_dim=8, sinks=seed == 1,
                sliding_window=[None, None, 21, None][seed])
    step = SharingStep(case, dtype, seed)
    tiles = step.plan.tiles(Attends(DEVICE, 2 * case.group, 2, dtype))
    shared = shared_segments(step.step.page_table, step.step.kv_lengths, 8)
    assert (shared[:, 2] - shared[:, 1] > 1).any() and (len(tiles.wide) or case.group < 5)
    assert step.error_in_roundings() <= 1


def test_padding_stores_nothing_and_comes_back_as_zeros():
    """Would catch: a padded row of a graph that writes into a page, or NaN that runs through its layer."""
    step = KernelStep(Case([(12, 13), (5, 6)], page_size=4), torch.float32)
    expected = step.run()
    attends = Attends(DEVICE, 4, 2, torch.float32)
    tiles = step.plan.tiles(attends)

    def padded(tensor, rows, with_what):
        return torch.cat([tensor, tensor.new_full((rows, *tensor.shape[1:]), with_what)])

    step.plan._tiles[attends] = tiles._replace(
        slots=padded(tiles.slots, 2, -1), positions=padded(tiles.positions, 2, 0),
        part_starts=padded(tiles.part_starts, 2, int(tiles.part_starts[-1])), narrow=padded(tiles.narrow, 3, 0),
        wide=padded(tiles.wide, 3, 0), num_parts=tiles.num_parts + 5)
    step.query = padded(step.query, 2, torch.nan)
    step.keys.append(step.keys[0][:2] * torch.nan)
    step.values.append(step.values[0][:2] * torch.nan)
    before = step.cache.keys[0].clone()
    step.case.spans.append((0, 2))
    step.store = lambda computed_now: None
    actual = step.run()
    assert torch.equal(actual[:2], expected) and not actual[2:].any()
    assert torch.equal(step.cache.keys[0].nan_to_num(7), before.nan_to_num(7))


def test_kernels_compile_for_a_gpu(tmp_path):
    """Would catch: what the interpreter lets pass and the compiler does not; more shared memory than a program may have."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).with_name("compiled_kernels.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    shared = json.loads(done.stdout.splitlines()[-1])
    assert len(shared) == 7 and max(shared.values()) < 227 << 10, shared


def test_steps_of_nobody_run():
    """Would catch: an empty launch, which is an error on a GPU."""
    step = KernelStep(Case([(0, 1)]), torch.float32)
    plan = CUDABackend().prepare(EngineStep.build(step.cache, [], [], []))
    query, key, value = (torch.ones(1, heads, 0, dim, device=DEVICE) for heads, dim in ((4, 4), (2, 4), (2, 6)))
    output = gpu.attend(query, key, value, step.cache.keys[0].to(DEVICE), step.cache.values[0].to(DEVICE),
                        plan.tiles(Attends.of(query, key)), scaling=1.0)
    assert output.shape == (1, 0, 4, 6)


@pytest.mark.parametrize("seed", range(20))
def test_tiles_cover_every_position_once(seed):
    """Would catch: a position that a token attends to twice or never, pages it does not have, a part without a place,
    more tiles than a graph has capacity for."""
    rng = np.random.default_rng(seed)
    step = SharingStep(Case([], page_size=8), torch.float32, seed)
    plan, target = step.step, int(rng.integers(1, 30))
    narrow, wide = int(rng.integers(1, 4)), int(rng.integers(4, 20))
    segments = shared_segments(plan.page_table, plan.kv_lengths, 8)
    stride = plan.page_table.shape[1]
    tiles = cut(segments, plan.query_starts, stride, narrow, wide, target)
    tokens = plan.query_starts[segments[:, 2]] - plan.query_starts[segments[:, 1]]
    blocks = [int((-(-t // w)).sum()) for t, w in ((tokens[tokens <= narrow], narrow), (tokens[tokens > narrow], wide))]
    assert len(tiles.narrow) <= target + blocks[0] and len(tiles.wide) <= target + blocks[1]
    owner = np.repeat(np.arange(len(step.pages)), np.diff(plan.query_starts))
    places, seen = set(), {token: [] for token in range(len(owner))}
    for first, count, pages, start, end, part, *_ in np.concatenate([tiles.narrow, tiles.wide]).tolist():
        assert 1 <= count <= wide and start < end
        for token in range(first, first + count):
            mine = step.pages[owner[token]]
            of_tile = plan.page_table.ravel()[pages : pages + stride].tolist()
            assert of_tile[start // 8 : -(-end // 8)] == mine[start // 8 : -(-end // 8)]
            seen[token] += range(start, end)
            place = int(tiles.part_starts[token]) + part
            assert place < tiles.part_starts[token + 1] and place not in places
            places.add(place)
    assert places == set(range(tiles.part_starts[-1]))
    assert all(sorted(positions) == list(range(plan.kv_lengths[owner[token]])) for token, positions in seen.items())
