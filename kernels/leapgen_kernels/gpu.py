"""The Triton kernels, called with a step's tensors. Importing this does not need Triton."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = {torch.float32, torch.bfloat16, torch.float16}
MIN_ROWS = 16  # the smallest side of a tensor core's product


class Launch(NamedTuple):
    """Launch settings of the attention kernel, bounded by registers and shared memory; to be tuned by measuring."""

    rows: int = 64  # of a wide tile, in 16 bits
    max_columns: int = 64  # keys that a Triton program loads at once, at most
    stages: int = 3  # loads of keys and values in flight, at most
    waves: int = 8  # Triton programs for each multiprocessor


LAUNCH = Launch()


class Tiles(NamedTuple):
    """A step's attention, cut into tiles on one device by ``leapgen.engine.backends.cuda.tiles``."""

    slots: Tensor  # [tokens] int64: where each token's KV is stored; below 0 is padding, stored nowhere
    positions: Tensor  # [tokens] int32
    part_starts: Tensor  # [tokens + 1] int32: where each token's parts begin
    pages: Tensor  # int32: the sequences' pages, to which the tiles point
    narrow: Tensor  # [tiles, 8] int32: tiles of few rows; ``leapgen_kernels.paged`` describes the fields
    wide: Tensor  # [tiles, 8] int32
    num_parts: int  # of all tokens


class TileShape(NamedTuple):
    """How many rows, (token, head), a tile of a grouped-head layer holds.

    float32 is multiplied from registers, without tensor cores: its tiles have fewer rows.
    """

    heads: int  # of a group: they read the same keys
    narrow_rows: int
    wide_rows: int

    @classmethod
    def of(cls, group: int, dtype: torch.dtype) -> TileShape:
        rows = MIN_ROWS if dtype == torch.float32 else LAUNCH.rows
        heads = min(group, rows)
        return cls(heads, max(MIN_ROWS, _power_of_two(heads)), rows)

    @property
    def narrow_tokens(self) -> int:
        return self.narrow_rows // self.heads

    @property
    def wide_tokens(self) -> int:
        return self.wide_rows // self.heads


@lru_cache
def library() -> ModuleType | None:
    """The kernels, or None where Triton is not installed (it has no wheels outside Linux)."""
    return None if find_spec("triton") is None else _paged()


def _paged() -> ModuleType:
    from leapgen_kernels import paged

    return paged


@lru_cache
def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors."""
    from triton.runtime import JITFunction

    return not isinstance(_paged().attend, JITFunction)


def serves(tensor: Tensor) -> bool:
    """Whether the kernels take tensors like this one."""
    return tensor.is_cuda and tensor.dtype in DTYPES and library() is not None


def programs(device: torch.device) -> int:
    """How many Triton programs keep the device busy: several waves on each multiprocessor, so that all end together."""
    return LAUNCH.waves * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def attend(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, tiles: Tiles, *, scaling: float,
           sliding_window: int | None = None, softcap: float | None = None, sinks: Tensor | None = None) -> Tensor:
    """Stores a flat mixed step's keys and values in the pool and attends over its pages.

    Scores, softmax and sums are float32; weights are rounded to the values' dtype before they are multiplied.

    Args:
        query: [1, heads, tokens, key_dim]; key: [1, kv_heads, tokens, key_dim]; value: [1, kv_heads, tokens,
            value_dim]; float32, bfloat16 or float16, as the pool is.
        keys: [pages, page_size, kv_heads, key_dim]; values: [pages, page_size, kv_heads, value_dim]: the layer's pool.
        tiles: cut for the ``TileShape`` of such a layer, on the same device.
        sliding_window: positions a query sees, itself included; softcap, sinks [heads]: as in the oracle.

    Returns:
        [1, tokens, heads, value_dim] in the query's dtype; zeros for padding.
    """
    if query.is_cuda and query.device.index != torch.cuda.current_device():
        with torch.cuda.device(query.device):
            return attend(query, key, value, keys, values, tiles, scaling=scaling, sliding_window=sliding_window,
                          softcap=softcap, sinks=sinks)
    paged = _paged()
    query, key, value = (tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (query, key, value))
    _, heads, tokens, key_dim = query.shape
    page_size, kv_heads, value_dim = values.shape[1:]
    group, shape = heads // kv_heads, TileShape.of(heads // kv_heads, query.dtype)
    paged.store[(tokens,)](
        key, value, keys, values, tiles.slots, key.stride(2), key.stride(1), value.stride(2), value.stride(1), kv_heads,
        KEY_DIM=key_dim, VALUE_DIM=value_dim, KEY_BLOCK=_power_of_two(kv_heads * key_dim),
        VALUE_BLOCK=_power_of_two(kv_heads * value_dim))
    # Uninitialised: only parts that a tile has written are read.
    sums = query.new_empty(tiles.num_parts, heads, value_dim, dtype=torch.float32)
    tops = query.new_empty(2, tiles.num_parts, heads, dtype=torch.float32)
    key_block, value_block = (max(MIN_ROWS, _power_of_two(dim)) for dim in (key_dim, value_dim))
    columns = _columns(key_block + value_block, keys.element_size())
    for listed, rows in ((tiles.wide, shape.wide_rows), (tiles.narrow, shape.narrow_rows)):
        if len(listed):
            paged.attend[(len(listed) * kv_heads * -(-group // shape.heads),)](
                query, keys, values, tiles.pages, listed, tiles.positions, tiles.part_starts, sums, tops[0], tops[1],
                query.stride(2), query.stride(1), kv_heads, scaling, softcap or 1.0, sliding_window or 0,
                PAGE_SIZE=page_size, KEY_DIM=key_dim, VALUE_DIM=value_dim, KEY_BLOCK=key_block, VALUE_BLOCK=value_block,
                GROUP=group, HEADS=shape.heads, ROWS=rows, COLUMNS=columns,
                STAGES=_stages(query.device), CAPPED=softcap is not None, WINDOWED=sliding_window is not None,
                WIDEN=interpreted() and query.dtype == torch.bfloat16, num_warps=8 if rows >= 128 else 4)
    output = query.new_empty(1, tokens, heads, value_dim)
    paged.merge[(tokens * heads,)](
        sums, tops[0], tops[1], tiles.part_starts, sinks if sinks is None else sinks.contiguous(), output, heads,
        VALUE_DIM=value_dim, VALUE_BLOCK=value_block, PARTS=MIN_ROWS, SINKS=sinks is not None, num_warps=2)
    return output


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below the number."""
    return 1 << (number - 1).bit_length()


def _columns(width: int, element_size: int) -> int:
    """Keys that a Triton program loads at once. Shared memory holds three loads in 16 bits, registers one in float32."""
    fit = (24 << 10 if element_size == 2 else 4 << 10) // width
    return max(min(_power_of_two(fit + 1) // 2, LAUNCH.max_columns), MIN_ROWS)


def _stages(device: torch.device) -> int:
    """Loads of keys and values in flight: as many as fit in a multiprocessor's shared memory."""
    if device.type != "cuda":
        return 1
    shared_memory = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return LAUNCH.stages if shared_memory > 160 << 10 else min(LAUNCH.stages, 2)
