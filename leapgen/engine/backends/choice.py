"""Which backend computes a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from leapgen_kernels import cpu

from leapgen.config import EngineConfig
from leapgen.engine.backends.base import Backend
from leapgen.engine.backends.cpu.backend import CPUBackend
from leapgen.engine.backends.cuda.backend import CUDABackend
from leapgen.engine.backends.reference import ReferenceBackend
from leapgen.engine.memory.kv import LayerSpec

logger = logging.getLogger(__name__)

BACKENDS: tuple[type[Backend[Any]], ...] = (CUDABackend, CPUBackend, ReferenceBackend)  # the last one serves everything


def choose(layers: Mapping[int, LayerSpec], config: EngineConfig) -> Backend[Any]:
    """The first backend that serves all of a model's attention layers; the reference where no kernels are wanted."""
    if not config.kernels:
        return ReferenceBackend(config)
    _warn_of_missing_kernels(layers)
    return next(backend for backend in (kind(config) for kind in BACKENDS) if backend.serves(layers))


def _warn_of_missing_kernels(layers: Mapping[int, LayerSpec]) -> None:
    """Says so if the C++ kernels would serve the layers and are not there."""
    reason = next(filter(None, (cpu.missing(spec.empty(0)) for spec in layers.values())), "")
    if reason:
        logger.warning(
            "the C++ kernels are not used: %s. Plain torch does the work: steps take about twice as long in float32, four "
            "to eight times as long in bfloat16, and draft_tokens=None drafts none. Build them with a C++ compiler that has "
            "OpenMP: pip install -e . in leapgen's folder. EngineConfig(kernels=False) asks for plain torch.", reason)
