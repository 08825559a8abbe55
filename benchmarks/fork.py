"""What a fork costs: seconds, bytes copied, and the KV memory that n paths on one long prompt really take.

    python benchmarks/fork.py --model smollm2 --n 32 --length 4096 --json benchmarks/results/fork.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import machine
import torch
from transformers import AutoModelForCausalLM

from leapgen import EngineConfig, SamplingConfig
from leapgen.engine import Engine
from leapgen.engine.stream import Stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=60, help="tokens each path then decodes")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16).eval()
    engine = Engine(model, EngineConfig(kv_cache_bytes=2 << 30, compile=False))
    copies: list[tuple[int, int]] = []
    copy_page = engine.scheduler._copy_page
    engine.scheduler._copy_page = lambda source, target: (copies.append((source, target)), copy_page(source, target))

    prompt = [(7 + 37 * i) % 40000 for i in range(a.length)]
    path = engine.add(prompt, SamplingConfig(), limit=a.length + 1)
    while engine.has_work:
        engine.step()
    engine.crop(path, a.length)  # the prompt, all of it computed
    used = engine.pool.num_used
    began = time.perf_counter()
    paths = [path, *(engine.fork(path, stream=Stream(0, i)) for i in range(1, a.n))]
    seconds = time.perf_counter() - began
    at_fork = {"milliseconds": 1000 * seconds, "pages_copied": len(copies), "pages_taken": engine.pool.num_used - used}
    for i, one in enumerate(paths):  # as a LeaP block does: a few tokens of its own, then decoding
        engine.extend(one, range(100 + i, 104 + i), limit=a.length + 4 + a.steps)
    while engine.has_work:
        engine.step()
    page = engine.config.page_size
    with_kv = [one.num_computed for one in paths]
    unique = a.length + sum(computed - a.length for computed in with_kv)
    peak = engine.pool.peak_used * page
    result = {f"fork of {a.n} paths at {a.length} tokens": at_fork,
              "peak_kv_tokens": peak, "unique_tokens": unique, "peak_over_unique": peak / unique,
              "kv_bytes_per_token": engine.runner.cache.bytes_per_token, "pages_copied_later": len(copies)}
    print(json.dumps(result, indent=1))
    if a.json:
        a.json.parent.mkdir(parents=True, exist_ok=True)
        a.json.write_text(json.dumps({"machine": machine.description(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
