"""The C++ kernels, called through their C interface. Importing this does not need them to be built."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

AMX = ("amx", "amx_model")  # bfloat16 kernels by matrix tiles (AMX), and by a model of them in software
GATES = ("silu", "gelu", "gelu_tanh", "relu")  # activations of a gated pair of layers
GATED_STEP = 32  # its columns come in whole multiples of so many
TILE = 32  # keys that a kernel goes through at once: positions that sequences share are cut at multiples of it
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_POINTER, _INT, _FLOAT, _THREADS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_STRIDES = _INT * 6
_ATTEND: dict[torch.dtype, Any] = {}
_LINEAR: dict[torch.dtype, Any] = {}
_GATED: dict[torch.dtype, Any] = {}
_CANDIDATES: dict[torch.dtype, Any] = {}


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none; ``missing`` says why."""
    return _load()[0]


@lru_cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The compiled kernels, or why there are none."""
    spec = find_spec("leapgen_kernels._cpu")
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None, "they were not built (was there no C++ compiler when leapgen was installed?)"
    try:
        lib = ctypes.CDLL(spec.origin)
    except OSError as error:  # another libc or architecture than it was built for, no libgomp
        return None, f"they cannot be loaded ({error})"
    try:
        _declare(lib)
    except AttributeError as error:
        raise ImportError(f"{spec.origin} was built from other sources than leapgen's Python code ({error}); "
                          "build it again: pip install -e .") from error
    if lib.leapgen_has_amx() and _amx_agrees(lib):
        _LINEAR[torch.bfloat16], _ATTEND[torch.bfloat16] = lib.leapgen_linear_amx, lib.leapgen_attend_amx
        _GATED[torch.bfloat16] = lib.leapgen_gated_amx
    return lib, ""


def _declare(lib: ctypes.CDLL) -> None:
    for dtype, name in DTYPES.items():
        attend, linear, candidates = (
            getattr(lib, f"leapgen_{kernel}_{name}") for kernel in ("attend", "linear", "candidates"))
        attend.argtypes = [*[_POINTER] * 6, *[_INT] * 5, _POINTER, _INT, _FLOAT, _FLOAT, _THREADS]
        linear.argtypes = [*[_POINTER] * 5, *[_INT] * 4, _THREADS]
        candidates.argtypes = [_POINTER, *[_INT] * 5, *[_POINTER] * 4, ctypes.c_int, *[ctypes.c_double] * 3, *[_POINTER] * 4,
                               _THREADS]
        attend.restype = linear.restype = candidates.restype = None
        _ATTEND[dtype], _LINEAR[dtype], _CANDIDATES[dtype] = attend, linear, candidates
    lib.leapgen_layers.argtypes = [_POINTER, _INT, _POINTER, _POINTER, _INT, _INT, *[_POINTER] * 3, _THREADS]
    lib.leapgen_layers.restype = None
    for name in AMX:
        for kernel, declared in (("linear", _LINEAR), ("attend", _ATTEND)):
            function = getattr(lib, f"leapgen_{kernel}_{name}")
            function.argtypes, function.restype = declared[torch.bfloat16].argtypes, None
        gated = getattr(lib, f"leapgen_gated_{name}")
        gated.argtypes, gated.restype = [*[_POINTER] * 4, *[_INT] * 6, _THREADS], None


def _amx_agrees(lib: ctypes.CDLL) -> bool:
    """Whether the machine's tiles compute what their model does; a machine that claims to have them may be an emulator."""
    generator = torch.Generator().manual_seed(0)
    shapes = (40, 70), (64, 70), (64, 70), (50, 64)
    x, *weights = (torch.randn(shape, generator=generator, dtype=torch.float32).bfloat16() / 8 for shape in shapes)
    results = [linear(x, weights[:1], [None], getattr(lib, f"leapgen_linear_{name}"))[0].float() for name in AMX]
    products = [gated(x, "silu", weights, [None] * 3, getattr(lib, f"leapgen_gated_{name}")).float() for name in AMX]
    agree = all(torch.allclose(*pair, rtol=2**-7, atol=2**-7) for pair in (results, products))
    if not agree:
        log.warning("this machine's matrix tiles (AMX) compute something else than they should; they are not used.")
    return agree


def amx() -> bool:
    """Whether bfloat16 linear layers and attention go by matrix tiles (AMX) on this machine."""
    lib = library()
    return lib is not None and _ATTEND[torch.bfloat16] is lib.leapgen_attend_amx


