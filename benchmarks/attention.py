"""Decode attention over pages: bytes of KV a second, beside torch's SDPA, a copy of memory, and with a shared prefix.

    python benchmarks/attention.py --dtype float32 --json benchmarks/results/attention.json

One call of the kernel also stores the step's keys and values. SDPA is given K and V as dense tensors, its best case:
a pool would have to be gathered for it first. Layers take turns, so that nothing is left in cache from the call before.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import machine
import torch
from leapgen_kernels import cpu

from leapgen.engine.backends.cpu.backend import CPUBackend
from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.step import Step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--shared", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--page-size", type=int, default=16)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    dtype = getattr(torch, a.dtype)

    def attention(length: int, shared: int):
        """A step of n sequences of this length, of which the first ``shared`` positions are the same pages."""
        each, common = -(-length // a.page_size), shared // a.page_size
        spec = LayerSpec(a.kv_heads, a.dim, a.dim, dtype, torch.device("cpu"))
        cache = KVCache(dict.fromkeys(range(a.layers), spec), common + a.n * (each - common), a.page_size)
        for layer in range(a.layers):
            cache.keys[layer].normal_()
            cache.values[layer].normal_()
        pages = [[*range(common), *range(common + i * (each - common), common + (i + 1) * (each - common))]
                 for i in range(a.n)]
        plan = CPUBackend().prepare(Step.build(cache, pages, [length - 1] * a.n, [length] * a.n))
        query = torch.randn(1, a.heads, a.n, a.dim).to(dtype)
        key = torch.randn(1, a.kv_heads, a.n, a.dim).to(dtype)

        def run() -> None:
            for layer in range(a.layers):
                cpu.attend(query, key, key, plan.at(layer), a.dim**-0.5, None, None, None)

        run.cache = cache  # keeps the pool alive
        return run

    dense = [torch.randn(2, a.n, a.kv_heads, a.length, a.dim).to(dtype) for _ in range(a.layers)]
    dense_query = torch.randn(a.n, a.heads, 1, a.dim).to(dtype)

    def sdpa() -> None:
        for keys, values in dense:
            torch.nn.functional.scaled_dot_product_attention(dense_query, keys, values, enable_gqa=True)

    copied = 1 << 28
    systems = {"kernel": attention(a.length, 0), "sdpa": sdpa,
               "copy": machine.copier(copied), "read": machine.reader(copied),
               f"kernel, {a.shared} + 16 tokens": attention(a.shared + 16, 0),
               f"kernel, {a.shared} + 16 tokens, {a.shared} shared": attention(a.shared + 16, a.shared)}
    times = machine.interleaved(systems, a.rounds, warm_up=2)
    seconds = machine.medians(times)
    kv_bytes = a.layers * a.n * a.length * a.kv_heads * a.dim * 2 * dtype.itemsize
    names = list(seconds)
    result = {
        "kv_gigabytes_per_second": kv_bytes / seconds["kernel"] / 1e9,
        "copy_gigabytes_per_second": {"bytes copied": copied / seconds["copy"] / 1e9,
                                      "read and written": 2 * copied / seconds["copy"] / 1e9},
        "read_gigabytes_per_second": copied / seconds["read"] / 1e9,
        "kernel_over_bytes_copied": kv_bytes / seconds["kernel"] / (copied / seconds["copy"]),
        "kernel_over_bytes_read_and_written": kv_bytes / seconds["kernel"] / (2 * copied / seconds["copy"]),
        "kernel_over_read": kv_bytes / seconds["kernel"] / (copied / seconds["read"]),
        "sdpa_time_over_kernel": seconds["sdpa"] / seconds["kernel"],
        "not_shared_time_over_shared": seconds[names[4]] / seconds[names[5]],
        "milliseconds_a_layer": {n: 1e3 * s / a.layers for n, s in seconds.items() if n not in ("copy", "read")},
    }
    print(json.dumps(result, indent=2))
    if a.json:
        settings = {k: v for k, v in vars(a).items() if k != "json"}
        a.json.write_text(json.dumps({"machine": machine.description(), "settings": settings, "result": result,
                                      "seconds": times}, indent=2) + "\n")


if __name__ == "__main__":
    main()
