"""What probes cost: a LeaP run at the paper's interval with them, and without.

    python benchmarks/probes.py --model smollm2 --interval 4096 --json benchmarks/results/probes.json

Paths reason to the end of their budgets. Three arms: no probes; answers before and after the comment and at the end; all
that there is, with scores of the answers in question, a placebo and a curve of four shares. A forward pass computes probes
and paths together, so a probe's time is its share of each pass, by tokens; the wall clock of the whole run stands beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import machine
import torch
from leap import QUESTION

from leapgen import EngineConfig, LeapConfig, LeapGenerator, LeapOutput
from leapgen.demo import load_smollm2
from leapgen.evaluation.placebos import OwnSummary
from leapgen.evaluation.probed import Probed
from leapgen.protocol.leap import Leap


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--interval", type=int, default=4096)
    parser.add_argument("--summary", type=int, default=256)
    parser.add_argument("--rest", type=int, default=512, help="own tokens after the block")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args(arguments)
    engine = EngineConfig(draft_tokens=0)
    generator = load_smollm2(a.dtype, engine) if a.model == "smollm2" else LeapGenerator.from_pretrained(
        a.model, dtype=getattr(torch, a.dtype), engine=engine)
    own = a.interval + a.rest
    leap = LeapConfig(interval=a.interval, max_new_tokens=own, min_new_tokens=own, summary_tokens=a.summary, explain=False)
    arms = {"without": Leap, "answers": partial(Probed, score=False),
            "everything": partial(Probed, placebo=OwnSummary, every=a.interval // 4)}
    generator.generate(QUESTION, n=a.n, leap=leap.replace(interval=8, max_new_tokens=16, min_new_tokens=16))  # warm
    results = {name: measured(generator, a.n, leap, protocol) for name, protocol in arms.items()}
    tokens = [results[name].pop("token_ids") for name in arms]
    assert tokens[0] == tokens[1] == tokens[2], "probes changed the run"
    print(f"{a.model} {a.dtype}, n={a.n}, interval {a.interval}, {machine.description()}")
    print(f"{'':12}{'seconds':>9}{'probes: decoded':>17}{'prefilled':>11}{'of all tokens':>15}{'of the time':>13}")
    for name, one in results.items():
        print(f"{name:12}{one['seconds']:9.1f}{one['decoded']:17}{one['prefilled']:11}{one['share of tokens']:15.1%}"
              f"{one['share of time']:13.1%}")
    if a.json:
        a.json.write_text(json.dumps({"machine": machine.description(), "settings": {**vars(a), "json": None}, **results},
                                     indent=1) + "\n")


def measured(generator: LeapGenerator, n: int, leap: LeapConfig, protocol: Any) -> dict[str, Any]:
    began = time.perf_counter()
    output: LeapOutput = generator.generate(QUESTION, n=n, leap=leap, protocol=protocol)
    seconds, run = time.perf_counter() - began, output.ledger
    probes = output.probes.get("ledger", {"computed": 0, "decoded": 0, "prefilled": 0, "seconds": {}})
    spent = sum(probes["seconds"].values())
    return {"seconds": seconds, "run": run.computed, "decoded": probes["decoded"], "prefilled": probes["prefilled"],
            "share of tokens": probes["computed"] / run.computed, "share of time": spent / run.total_seconds,
            "token_ids": [path.token_ids for path in output.paths]}


if __name__ == "__main__":
    main()
