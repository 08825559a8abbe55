"""The Triton kernels, and decode steps as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from leapgen_kernels import gpu
from torch import Tensor

from leapgen.engine.backends.base import Backend, worth_compiling
from leapgen.engine.backends.cuda.graphs import DecodeGraphs, can_capture
from leapgen.engine.backends.cuda.tiles import Attends, Tiled, TilePlan
from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.model.paged_model import PagedModel
from leapgen.engine.step import Step

logger = logging.getLogger(__name__)

WORTH_COMPILING = 50_000_000  # parameters: inductor takes seconds, whatever the size


class CUDABackend(Backend[Tiled]):
    """Attention by Triton kernels; the model's modules compute as they are, or compiled within a captured step."""

    def serves(self, layers: Mapping[int, LayerSpec]) -> bool:
        return all(gpu.serves(spec.empty(0)) for spec in layers.values())

    def prepare(self, step: Step) -> TilePlan:
        return TilePlan(self, step)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, prepared: Tiled, **options: Any) -> Tensor:
        cache = prepared.cache
        tiles = prepared.tiles(Attends.of(query, key))
        return gpu.attend(query, key, value, cache.keys[layer], cache.values[layer], tiles, **options)

    def capture(self, paged: PagedModel, cache: KVCache) -> DecodeGraphs | None:
        """Decode steps as graphs, where the model can be captured."""
        if not self.config.graphs or not can_capture(paged, cache):
            return None
        try:
            graphs = DecodeGraphs(paged, self, cache, self.config.max_batch_size,
                                  worth_compiling(self.config, paged.model, WORTH_COMPILING))
            graphs.warm_up()
        except Exception as error:  # a model whose code waits for the device, a device out of memory
            logger.warning("decode steps are not captured as CUDA graphs, they are slower: %s", error)
            return None
        return graphs
