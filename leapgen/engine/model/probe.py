"""What a model's attention layers hand over, learned by a step of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.step import Prepared, Step, StepBackend


class Probe(StepBackend[Prepared]):
    """Stands before a backend and notes what layers ask of it; a layer that the pool lacks is added as it first writes.

    Args:
        backend: does the computing.
        cache: the pool of every step that is prepared.
    """

    def __init__(self, backend: StepBackend[Any], cache: KVCache) -> None:
        self.cache = cache
        self.calls: list[int] = []  # layers in the order they ran
        self.windows: dict[int, int | None] = {}  # the sliding window each layer asked for
        self._backend = backend

    def prepare(self, step: Step) -> Prepared:
        prepared: Prepared = self._backend.prepare(step)
        prepared.backend = self
        return prepared

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, prepared: Prepared, **options: Any) -> Tensor:
        self.calls.append(layer)
        self.windows[layer] = options["sliding_window"]
        if layer not in self.cache.specs:
            self.cache.add(layer, LayerSpec.of(key, value))
        return self._backend.attend(layer, query, key, value, prepared, **options)

    def computing(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._backend.computing(model)
