"""The C++ kernels, called through their C interface. Importing this does not need them to be built."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from leapgen_kernels import interface
from leapgen_kernels.interface import Gate, Strides

log = logging.getLogger(__name__)

Kernel: TypeAlias = Callable[..., None]  # a C function
Pointers: TypeAlias = "ctypes.Array[ctypes.c_void_p]"

AMX = ("amx", "amx_model")  # bfloat16 kernels by matrix tiles (AMX), and by a model of them in software
TILE = interface.TILE  # positions: what sequences share ends at multiples of it
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_KERNELS = {"attend": (*DTYPES.values(), *AMX), "linear": (*DTYPES.values(), *AMX), "gated": AMX,
            "candidates": tuple(DTYPES.values())}
_STRIDES = ctypes.c_int64 * len(Strides._fields)
# The kernels of this machine.
_ATTEND: dict[torch.dtype, Kernel] = {}
_LINEAR: dict[torch.dtype, Kernel] = {}
_GATED: dict[torch.dtype, Kernel] = {}
_CANDIDATES: dict[torch.dtype, Kernel] = {}


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none; ``missing`` says why."""
    return _load()[0]


@lru_cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The compiled kernels, or why there are none.

    Raises:
        ImportError: the kernels were built from other sources than this package.
    """
    spec = find_spec("leapgen_kernels._cpu")
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None, "they were not built (was there no C++ compiler when leapgen was installed?)"
    try:
        lib = ctypes.CDLL(spec.origin)
    except OSError as error:  # another libc or architecture than it was built for, no libgomp
        return None, f"they cannot be loaded ({error})"
    try:
        _declare(lib)
    except (AttributeError, ValueError) as error:
        raise ImportError(f"{spec.origin} was built from other sources than leapgen's Python code ({error}); "
                          "build it again: pip install -e .") from error
    for dtype, name in DTYPES.items():
        _ATTEND[dtype], _LINEAR[dtype], _CANDIDATES[dtype] = (
            getattr(lib, f"leapgen_{kernel}_{name}") for kernel in ("attend", "linear", "candidates"))
    if lib.leapgen_has_amx() and _amx_agrees(lib):
        _ATTEND[torch.bfloat16], _LINEAR[torch.bfloat16] = lib.leapgen_attend_amx, lib.leapgen_linear_amx
        _GATED[torch.bfloat16] = lib.leapgen_gated_amx
    return lib, ""


def _declare(lib: ctypes.CDLL) -> None:
    """Declares the library's functions to ctypes.

    Raises:
        AttributeError: it lacks one. ValueError: its interface is another than this package's.
    """
    lib.leapgen_interface.restype = ctypes.c_char_p
    if differing := interface.differences(lib.leapgen_interface().decode()):
        raise ValueError(f"it declares otherwise: {', '.join(differing)}")
    functions = {"leapgen_layers": "LayersRunner"}
    for kernel, names in _KERNELS.items():
        functions |= {f"leapgen_{kernel}_{name}": f"{kernel.title()}Kernel" for name in names}
    for name, signature in functions.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = interface.argument_types(signature), None


def _amx_agrees(lib: ctypes.CDLL) -> bool:
    """Whether the machine's tiles compute what their model does; a machine that claims to have them may be an emulator."""
    generator = torch.Generator().manual_seed(0)
    shapes = (40, 70), (64, 70), (64, 70), (50, 64)
    x, *weights = (torch.randn(shape, generator=generator, dtype=torch.float32).bfloat16() / 8 for shape in shapes)
    results = []
    for name in AMX:
        linear_kernel, gated_kernel = (getattr(lib, f"leapgen_{kernel}_{name}") for kernel in ("linear", "gated"))
        y, = linear(x, weights[:1], [None], linear_kernel)
        results.append((y.float(), gated(x, "silu", weights, [None] * 3, gated_kernel).float()))
    agree = all(torch.allclose(found, model, rtol=2**-7, atol=2**-7) for found, model in zip(*results, strict=True))
    if not agree:
        log.warning("this machine's matrix tiles (AMX) compute something else than they should; they are not used.")
    return agree


def amx() -> bool:
    """Whether this machine computes bfloat16 linear layers and attention by matrix tiles (AMX)."""
    lib = library()
    return lib is not None and _ATTEND[torch.bfloat16] is lib.leapgen_attend_amx


