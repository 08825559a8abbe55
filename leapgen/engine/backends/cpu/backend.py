"""The C++ kernels: attention, linear layers and the sampler; decoder layers as programs of them."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from leapgen_kernels import cpu
from torch import Tensor, nn

from leapgen.config import EngineConfig
from leapgen.engine.backends.base import Backend, worth_compiling
from leapgen.engine.backends.cpu.overrides import ModuleOverrides
from leapgen.engine.backends.cpu.plan import PackedPlan
from leapgen.engine.backends.reference import ReferenceBackend
from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.model import support
from leapgen.engine.model.paged_model import PagedModel
from leapgen.engine.sampling.host import TIE_SLACK, Sampled, checked
from leapgen.engine.sampling.random import uniforms
from leapgen.engine.sequence import Sequence
from leapgen.engine.step import Step

WORTH_COMPILING = 1_000_000  # parameters: compiling takes a second or two, whatever the size


class CPUBackend(Backend[PackedPlan]):
    """Float32 and bfloat16 on CPU. A row's bits are the same alone and in a batch."""

    default_draft_tokens = 4

    def __init__(self, config: EngineConfig | None = None) -> None:
        super().__init__(config)
        self._overrides: ModuleOverrides | None = None  # made by the first step

    def serves(self, layers: Mapping[int, LayerSpec]) -> bool:
        return all(cpu.serves(spec.empty(0)) for spec in layers.values())

    def prepare(self, step: Step) -> PackedPlan:
        return PackedPlan(self, step, self.compiled)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, prepared: PackedPlan, **options: Any) -> Tensor:
        return cpu.attend(query, key, value, prepared.at(layer), **options)

    @property
    def compiled(self) -> bool:
        """Whether the decoder layers are."""
        return self._overrides is not None and self._overrides.compiled

    @property
    def overridden(self) -> list[nn.Module]:
        return [] if self._overrides is None else self._overrides.modules

    def computing(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._overrides_of(model).active()

    def _overrides_of(self, model: nn.Module) -> ModuleOverrides:
        if self._overrides is None:
            self._overrides = ModuleOverrides(model)
        return self._overrides

    def capture(self, paged: PagedModel, cache: KVCache) -> None:
        """Compiles the decoder layers: one graph serves all layers of a kind and all numbers of tokens from two on."""
        if not worth_compiling(self.config, paged.model, WORTH_COMPILING):
            return

        def run(tokens: int) -> Tensor:
            """Logits [2, vocab] of a step of padding: every layer runs, no page is touched."""
            prepared = self.prepare(Step.build(cache, [], [], []))
            prepared.positions = np.arange(tokens)
            return paged.run([], prepared, np.arange(2))

        reference = ReferenceBackend(self.config)
        self._overrides_of(paged.model).compile(run, lambda: support.agree(paged, cache, self, reference))

    def sample(self, logits: Tensor, lengths: Rows[int], sequences: Rows[Sequence]) -> Sampled | None:
        """By the kernel, where all rows have the same settings and only need the most likely tokens of unchanged logits."""
        config = sequences[0].sampling
        if not (cpu.serves(logits) and logits.stride(1) == 1 and config.temperature > 0 and config.top_k is not None
                and config.top_k + TIE_SLACK < logits.shape[1]
                and config.repetition_penalty == 1.0 and not config.logits_processors
                and all(s.sampling is config or s.sampling == config for s in sequences)
                and all(n >= s.min_length or not s.stop_tokens for n, s in zip(lengths, sequences, strict=True))):
            return None
        drawn = cpu.draw(logits, config.top_k, config.top_k + TIE_SLACK, config.logprobs, config.temperature, config.top_p,
                         config.min_p or 0.0, uniforms([s.stream for s in sequences], lengths))
        return None if drawn is None else checked(drawn, lengths, sequences)
