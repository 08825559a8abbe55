"""Decode steps as CUDA graphs: one launch a step, whatever the model's code does between its kernels.

A graph is captured for each of some batch sizes; a step with fewer sequences is padded to the next. Everything that
differs from step to step lies in arrays whose addresses stay: token ids, positions, page table, tiles, sampling
settings and random numbers go to the device in one copy, drawn tokens come back in one.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from leapgen_kernels import gpu
from torch import Tensor, nn

from leapgen.engine.backends import seams
from leapgen.engine.backends.cuda.tiles import Attends, StaticPlan, Tiled, TileList, TilePlan, cut
from leapgen.engine.memory.holding import no_pages
from leapgen.engine.memory.kv import KVCache
from leapgen.engine.model.paged_model import PagedModel
from leapgen.engine.sampling import device as device_sampling
from leapgen.engine.sampling.host import Sampled, sample
from leapgen.engine.sampling.random import UniformBlocks
from leapgen.engine.scheduler import Chunk
from leapgen.engine.sharing import shared_segments
from leapgen.engine.step import Step, StepBackend

logger = logging.getLogger(__name__)

PARTS_EACH = 48  # capacity for parts, a sequence; a step that needs more is cut without sharing
MAX_SIZE = 512  # sequences of a captured step; more keep the device busy as they are
Capture = Callable[[Callable[[], None]], Callable[[], None]]  # what runs a step once -> what runs it again


class DecodeGraphs:
    """Serves steps in which every sequence computes its last token and samples.

    Args:
        paged: the model, on one device with the cache.
        backend: attends by ``Tiled`` plans.
        compile: compile the decoder layers for the graphs, so that small operations become one.
        capture: makes a step repeatable. A test may run it again as it is.
    """

    def __init__(self, paged: PagedModel, backend: StepBackend[Tiled], cache: KVCache, max_batch_size: int, compile: bool,
                 capture: Capture | None = None) -> None:
        self.seconds = 0.0
        self.sizes = batch_sizes(max_batch_size)
        self._paged, self._backend, self._cache = paged, backend, cache
        self._capture = capture or cuda_capture(paged.input_device)
        self._compile = compile
        self._replays: dict[int, Callable[[], None]] = {}
        self._uniforms = UniformBlocks()
        probe = TilePlan(backend, Step.build(cache, [[0]], [0], [1]))  # no sequence has page 0 yet
        logits = paged.run([0], probe, np.zeros(1, dtype=np.int64))
        self._vocab, most = logits.shape[1], self.sizes[-1]
        self._layers = {attends: self._capacities(attends) for attends in probe.attends}
        width = -(-paged.context.length // cache.page_size)
        fields = {"ids": ("int64", most), "positions": ("int64", most), "slots": ("int64", most),
                  "parameters": ("float64", most, device_sampling.PARAMETERS), "positions32": ("int32", most)}
        for i, (narrow, wide, _) in enumerate(self._layers.values()):
            fields |= {f"narrow{i}": ("int32", narrow, 8), f"wide{i}": ("int32", wide, 8),
                       f"starts{i}": ("int32", most + 1)}
        self._inputs = Mirror(logits.device, **fields, pages=("int32", most * width))
        self._drawn = Mirror(logits.device, drawn=("float64", most, 3))
        self._pages = PageTable(self._inputs.host["pages"], cache.page_size, width)
        # One for all graphs: a graph's own output would stay allocated beside every other's.
        self.logits = torch.empty(most, self._vocab, dtype=logits.dtype, device=logits.device)

    def _capacities(self, attends: Attends) -> tuple[int, int, int]:
        """Capacities for narrow tiles, wide tiles and parts, with the largest batch."""
        tiles, most = _tiles_for(attends, self.sizes[-1]), self.sizes[-1]
        return tiles, tiles, attends.target + PARTS_EACH * most

    def warm_up(self) -> None:
        """Captures every size, the largest first, so that the others find its memory.

        Raises:
            Exception: whatever the model's code or the device has against being captured.
        """
        began = time.perf_counter()
        calls: dict[nn.Module, Callable[..., Any]] = {}
        if self._compile:
            calls = {layer: partial(torch.compile(seams.call_layer, dynamic=True), layer)
                     for layer in seams.decoder_layers(self._paged.model)}
        try:
            self._capture_all(calls)
        except Exception as error:
            if not calls:
                raise
            logger.warning("decode graphs hold the decoder layers as they are, not compiled: %s", error)
            self._capture_all({})
        self.seconds = time.perf_counter() - began
        logger.info("captured decode steps of %s sequences in %.1f s", ", ".join(map(str, self.sizes)), self.seconds)

    @torch.no_grad()
    def _capture_all(self, calls: dict[nn.Module, Callable[..., Any]]) -> None:
        self._fill([], self.sizes[-1])
        self._inputs.send()
        for size in reversed(self.sizes):
            with seams.many_graphs():
                self._replays[size] = self._capture(self._step_of(size, calls))

    def _step_of(self, size: int, calls: dict[nn.Module, Callable[..., Any]]) -> Callable[[], None]:
        device, tiles = self._inputs.device, {}
        for i, (attends, (_, _, parts)) in enumerate(self._layers.items()):
            capacity = _tiles_for(attends, size)
            tiles[attends] = gpu.Tiles(
                device["slots"][:size], device["positions32"][:size], device[f"starts{i}"][: size + 1], device["pages"],
                device[f"narrow{i}"][:capacity], device[f"wide{i}"][:capacity], parts)
        plan = StaticPlan(self._backend, self._cache, self._inputs.host["positions"][:size], tiles)

        def step() -> None:
            with self._paged.switched(), seams.calling(calls):
                output = self._paged.model(input_ids=device["ids"][None, :size], use_cache=False, leapgen_plan=plan.argument,
                                           position_ids=device["positions"][None, :size])
            self.logits[:size].copy_(output.logits[0])
            self._drawn.device["drawn"][:size].copy_(
                device_sampling.draw(self.logits[:size], device["parameters"][:size]))

        return step

    # -- a step -----------------------------------------------------------------------------------------------------

    def serves(self, chunks: list[Chunk]) -> bool:
        """Whether a step is one of those captured."""
        if self._paged.model.training:
            return False  # a graph would not notice
        return len(chunks) <= self.sizes[-1] and all(
            chunk.end - chunk.start == 1 and not chunk.scores
            and len(chunk.samples) == 1 and chunk.samples[0][1] is chunk.sequence for chunk in chunks)

    @torch.no_grad()
    def step(self, chunks: list[Chunk]) -> Sampled:
        """One forward pass, and a token for each sequence.

        Raises:
            NonFiniteLogitsError: as ``sample`` does.
        """
        size = next(size for size in self.sizes if size >= len(chunks))
        sequences, lengths = [c.sequence for c in chunks], [c.end for c in chunks]
        self._fill(chunks, size)
        drawn_here = all(device_sampling.serves(n, s, self._vocab) for n, s in zip(lengths, sequences, strict=True))
        if drawn_here:
            self._inputs.host["parameters"][: len(chunks)] = device_sampling.parameters(
                sequences, self._uniforms([s.stream for s in sequences], lengths), self._vocab)
        self._inputs.send(self._pages.used)
        self._replays[size]()
        if drawn_here:
            result = device_sampling.sampled(self._drawn.receive()["drawn"][: len(chunks)], sequences)
            if result is not None:
                return result
        return sample(self.logits[: len(chunks)], lengths, sequences)

    def _fill(self, chunks: list[Chunk], size: int) -> None:
        """This step's numbers, and padding behind them."""
        host, n = self._inputs.host, len(chunks)
        positions = np.array([c.start for c in chunks], dtype=np.int64)
        kv_lengths, page = positions + 1, self._cache.page_size
        host["ids"][:n] = [c.sequence.tokens[c.start] for c in chunks]
        host["ids"][n:size] = 0
        host["positions"][:n] = host["positions32"][:n] = positions
        host["positions"][n:size] = host["positions32"][n:size] = 0
        table, segments = self._pages.fill([c.sequence.pages for c in chunks], kv_lengths)
        host["slots"][:n] = table[np.arange(n), positions // page].astype(np.int64) * page + positions % page
        host["slots"][n:size] = -1
        host["parameters"][:size] = (1.0, 1, device_sampling.FIRST_ONLY, 0.0, 0.0)
        query_starts = np.arange(n + 1)
        for i, (attends, (_, _, parts)) in enumerate(self._layers.items()):
            capacity, shape = _tiles_for(attends, size), attends.tile_shape

            def cut_of(these: np.ndarray, attends: Attends = attends, shape: gpu.TileShape = shape) -> TileList:
                return cut(these, query_starts, table.shape[1], shape.narrow_tokens, shape.wide_tokens, attends.target)

            tiles = cut_of(segments)
            if max(len(tiles.narrow), len(tiles.wide)) > capacity or tiles.part_starts[-1] > parts:
                tiles = cut_of(unshared(kv_lengths))
            for name, listed in ((f"narrow{i}", tiles.narrow), (f"wide{i}", tiles.wide)):
                host[name][: len(listed)] = listed
                host[name][len(listed) : capacity] = 0
            host[f"starts{i}"][: n + 1] = tiles.part_starts
            host[f"starts{i}"][n + 1 : size + 1] = tiles.part_starts[-1]


class PageTable:
    """The page table of a step, kept from one to the next: mostly a few sequences have one page more.

    Args:
        entries: [capacity] int32; the table lies at its beginning.
    """

    def __init__(self, entries: np.ndarray, page_size: int, max_width: int) -> None:
        self._entries, self._page_size, self._max_width = entries, page_size, max_width
        self._table = entries[:0].reshape(0, 1)
        self._rows: list[array[int]] = []
        self._segments = unshared(np.zeros(0, dtype=np.int64))

    @property
    def used(self) -> int:
        """How many of the entries are the table."""
        return self._table.size

    def fill(self, pages: list[array[int]], kv_lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The page table [sequences, width], and the segments in which neighbours share pages."""
        widest = max(map(len, pages), default=1)
        same = len(pages) == len(self._rows) and widest <= self._table.shape[1]
        if not same:
            width = min(max(1 << (widest - 1).bit_length(), 16), self._max_width)
            self._table = self._entries[: len(pages) * width].reshape(len(pages), width)
            self._table[:] = 0
            self._rows = [no_pages() for _ in pages]
        for row, (own, old) in enumerate(zip(pages, self._rows, strict=True)):
            if own == old:
                continue
            # One page more, to write into: nobody shares it.
            same = same and own[:-1] == old and kv_lengths[row] == (len(own) - 1) * self._page_size + 1
            first = len(old) if own[: len(old)] == old else 0
            self._table[row, first : len(own)] = own[first:]
            self._rows[row] = own[:]
        if same:
            alone = self._segments[:, 2] - self._segments[:, 1] == 1
            self._segments[alone, 4] = kv_lengths[self._segments[alone, 1]]
        else:
            self._segments = shared_segments(self._table, kv_lengths, self._page_size)
        return self._table, self._segments


class Mirror:
    """Named arrays on the host, one behind the other in pinned memory, and the same on a device.

    Args:
        fields: dtype and shape of each; the last may be sent in part.
    """

    def __init__(self, device: torch.device, **fields: tuple[Any, ...]) -> None:
        sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, *shape in fields.values()]
        starts = np.cumsum([0, *(-(-size // 16) * 16 for size in sizes)])  # aligned as kernels like it
        self._host = torch.zeros(int(starts[-1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._device = torch.zeros_like(self._host, device=device)
        self.host: dict[str, np.ndarray] = {}
        self.device: dict[str, Tensor] = {}
        for (name, (dtype, *shape)), start, size in zip(fields.items(), starts.tolist(), sizes, strict=False):
            part = slice(start, start + size)
            self.host[name] = self._host.numpy()[part].view(dtype).reshape(shape)
            self.device[name] = self._device[part].view(getattr(torch, dtype)).view(shape)
        self._last = starts[-2], np.dtype(list(fields.values())[-1][0]).itemsize

    def send(self, of_the_last: int | None = None) -> None:
        """To the device, in one copy that later work there waits for; of the last field only the first entries."""
        start, itemsize = self._last
        end = len(self._host) if of_the_last is None else int(start + of_the_last * itemsize)
        self._device[:end].copy_(self._host[:end], non_blocking=True)

    def receive(self) -> dict[str, np.ndarray]:
        """From the device, once all work before is done."""
        self._host.copy_(self._device, non_blocking=True)
        if self._device.is_cuda:
            torch.cuda.current_stream(self._device.device).synchronize()
        return self.host


def batch_sizes(most: int) -> list[int]:
    """The sizes captured: close enough that padding costs little."""
    ladder = [1, 2, 4, *range(8, 33, 8), *range(48, 129, 16), *range(160, MAX_SIZE + 1, 32)]
    return [size for size in ladder if size < most] + [most] * (most <= MAX_SIZE)


def _tiles_for(attends: Attends, size: int) -> int:
    """Capacity for tiles of a width: the cut takes ``target`` and one for each block of each segment's tokens."""
    return attends.target + 2 * size


def unshared(kv_lengths: np.ndarray) -> np.ndarray:
    """Segments [sequences, 5] in which every sequence reads its own pages."""
    rows = np.arange(len(kv_lengths))
    return np.stack([0 * rows, rows, rows + 1, 0 * rows, kv_lengths], axis=1)


def cuda_capture(device: torch.device) -> Capture:
    """Captures steps as CUDA graphs that share their memory."""
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles kernels, and takes workspaces
                step()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        captured = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.device(device), captured:
            step()
        return graph.replay

    return capture


def can_capture(paged: PagedModel, cache: KVCache) -> bool:
    """Whether all of a model and its cache lie on one device."""
    tensors = [*paged.model.parameters(), *paged.model.buffers(), *cache.keys.values()]
    return {t.device for t in tensors} == {paged.input_device}
