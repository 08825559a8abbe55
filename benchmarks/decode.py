"""Plain parallel decoding: tokens a second beside other engines, same model, sampling, number of tokens and threads.

    python benchmarks/decode.py --model smollm2 --n 32 --steps 512 --json benchmarks/results/decode-32-512.json \\
        --systems leapgen transformers@float32 vllm@float32=peers/vllm/bin/python openvino@float32=peers/openvino/bin/python

Engines take turns in one run after a warm-up each; medians and ratios are printed, with the machine beside them. Each
engine may have the dtype that is fastest for it on the machine (NAME@DTYPE). ``setup_peers.sh`` makes the environments and
the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import machine
from systems import System, add_arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=60, help="tokens")
    a = parser.parse_args()
    prompt = [(7 + 37 * i) % 40000 for i in range(a.prompt)]
    systems = [System.start(spec, a.model, a.dtype, a.threads) for spec in a.systems]
    seconds: dict[str, list[float]] = {f"{s.name} {s.dtype}": [] for s in systems}
    for turn in range(-1, a.rounds):
        for system, times in zip(systems, seconds.values(), strict=True):
            steps = a.steps if turn >= 0 else min(a.steps, 16)
            _, taken = system.generate([prompt], a.n, steps)
            if turn >= 0:
                times.append(taken)
    for system in systems:
        system.stop()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = next(iter(medians.values()))
    result = {"n": a.n, "steps": a.steps, "prompt_tokens": a.prompt,
              "times_as_fast": {name: value / ours for name, value in medians.items()},
              "tokens_per_second": {name: a.n * a.steps / value for name, value in medians.items()},
              "milliseconds_a_step": {name: 1000 * value / a.steps for name, value in medians.items()},
              "seconds": seconds}
    print(f"{Path(a.model).name}, n={a.n}, {a.steps} steps after {a.prompt} tokens, {machine.description()}")
    print(f"{'':28}{'ratio':>7}{'tokens/s':>10}{'ms a step':>11}")
    for name, value in medians.items():
        print(f"  {name:26}{value / ours:7.2f}{a.n * a.steps / value:10.1f}{1000 * value / a.steps:11.1f}")
    if a.json:
        a.json.parent.mkdir(parents=True, exist_ok=True)
        a.json.write_text(json.dumps({"machine": machine.description(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
