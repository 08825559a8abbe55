"""What figures were measured on, and the floor they are measured against."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers


def description() -> dict[str, str | int | float]:
    """The machine and the libraries, for the JSON beside every figure."""
    name, instructions = platform.processor() or platform.machine(), torch.backends.cpu.get_cpu_capability()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        name = names[0] if names else name
        if any(line.startswith("flags") and "amx_bf16" in line.split() for line in lines):
            instructions += ", AMX"
    facts: dict[str, str | int | float] = {
        "cpu": name, "threads": torch.get_num_threads(), "instructions": instructions,
        "torch": torch.__version__, "transformers": transformers.__version__}
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(), "gpu_bytes": torch.cuda.get_device_properties(0).total_memory,
                  "cuda": torch.version.cuda or "", "triton": metadata.version("triton") if find_spec("triton") else ""}
    return facts


def interleaved(systems: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each call; the systems take turns, so that what disturbs the machine disturbs them all."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(-warm_up, rounds):
        for name, system in systems.items():
            began = time.perf_counter()
            system()
            if turn >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


def copier(size: int = 1 << 28) -> Callable[[], object]:
    """Copies ``size`` bytes in memory with all of torch's threads: the bandwidth others are held against."""
    source, target = torch.ones(size // 4), torch.zeros(size // 4)
    return lambda: target.copy_(source)


def reader(size: int = 1 << 28) -> Callable[[], object]:
    """Reads ``size`` bytes once."""
    source = torch.ones(size // 4)
    return lambda: source.sum()
