"""The paged KV pool: one key and one value tensor a layer, on the layer's device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from leapgen_kernels import cpu
from torch import Tensor


@dataclass(frozen=True)
class LayerSpec:
    """The geometry of one attention layer's KV."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class KVCache:
    """Keys ``[num_pages, page_size, kv_heads, key_dim]`` and values ``[..., value_dim]`` of every layer.

    On CPU the operating system backs a page with memory when it is first written, so a large pool costs what is used.
    """

    def __init__(self, specs: dict[int, LayerSpec], num_pages: int, page_size: int) -> None:
        self.specs = specs
        self.num_pages = num_pages
        self.page_size = page_size
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        for index in specs:
            self._create(index)

    def _create(self, index: int) -> None:
        spec, shape = self.specs[index], (self.num_pages, self.page_size)
        options = {"dtype": spec.dtype, "device": spec.device}
        self.keys[index] = torch.empty(*shape, spec.num_kv_heads, spec.key_dim, **options)
        self.values[index] = torch.empty(*shape, spec.num_kv_heads, spec.value_dim, **options)

    @property
    def bytes_per_token(self) -> int:
        return sum(spec.bytes_per_token for spec in self.specs.values())

    def write(self, index: int, key: Tensor, value: Tensor, slots: Tensor, kernels: bool = True) -> None:
        """Stores key ``[tokens, kv_heads, key_dim]`` and value ``[tokens, kv_heads, value_dim]`` at flat slots."""
        for source, pool in ((key, self.keys[index]), (value, self.values[index])):
            if kernels and cpu.serves(source):
                cpu.store(source, pool, slots)
            else:
                pool.flatten(0, 1).index_copy_(0, slots, source)

    def copy_page(self, source: int, target: int) -> None:
        for index in self.specs:
            self.keys[index][target].copy_(self.keys[index][source])
            self.values[index][target].copy_(self.values[index][source])


class GrowingKVCache(KVCache):
    """A small cache that learns the model's geometry: a layer is made when it first writes."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        super().__init__({}, num_pages, page_size)
        self.calls: list[int] = []  # layer indices in the order they wrote

    def write(self, index: int, key: Tensor, value: Tensor, slots: Tensor, kernels: bool = True) -> None:
        if index not in self.specs:
            self.specs[index] = LayerSpec(key.shape[1], key.shape[2], value.shape[2], key.dtype, key.device)
            self._create(index)
        self.calls.append(index)
        super().write(index, key, value, slots, kernels)
