"""The kernels as torch operators, so that a compiled graph can call them."""

from __future__ import annotations

import torch
from torch import Tensor

from leapgen_kernels import cpu

_LIBRARY = torch.library.Library("leapgen", "DEF")
_LIBRARY.define("paged_attention(Tensor query, Tensor key, Tensor value, Tensor plan, float scaling, "
                "int? sliding_window, float? softcap, Tensor? sinks) -> Tensor")
_LIBRARY.define("linear(Tensor x, Tensor[] weights, Tensor?[] biases) -> Tensor[]")
_LIBRARY.impl("paged_attention", cpu.attend, "CPU")
_LIBRARY.impl("linear", cpu.linear, "CPU")

# A side effect that torch does not see: a call writes its layer's part of the KV pool, whose addresses the plan holds, and
# advances the plan to the next layer. Nothing else in a graph reads that part, and a model's layers run in order.
paged_attention = torch.ops.leapgen.paged_attention.default
linear = torch.ops.leapgen.linear.default


@torch.library.register_fake("leapgen::paged_attention", lib=_LIBRARY)
def _(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


@torch.library.register_fake("leapgen::linear", lib=_LIBRARY)
def _(x: Tensor, weights: list[Tensor], biases: list[Tensor | None]) -> list[Tensor]:
    return [x.new_empty(*x.shape[:-1], weight.shape[0]) for weight in weights]
