"""How many pages a KV pool has: what the limit allows of the memory that is free."""

from __future__ import annotations

from collections.abc import Mapping

import psutil
import torch

from leapgen.config import EngineConfig
from leapgen.engine.memory.kv import LayerSpec


class PoolTooSmallError(RuntimeError):
    """The pool cannot hold even one sequence: ``sequence``, or None before there is any."""

    def __init__(self, message: str, sequence: object = None) -> None:
        super().__init__(message)
        self.sequence = sequence


def pages_within(config: EngineConfig, layers: Mapping[int, LayerSpec], context_length: int) -> int:
    """Pages that the limit allows, and never more than a full batch of full contexts uses.

    Raises:
        PoolTooSmallError: the limit does not hold two.
    """
    page_bytes = _bytes_per_token(layers) * config.page_size
    limit = _free_bytes(layers) * config.kv_cache_fraction if config.kv_cache_bytes is None else config.kv_cache_bytes
    pages = int(limit // page_bytes)
    if pages < 2:
        raise PoolTooSmallError(f"a KV limit of {int(limit)} bytes holds {pages} pages of {page_bytes} bytes "
                                f"({config.page_size} tokens); at least two are needed. Raise kv_cache_bytes or "
                                "kv_cache_fraction.")
    return min(pages, config.max_batch_size * -(-context_length // config.page_size))


def _bytes_per_token(layers: Mapping[int, LayerSpec]) -> int:
    return sum(spec.bytes_per_token for spec in layers.values())


def _free_bytes(layers: Mapping[int, LayerSpec]) -> float:
    """Free memory the pool may be cut from: of the device that, for the layers it holds, has the least."""
    held: dict[torch.device, int] = {}
    for spec in layers.values():
        held[spec.device] = held.get(spec.device, 0) + spec.bytes_per_token
    return min(_free_on(device) * _bytes_per_token(layers) / part for device, part in held.items())


def _free_on(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