def serves(tensor: Tensor) -> bool:
    """Whether the kernels are built and take tensors like this one."""
    return library() is not None and _takes(tensor)


def missing(tensor: Tensor) -> str:
    """Why there are no kernels for a tensor that they could serve; empty where there are, or where they could not."""
    return _load()[1] if _takes(tensor) else ""


def _takes(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in DTYPES


def attend(query: Tensor, key: Tensor, value: Tensor, plan: Tensor, scaling: float, sliding_window: int | None,
           softcap: float | None, sinks: Tensor | None, kernel: Kernel | None = None) -> Tensor:
    """Stores a flat mixed step's keys and values in the pool and attends over its pages, computed in float32.

    By matrix tiles (AMX) the weights are also rounded to bfloat16 before they are multiplied with values.

    Args:
        query: [1, heads, tokens, key_dim]; key: [1, kv_heads, tokens, key_dim]; value: [1, kv_heads, tokens, value_dim];
            float32 or bfloat16, as the pool is. Tokens past the plan's are padding.
        plan: int64: a ``PlanHeader``, then the addresses of the pool's layers, then what ``csrc/attention/plan.h`` reads. A
            call takes the next layer's addresses, and advances the plan.
        scaling: above 0.
        sliding_window: positions a query sees, itself included; softcap, sinks [heads]: as in the oracle.
        kernel: None takes the best one for the dtype on this machine.

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
    strides = Strides(query_token, query_head, key_token, key_head, value_token, value_head)
    if sinks is not None:
        sinks = sinks.float().contiguous()
    kernel = kernel or _ATTEND[query.dtype]
    kernel(
        plan.data_ptr(), query.data_ptr(), key.data_ptr(), value.data_ptr(), _STRIDES(*strides), output.data_ptr(), tokens,
        heads, kv_heads, key_dim, value_dim, None if sinks is None else sinks.data_ptr(), sliding_window or 0, scaling,
        softcap or 0.0, torch.get_num_threads())
    return output


def linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None],
           kernel: Kernel | None = None) -> list[Tensor]:
    """``x @ weight.T + bias`` for each weight, read in place; sums in float32.

    A row's result has the same bits alone and in a batch.

    Args:
        x: [..., depth]; weights: [columns, depth] each, contiguous; biases: [columns] each, or None; all float32 or all
            bfloat16.
        kernel: None takes the best one for the dtype on this machine.

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
    operands = _operands_of(weights, biases)
    outputs = [torch.empty((*outer, width), dtype=x.dtype) for width in operands.widths]
    kernel = kernel or _LINEAR[x.dtype]
    results = (ctypes.c_void_p * len(outputs))(*[y.data_ptr() for y in outputs])
    kernel(x.data_ptr(), operands.weights, operands.biases, results, operands.columns, len(outputs), x.numel() // depth,
           depth, stride, torch.get_num_threads())
    return outputs


def gated(x: Tensor, gate: str, weights: Sequence[Tensor], biases: Sequence[Tensor | None],
          kernel: Kernel | None = None) -> Tensor:
    """``(f(x V^T + a) * (x W^T + b)) U^T + c``; the product between the layers is never stored as rows.

    Sums, f and the product are in float32; the product is rounded to bfloat16, as the last layer's x. A row's result has the
    same bits alone and in a batch.

    Args:
        x: [rows, depth] bfloat16, contiguous.
        gate: f, the name of a ``Gate`` in lower case.
        weights: V, W [inner, depth] and U [columns, inner], contiguous; inner a multiple of TILE_DEPTH.
        biases: a, b [inner] and c [columns], or None each.
        kernel: None takes the one for this machine.

    Returns:
        [rows, columns] bfloat16.

    Raises:
        NotImplementedError: there is no such kernel for this machine.
    """
    kernel = kernel or _GATED.get(x.dtype)
    if kernel is None:
        raise NotImplementedError("gated layers are one kernel only where matrix tiles (AMX) are")
    operands, (rows, depth) = _operands_of(weights, biases), x.shape
    inner, _, columns = operands.widths
    y = torch.empty((rows, columns), dtype=x.dtype)
    kernel(x.data_ptr(), operands.weights, operands.biases, y.data_ptr(), Gate[gate.upper()], rows, depth, depth, inner,
           columns, torch.get_num_threads())
    return y


def candidates(logits: Tensor, k: int, capacity: int, normalise: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The k most likely tokens of each row, and those that tie with the k-th.

    Args:
        logits: [rows, vocab], float32 or bfloat16, rows contiguous; k <= vocab.
        capacity: candidates a row may have.
        normalise: also sum the exponentials.

    Returns:
        normalisers [rows] float32: the logsumexp, or the largest logit where ``normalise`` is off; NaN or infinite where the
        logits are. scores [rows, capacity] float32: most likely first, ties by id, -inf past the last. ids [rows, capacity]
        int64. Scores and ids are None where a row has more candidates than ``capacity``.
    """
    rows, vocab = logits.shape
    normalisers, scores = torch.empty(rows, dtype=torch.float32), torch.empty(rows, capacity, dtype=torch.float32)
    ids, counts = torch.empty(rows, capacity, dtype=torch.int64), torch.empty(rows, dtype=torch.int64)
    _CANDIDATES[logits.dtype](logits.data_ptr(), rows, vocab, logits.stride(0), k, capacity, normalisers.data_ptr(),
                              scores.data_ptr(), ids.data_ptr(), counts.data_ptr(), normalise, 1.0, 1.0, 0.0, None, None,
                              None, None, torch.get_num_threads())
    return (normalisers, scores, ids) if int(counts.max()) <= capacity else (normalisers, None, None)


class Drawn(NamedTuple):
    """A token of each row; all tensors [rows]."""

    tokens: Tensor  # int64
    normalisers: Tensor  # float32, as ``candidates`` gives them
    logits: Tensor  # float32: of the token, as given
    logprobs: Tensor  # float32: of the token, under the distribution it is drawn from


def draw(logits: Tensor, k: int, capacity: int, normalise: bool, temperature: float, top_p: float, min_p: float,
         uniforms: np.ndarray) -> Drawn | None:
    """Draws a token of each row: temperature, top-k, top-p, min-p and the draw by inversion in one pass.

    Args:
        logits, k, capacity, normalise: as for ``candidates``.
        uniforms: [rows] float64 in [0, 1).

    Returns:
        None where a row has more candidates than ``capacity``. Where a normaliser is not finite, no token is drawn.
    """
    rows, vocab = logits.shape
    tokens, counts = torch.zeros(2, rows, dtype=torch.int64)
    normalisers, chosen, logprobs = torch.zeros(3, rows, dtype=torch.float32)
    _CANDIDATES[logits.dtype](logits.data_ptr(), rows, vocab, logits.stride(0), k, capacity, normalisers.data_ptr(), None,
                              None, counts.data_ptr(), normalise, temperature, top_p, min_p, uniforms.ctypes.data,
                              tokens.data_ptr(), chosen.data_ptr(), logprobs.data_ptr(), torch.get_num_threads())
    return Drawn(tokens, normalisers, chosen, logprobs) if int(counts.max()) <= capacity else None


def run_layers(codes: Pointers, layers: int, inputs: Pointers, workspace: int, tokens: int, dtype: torch.dtype) -> None:
    """Runs layers' programs (see ``leapgen_kernels.program``).

    Args:
        codes: addresses of the programs' codes; inputs: addresses of all their inputs, in a row.
        workspace: address; dtype: of what kernels read and write.

    Raises:
        RuntimeError: the kernels are missing.
    """
    lib, reason = _load()
    if lib is None:
        raise RuntimeError(f"a program needs the compiled kernels, but {reason}")
    lib.leapgen_layers(codes, layers, inputs, workspace, tokens, dtype.itemsize, _LINEAR[dtype], _GATED.get(dtype),
                       _ATTEND[dtype], torch.get_num_threads())


class _Operands(NamedTuple):
    """Linear layers as C arrays."""

    weights: Pointers
    biases: Pointers
    columns: ctypes.Array[ctypes.c_int64]
    widths: tuple[int, ...]  # columns, too


def _operands_of(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> _Operands:
    return _operands(tuple(w.data_ptr() for w in weights), tuple(None if b is None else b.data_ptr() for b in biases),
                     tuple(w.shape[0] for w in weights))


@lru_cache(maxsize=4096)
def _operands(weights: tuple[int, ...], biases: tuple[int | None, ...], widths: tuple[int, ...]) -> _Operands:
    """Kept from call to call: every step has the same addresses."""
    pointers = ctypes.c_void_p * len(weights)
    return _Operands(pointers(*weights), pointers(*biases), (ctypes.c_int64 * len(widths))(*widths), widths)


library()  # so that the operators find their functions
