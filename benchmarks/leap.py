"""The LeaP workload end to end: live KV caches against engines that are handed each path's whole text at every turn.

    python benchmarks/leap.py --model smollm2 --json benchmarks/results/leap.json \\
        --systems leapgen-live leapgen transformers@float32 vllm@float32=peers/vllm/bin/python

n paths, rounds of own tokens, after each round but the last a summary of every path, and the summaries of ``top-k`` peers
sent to each. All counts are fixed, so every system does the same tokens' worth of work; texts are handed over as token ids,
which spares the others tokenising and lets their prefix caches hit.

``leapgen-live`` is this engine by its verbs; ``leapgen`` is this engine used as the published code uses vLLM. ``plain``
decodes as many tokens with one prefill of as many injected ones.
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
    for name, value in {"n": 32, "prompt": 600, "rounds-of-leap": 5, "interval": 128, "summary": 48, "top-k": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    prompt = [(7 + 37 * i) % 40000 for i in range(a.prompt)]
    work = {"rounds": a.rounds_of_leap, "interval": a.interval, "summary": a.summary, "top_k": a.top_k,
            "trigger": list(range(100, 125)), "close": [5, 6, 7], "open": [11, 12, 13], "header": list(range(20, 26)),
            "nudge": list(range(200, 230))}
    systems = [System.start(spec, a.model, a.dtype, a.threads) for spec in a.systems]
    runs = {f"{s.name} {s.dtype}": (s, "leap") for s in systems}
    runs |= {f"plain, {s.name} {s.dtype}": (s, "plain") for s in systems if s.name == "leapgen-live"}
    answers: dict[str, list[dict]] = {name: [] for name in runs}
    warm = {**work, "rounds": 2, "interval": 8, "summary": 8}
    for turn in range(-1, a.rounds):
        for name, (system, kind) in runs.items():
            answer = system.leap(prompt, a.n, warm if turn < 0 else work, kind)
            if turn >= 0:
                answers[name].append(answer)
    for system in systems:
        system.stop()
    assert len({tuple(answer["lengths"]) for given in answers.values() for answer in given}) == 1, "unequal work"
    seconds = {name: statistics.median(answer["seconds"] for answer in given) for name, given in answers.items()}
    first = next(iter(seconds.values()))
    print(f"{Path(a.model).name}, n={a.n}, {a.rounds_of_leap} rounds of {a.interval}, summaries of {a.summary}, "
          f"top-{a.top_k}, {a.prompt}-token prompt, {machine.description()}")
    print(f"{'':34}{'ratio':>7}{'seconds':>9}{'prompt tokens':>15}")
    for name, value in seconds.items():
        print(f"  {name:32}{value / first:7.2f}{value:9.1f}{answers[name][0]['prompt_tokens']:15,}")
    if a.json:
        settings = {k: v for k, v in vars(a).items() if k not in ("json", "model", "systems")}
        a.json.parent.mkdir(parents=True, exist_ok=True)
        a.json.write_text(json.dumps({"machine": machine.description(), "settings": settings, "seconds": seconds,
                                      "answers": answers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
