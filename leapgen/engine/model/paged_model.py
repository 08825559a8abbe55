"""A transformers model whose attention goes over pages while a step runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from leapgen.engine.model import attention
from leapgen.engine.model.locks import Locks
from leapgen.engine.step import Prepared


class Context(NamedTuple):
    """Positions a sequence may have, and why no more where that is not simply the model's length."""

    length: int
    reason: str = ""


class PagedModel:
    """Runs steps of a model. Between steps the model is as its user left it.

    Args:
        model: in any mode; in eval mode when a step runs.
        context: what ``support.check_config`` found.
    """

    def __init__(self, model: PreTrainedModel, context: Context) -> None:
        attention.register()
        self.model = model
        self.context = context
        weight = cast(Tensor, model.get_input_embeddings().weight)
        self.vocab_size = weight.shape[0]
        self.input_device = weight.device
        if self.input_device.type == "meta":  # offloaded by accelerate: its hooks move the inputs
            self.input_device = model.device
        self._configs = attention_configs(model)
        self.locks = Locks(self._configs)

    def also_lock(self, modules: Iterable[nn.Module]) -> None:
        """A step changes these modules, too: ``locks`` holds them while it runs."""
        self.locks = Locks([*self._configs, *modules])

    @torch.inference_mode(False)  # which switches gradients on
    @torch.no_grad()
    def run(self, tokens: list[int], prepared: Prepared, rows: np.ndarray) -> Tensor:
        """Logits [rows, vocab] of a step.

        Args:
            tokens: [total], all sequences packed flat.
            prepared: whose tokens they are. Where it has more positions, the tokens that are missing are padding.
            rows: [rows] int64; which tokens' logits.

        Raises:
            RuntimeError: the model is in training mode.
        """
        if self.model.training:
            raise RuntimeError("the model is in training mode: dropout would change what it computes. Call model.eval().")
        device, positions = self.input_device, prepared.positions
        padded = [*tokens, *[0] * (len(positions) - len(tokens))]
        with self.switched(), prepared.backend.computing(self.model):
            logits: Tensor = self.model(
                input_ids=torch.tensor([padded], dtype=torch.int64, device=device),  # [1, total]
                position_ids=torch.from_numpy(positions).to(device)[None],  # [1, total]
                use_cache=False, leapgen_plan=prepared.argument, logits_to_keep=torch.from_numpy(rows).to(device)).logits
        return logits[0]

    @contextmanager
    def switched(self) -> Iterator[None]:
        """While this is entered the model's attention goes over pages, and ``locks`` are held."""
        with self.locks:
            before = [config._attn_implementation for config in self._configs]
            for config in self._configs:
                config._attn_implementation = attention.NAME
            try:
                yield
            finally:
                for config, implementation in zip(self._configs, before, strict=True):
                    config._attn_implementation = implementation


def attention_configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every config object that modules of the model consult for their attention implementation."""
    configs = {id(config): config for module in model.modules()
               if isinstance(config := getattr(module, "config", None), PreTrainedConfig)}
    return list(configs.values())


def locks_of(model: PreTrainedModel) -> Locks:
    """Locks for whatever a step may change in a model."""
    return Locks([*attention_configs(model), *model.modules()])