def serves(tensor: Tensor) -> bool:
    """Whether the kernels are built and take tensors like this one."""
    return library() is not None and _takes(tensor)


def missing(tensor: Tensor) -> str:
    """Why the kernels do not serve a tensor that they would take; empty where they do, or would not take it."""
    return _load()[1] if _takes(tensor) else ""


def _takes(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in DTYPES


def attend(query: Tensor, key: Tensor, value: Tensor, plan: Tensor, scaling: float, sliding_window: int | None,
           softcap: float | None, sinks: Tensor | None, kernel: Any = None) -> Tensor:
    """Stores a flat mixed step's keys and values in the pool and attends over its pages, computed in float32.

    By matrix tiles (AMX) the weights, too, are rounded to bfloat16 before they are multiplied with values.

    Args:
        query: [1, heads, tokens, key_dim]; key: [1, kv_heads, tokens, key_dim]; value: [1, kv_heads, tokens, value_dim];
            float32 or bfloat16, as the pool is. Tokens past the plan's are padding.
        plan: int64, as ``StepPlan.packed`` lays it out. It says where the pool's layers lie, and whose turn it is: each call
            takes the next layer's.
        scaling: above 0.
        sliding_window: positions a query sees, itself included; softcap, sinks [heads]: as in the oracle.
        kernel: a C function; None takes the best one for the dtype on this machine.

    Returns:
        [1, tokens, heads, value_dim] in the query's dtype; zeros for padding.
    """
    if query.stride(3) != 1 or key.stride(3) != 1 or value.stride(3) != 1:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    _, heads, tokens, key_dim = query.shape
    _, kv_heads, _, value_dim = value.shape
    output = torch.empty((1, tokens, heads, value_dim), dtype=query.dtype)
    _, query_head, query_token, _ = query.stride()
    _, key_head, key_token, _ = key.stride()
    _, value_head, value_token, _ = value.stride()
    strides = _STRIDES(query_token, query_head, key_token, key_head, value_token, value_head)
    if sinks is not None:
        sinks = sinks.float().contiguous()
    kernel = kernel or _ATTEND[query.dtype]
    kernel(
        plan.data_ptr(), query.data_ptr(), key.data_ptr(), value.data_ptr(), strides, output.data_ptr(), tokens, heads,
        kv_heads, key_dim, value_dim, None if sinks is None else sinks.data_ptr(), sliding_window or 0, scaling,
        softcap or 0.0, torch.get_num_threads())
    return output


def linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None],
           kernel: Any = None) -> list[Tensor]:
    """``x @ weight.T + bias`` for each weight, read where it lies; sums in float32.

    Every row's result is the same bits whatever other rows there are.

    Args:
        x: [..., depth]; weights: [columns, depth] each, contiguous; biases: [columns] each, or None; all float32 or all
            bfloat16.
        kernel: a C function; None takes the best one for the dtype on this machine.

    Returns:
        [..., columns] for each weight, in x's dtype.
    """
    *outer, depth = x.shape
    stride = depth
    if not x.is_contiguous():
        if len(outer) == 2 and outer[0] == 1 and x.stride(2) == 1:
            stride = x.stride(1)
        else:
            x = x.contiguous()
    matrices, offsets, columns, widths = _operands(tuple(w.data_ptr() for w in weights), tuple(w.shape[0] for w in weights),
                                                   tuple(None if b is None else b.data_ptr() for b in biases))
    outputs = [torch.empty((*outer, width), dtype=x.dtype) for width in widths]
    kernel = kernel or _LINEAR[x.dtype]
    kernel(x.data_ptr(), matrices, offsets, (_POINTER * len(outputs))(*[y.data_ptr() for y in outputs]), columns,
           len(outputs), x.numel() // depth, depth, stride, torch.get_num_threads())
    return outputs


def gated(x: Tensor, gate: str, weights: Sequence[Tensor], biases: Sequence[Tensor | None], kernel: Any = None) -> Tensor:
    """``(f(x V^T + a) * (x W^T + b)) U^T + c``, what lies between the two layers never in memory as rows.

    Sums, f and the product are in float32; the product is rounded to bfloat16, as the last layer's x. Every row's result is
    the same bits whatever other rows there are.

    Args:
        x: [rows, depth] bfloat16, contiguous.
        gate: f, one of GATES.
        weights: V, W [inner, depth] and U [columns, inner], contiguous; inner a multiple of GATED_STEP.
        biases: a, b [inner] and c [columns], or None each.
        kernel: a C function; None takes the one for this machine.

    Returns:
        [rows, columns] bfloat16.

    Raises:
        NotImplementedError: there is no such kernel for this machine.
    """
    kernel = kernel or _GATED.get(x.dtype)
    if kernel is None:
        raise NotImplementedError("gated layers are one kernel only where matrix tiles (AMX) are")
    matrices, offsets, _, (inner, _, columns) = _operands(tuple(w.data_ptr() for w in weights),
                                                         tuple(w.shape[0] for w in weights),
                                                         tuple(None if b is None else b.data_ptr() for b in biases))
    y = torch.empty((len(x), columns), dtype=x.dtype)
    kernel(x.data_ptr(), matrices, offsets, y.data_ptr(), GATES.index(gate) + 1, *x.shape, x.shape[1], inner, columns,
           torch.get_num_threads())
    return y


def candidates(logits: Tensor, k: int, room: int, normalise: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The k most likely tokens of each row, and those tied with the k-th.

    Args:
        logits: [rows, vocab], float32 or bfloat16, rows contiguous; k <= vocab.
        room: candidates a row may have.
        normalise: also sum the exponentials.

    Returns:
        normalisers [rows] float32: log of the sum of exponentials, or the largest logit where ``normalise`` is off; NaN or
        infinite where the logits are. Then scores [rows, room] float32, most likely first, ties by id, -inf where there is
        no more; and ids [rows, room] int64. Both are None where more tie than there is room for.
    """
    rows, vocab = logits.shape
    normalisers, scores = torch.empty(rows, dtype=torch.float32), torch.empty(rows, room, dtype=torch.float32)
    ids, counts = torch.empty(rows, room, dtype=torch.int64), torch.empty(rows, dtype=torch.int64)
    _CANDIDATES[logits.dtype](logits.data_ptr(), rows, vocab, logits.stride(0), k, room, normalisers.data_ptr(),
                              scores.data_ptr(), ids.data_ptr(), counts.data_ptr(), normalise, 1.0, 1.0, 0.0, None, None,
                              None, None, torch.get_num_threads())
    return (normalisers, scores, ids) if int(counts.max()) <= room else (normalisers, None, None)


class Drawn(NamedTuple):
    """A token a row; all tensors [rows]."""

    tokens: Tensor  # int64
    normalisers: Tensor  # float32, as ``candidates`` gives them
    logits: Tensor  # float32: of the token, as it came
    logprobs: Tensor  # float32: of the token, under the distribution it was drawn from


def draw(logits: Tensor, k: int, room: int, normalise: bool, temperature: float, top_p: float, min_p: float,
         uniforms: np.ndarray) -> Drawn | None:
    """A token for each row: temperature, top-k, top-p, min-p and the draw by inversion in one pass.

    Args:
        logits, k, room, normalise: as for ``candidates``.
        uniforms: [rows] float64 in [0, 1).

    Returns:
        None where more candidates tie than there is room for. Where a normaliser is not finite nothing is drawn.
    """
    rows, vocab = logits.shape
    tokens, counts = torch.zeros(2, rows, dtype=torch.int64)
    normalisers, chosen, logprobs = torch.zeros(3, rows, dtype=torch.float32)
    _CANDIDATES[logits.dtype](logits.data_ptr(), rows, vocab, logits.stride(0), k, room, normalisers.data_ptr(), None, None,
                              counts.data_ptr(), normalise, temperature, top_p, min_p, uniforms.ctypes.data,
                              tokens.data_ptr(), chosen.data_ptr(), logprobs.data_ptr(), torch.get_num_threads())
    return Drawn(tokens, normalisers, chosen, logprobs) if int(counts.max()) <= room else None


def run_layers(codes: Any, layers: int, inputs: Any, workspace: int, tokens: int, dtype: torch.dtype) -> None:
    """Runs layers' programs (see ``program``): addresses of their codes, of all their inputs, and of workspace."""
    library().leapgen_layers(codes, layers, inputs, workspace, tokens, dtype.itemsize, _LINEAR[dtype], _GATED.get(dtype),
                             _ATTEND[dtype], torch.get_num_threads())


@lru_cache(maxsize=4096)
def _operands(weights: tuple[int, ...], widths: tuple[int, ...], biases: tuple[int | None, ...]) -> tuple[Any, ...]:
    """A layer's addresses as C arrays: made once, as a step calls with the same ones each time."""
    pointers = _POINTER * len(weights)
    return pointers(*weights), pointers(*biases), (_INT * len(widths))(*widths), widths


library()  # so that the operators find their functions
