"""The C++ kernels, called through their C interface. Importing this does not need them to be built."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_POINTER, _INT, _FLOAT, _THREADS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they were not built (no compiler at install time)."""
    spec = find_spec("leapgen_kernels._cpu")
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    lib = ctypes.CDLL(spec.origin)
    for name in DTYPES.values():
        attend, linear = getattr(lib, f"leapgen_attend_{name}"), getattr(lib, f"leapgen_linear_{name}")
        attend.argtypes = [_POINTER, _INT, *[_POINTER] * 5, *[_INT] * 4, _POINTER, _INT, _FLOAT, _FLOAT, _THREADS]
        linear.argtypes = [*[_POINTER] * 5, *[_INT] * 4, _THREADS]
        attend.restype = linear.restype = None
    return lib


def serves(tensor: Tensor) -> bool:
    """Whether the kernels are built and take tensors like this one."""
    return tensor.device.type == "cpu" and tensor.dtype in DTYPES and library() is not None


def attend(query: Tensor, key: Tensor, value: Tensor, plan: Tensor, layer: int, scaling: float, sliding_window: int | None,
           softcap: float | None, sinks: Tensor | None) -> Tensor:
    """Stores a flat mixed step's keys and values in the pool and attends over its pages, computed in float32.

    Args:
        query: [1, heads, tokens, key_dim]; key: [1, kv_heads, tokens, key_dim]; value: [1, kv_heads, tokens, value_dim];
            float32 or bfloat16, as the pool is. Tokens past the plan's are padding.
        plan: int64, as ``StepPlan.packed`` lays it out: it says where the pool's layers lie.
        sliding_window: positions a query sees, itself included; softcap, sinks [heads]: as in the oracle.

    Returns:
        [1, tokens, heads, value_dim] in the query's dtype; zeros for padding.
    """
    query, key, value = (t if t.stride(3) == 1 else t.contiguous() for t in (query, key, value))
    _, heads, tokens, key_dim = query.shape
    kv_heads, value_dim = value.shape[1], value.shape[3]
    output = query.new_empty(1, tokens, heads, value_dim)
    planned = int(plan[1])
    if planned < tokens:
        output[:, planned:] = 0
    strides = (_INT * 6)(query.stride(2), query.stride(1), key.stride(2), key.stride(1), value.stride(2), value.stride(1))
    sinks = sinks if sinks is None else sinks.float().contiguous()
    getattr(library(), f"leapgen_attend_{DTYPES[query.dtype]}")(
        plan.data_ptr(), layer, query.data_ptr(), key.data_ptr(), value.data_ptr(), strides, output.data_ptr(), heads,
        kv_heads, key_dim, value_dim, None if sinks is None else sinks.data_ptr(), sliding_window or 0, scaling,
        softcap or 0.0, torch.get_num_threads())
    return output


def linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> list[Tensor]:
    """``x @ weight.T + bias`` for each weight, read where it lies; sums in float32.

    Every row's result is the same bits whatever other rows there are.

    Args:
        x: [..., depth]; weights: [columns, depth] each, contiguous; biases: [columns] each, or None; all float32 or all
            bfloat16.

    Returns:
        [..., columns] for each weight, in x's dtype.
    """
    depth = x.shape[-1]
    rows = x.reshape(-1, depth)
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    outputs = [x.new_empty(*x.shape[:-1], weight.shape[0]) for weight in weights]
    count = len(weights)
    pointers, columns = _POINTER * count, (_INT * count)(*(weight.shape[0] for weight in weights))
    getattr(library(), f"leapgen_linear_{DTYPES[x.dtype]}")(
        rows.data_ptr(), pointers(*(weight.data_ptr() for weight in weights)),
        pointers(*(None if bias is None else bias.data_ptr() for bias in biases)),
        pointers(*(output.data_ptr() for output in outputs)), columns, count, rows.shape[0], depth, rows.stride(0),
        torch.get_num_threads())
    return outputs
