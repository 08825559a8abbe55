"""The paged KV pool: one key and one value tensor a layer, on the layer's device."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class LayerSpec(NamedTuple):
    """The geometry of one attention layer's KV."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, key: Tensor, value: Tensor) -> LayerSpec:
        """Of a layer that hands over key ``[1, kv_heads, tokens, key_dim]`` and value ``[..., value_dim]``."""
        return cls(key.shape[1], key.shape[3], value.shape[3], key.dtype, key.device)

    @property
    def bytes_per_token(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize

    def empty(self, *shape: int) -> Tensor:
        """A tensor of the layer's dtype on its device, not initialised."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)


class KVCache:
    """Keys ``[num_pages, page_size, kv_heads, key_dim]`` and values ``[..., value_dim]`` of every layer.

    On CPU the operating system backs a page with memory when it is first written, so a large pool costs what is used.
    """

    def __init__(self, specs: Mapping[int, LayerSpec], num_pages: int, page_size: int) -> None:
        self.specs: dict[int, LayerSpec] = {}
        self.num_pages = num_pages
        self.page_size = page_size
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        for index, spec in specs.items():
            self.add(index, spec)

    def add(self, index: int, spec: LayerSpec) -> None:
        """One more layer."""
        shape = self.num_pages, self.page_size, spec.num_kv_heads
        self.specs[index] = spec
        self.keys[index] = _on_large_pages(spec.empty(*shape, spec.key_dim))
        self.values[index] = _on_large_pages(spec.empty(*shape, spec.value_dim))

    def empty(self) -> None:
        """Gives its memory back; it has no layers from now on."""
        self.specs, self.keys, self.values = {}, {}, {}

    @property
    def bytes_per_token(self) -> int:
        return sum(spec.bytes_per_token for spec in self.specs.values())

    def write(self, index: int, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """Stores key ``[tokens, kv_heads, key_dim]`` and value ``[tokens, kv_heads, value_dim]`` at flat slots."""
        self.keys[index].flatten(0, 1).index_copy_(0, slots, key)
        self.values[index].flatten(0, 1).index_copy_(0, slots, value)

    @property
    def addresses(self) -> np.ndarray:
        """[2 * layers] int64: where each layer's keys and values lie in memory."""
        return np.array([tensor.data_ptr() for index in self.keys for tensor in (self.keys[index], self.values[index])],
                        dtype=np.int64)

    def copy_page(self, source: int, target: int) -> None:
        for index in self.specs:
            self.keys[index][target].copy_(self.keys[index][source])
            self.values[index][target].copy_(self.values[index][source])


def _on_large_pages(tensor: Tensor) -> Tensor:
    """Asks Linux to back a CPU tensor with 2 MiB pages as it is written; where it cannot, nothing changes.

    A decode step touches every page of the pool once, so that with 4 KiB pages it waits for address translation.
    """
    size = 1 << 21
    start = -(-tensor.data_ptr() // size) * size
    length = (tensor.data_ptr() + tensor.nbytes) // size * size - start
    if tensor.device.type == "cpu" and hasattr(mmap, "MADV_HUGEPAGE") and length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return tensor
