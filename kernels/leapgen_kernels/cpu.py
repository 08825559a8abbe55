"""The C++ kernels, called through their C interface. Importing this does not need them to be built."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they were not built (no compiler at install time)."""
    spec = find_spec("leapgen_kernels._cpu")
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    lib = ctypes.CDLL(spec.origin)
    for name in DTYPES.values():
        attend, store = getattr(lib, f"leapgen_attend_{name}"), getattr(lib, f"leapgen_store_{name}")
        attend.argtypes = [_POINTER] * 8 + [_INT] * 10 + [ctypes.c_float] * 2 + [ctypes.c_int]
        store.argtypes = [_POINTER, _INT, _INT, _POINTER, _POINTER, _INT, _INT, _INT]
        attend.restype = store.restype = None
    return lib


def serves(tensor: Tensor) -> bool:
    """Whether the kernels are built and take tensors like this one."""
    return tensor.device.type == "cpu" and tensor.dtype in DTYPES and library() is not None


def store(source: Tensor, pool: Tensor, slots: Tensor) -> None:
    """Writes rows into the pool.

    Args:
        source: [tokens, kv_heads, dim], the last dimension contiguous.
        pool: [pages, page_size, kv_heads, dim], contiguous.
        slots: [tokens] int64: flat slot ``page * page_size + offset`` of each row.
    """
    if source.stride(2) != 1:
        source = source.contiguous()
    getattr(library(), f"leapgen_store_{DTYPES[pool.dtype]}")(
        source.data_ptr(), source.stride(0), source.stride(1), pool.data_ptr(), slots.data_ptr(), *source.shape)


def attend(query: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, query_starts: Tensor, kv_lengths: Tensor, *,
           scaling: float, sliding_window: int | None, softcap: float | None, sinks: Tensor | None) -> Tensor:
    """Causal attention of a flat mixed step over pages, computed in float32.

    Args:
        query: [tokens, heads, key_dim], the last dimension contiguous; float32 or bfloat16.
        keys: [pages, page_size, kv_heads, key_dim]; values: [pages, page_size, kv_heads, value_dim]; contiguous.
        page_table: [sequences, max_pages]; query_starts: [sequences + 1]; kv_lengths: [sequences]; int64, contiguous.
        sliding_window: positions a query sees, itself included; softcap, sinks [heads]: as in the oracle.

    Returns:
        [tokens, heads, value_dim] in the query's dtype.
    """
    if query.stride(2) != 1:
        query = query.contiguous()
    output = query.new_empty(query.shape[0], query.shape[1], values.shape[3])
    sinks = sinks if sinks is None else sinks.float().contiguous()
    getattr(library(), f"leapgen_attend_{DTYPES[query.dtype]}")(
        query.data_ptr(), output.data_ptr(), keys.data_ptr(), values.data_ptr(), page_table.data_ptr(),
        query_starts.data_ptr(), kv_lengths.data_ptr(), None if sinks is None else sinks.data_ptr(),
        query.stride(0), query.stride(1), page_table.shape[0], page_table.shape[1], keys.shape[1], query.shape[1],
        keys.shape[2], keys.shape[3], values.shape[3], sliding_window or 0, scaling, softcap or 0.0,
        torch.get_num_threads())
    return output
