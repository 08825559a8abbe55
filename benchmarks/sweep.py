"""What a decode step's time is made of, over the number of paths and over the context's length.

    python benchmarks/sweep.py --model smollm2 --json benchmarks/results/sweep.json --plot benchmarks/results/sweep.png

Time inside the C++ kernels is measured at their calls; the rest of a step is Python and torch's small operations. What they
work with has to come back into the caches once KV has pushed it out, so they are measured again where attention reads no KV
("rest alone"): that is what a step's own work takes. The floor is the bytes a step has to read (weights, and every page of
KV once) at the read bandwidth measured in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections import Counter
from pathlib import Path

import machine
import torch
from leapgen_kernels import cpu
from transformers import AutoModelForCausalLM

from leapgen import EngineConfig, SamplingConfig
from leapgen.engine import Engine
from leapgen.engine.stream import Stream

KERNELS = {"attention": ["_ATTEND"], "linear": ["_LINEAR", "_GATED"], "candidates": ["_CANDIDATES"]}
PARTS = (*KERNELS, "rows")  # norms, rotary embeddings and activations, row by row; the clocks' own callbacks count as rows


class Clock:
    """Seconds spent in each kernel since the last ``take``.

    While ``attends`` is off, attention gives zeros and touches no KV.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.attends = True
        for name, tables in KERNELS.items():
            for functions in (getattr(cpu, table) for table in tables):
                for dtype, function in functions.items():
                    functions[dtype] = self.timed(name, function, dtype)
        self.run, cpu.run_layers = cpu.run_layers, self.run_layers

    def run_layers(self, *arguments):
        """Row by row is what a layer's program does between kernels."""
        inside = self.seconds.total()
        began = time.perf_counter()
        self.run(*arguments)
        self.seconds["rows"] += time.perf_counter() - began - (self.seconds.total() - inside)

    def timed(self, name, function, dtype):
        """The function with a clock around it, as a C function: the layers' programs call kernels from C, too."""
        def call(*arguments):
            began = time.perf_counter()
            if name == "attention" and not self.attends:
                _, _, _, _, _, output, tokens, heads, _, _, value_dim, *_ = arguments
                ctypes.memset(output, 0, tokens * heads * value_dim * dtype.itemsize)
            else:
                function(*arguments)
            self.seconds[name] += time.perf_counter() - began

        clocked = ctypes.CFUNCTYPE(None, *function.argtypes)(call)
        clocked.argtypes = function.argtypes
        return clocked

    def take(self) -> Counter[str]:
        seconds, self.seconds = self.seconds, Counter()
        return seconds


def steps_of(engine: Engine, clock: Clock, n: int, length: int, steps: int) -> dict[str, float]:
    """Medians in milliseconds of decode steps of n paths of their own, about ``length`` positions long."""
    sampling = SamplingConfig(temperature=0.6, top_k=40, top_p=0.95, logprobs=False)
    paths = [engine.add([(7 + 37 * j + 101 * i) % 40000 for j in range(length - steps)], sampling, stream=Stream(0, i),
                        limit=length + 4) for i in range(n)]
    times: dict[str, list[float]] = {name: [] for name in ("step", *PARTS, "rest")}
    while engine.has_work:
        clock.take()
        began = time.perf_counter()
        events = engine.step()
        step, inside = time.perf_counter() - began, clock.take()
        if len(events) == n:  # all paths decode
            for name in PARTS:
                times[name].append(inside[name])
            times["step"].append(step)
            times["rest"].append(step - sum(inside.values()))
    for path in paths:
        engine.release(path)
    return {name: 1000 * statistics.median(values[2:]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--paths", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 500, 1000, 2000, 4000])
    parser.add_argument("--at-length", type=int, default=128, help="length of the sweep over paths")
    parser.add_argument("--at-paths", type=int, default=8, help="paths of the sweep over lengths")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=getattr(torch, a.dtype)).eval()
    engine = Engine(model, EngineConfig(kv_cache_bytes=6 << 30, draft_tokens=0))  # a token a path and step
    clock = Clock()
    read = machine.reader()
    bandwidth = 2**28 / min(machine.interleaved({"read": read}, 7)["read"])
    weights = sum(p.numel() * p.element_size() for p in model.parameters())

    def row(n: int, length: int) -> dict[str, float]:
        kv = n * (length - a.steps // 2) * engine.runner.cache.bytes_per_token
        found = steps_of(engine, clock, n, length, a.steps)
        clock.attends = False
        found["rest alone"] = steps_of(engine, clock, n, length, a.steps)["rest"]
        clock.attends = True
        return {"paths": n, "length": length, **found, "floor": 1000 * (weights + kv) / bandwidth}

    steps_of(engine, clock, 4, 64, 8)  # warm-up
    rows = {"over paths": [row(n, a.at_length) for n in a.paths],
            "over lengths": [row(a.at_paths, length) for length in a.lengths]}
    columns = ("paths", "length", "step", *PARTS, "rest", "rest alone", "floor")
    print(f"{Path(a.model).name}, {a.dtype}, ms a decode step (medians), {machine.description()}")
    for name, found in rows.items():
        print(f"{name}\n" + "".join(f"{column:>11}" for column in columns))
        for one in found:
            print("".join(f"{one[column]:11.2f}" if isinstance(one[column], float) else f"{one[column]:11}"
                          for column in columns))
    if a.json:
        a.json.parent.mkdir(parents=True, exist_ok=True)
        a.json.write_text(json.dumps({"machine": machine.description(), "read_bytes_per_second": bandwidth, **rows},
                                     indent=1) + "\n")
    if a.plot:
        plot(rows, a.plot)


def plot(rows: dict[str, list[dict[str, float]]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4))
    for i, (name, found) in enumerate(rows.items()):
        axes = figure.add_subplot(1, 2, i + 1)
        x = [one["paths" if i == 0 else "length"] for one in found]
        parts = ("linear", "attention", "rows", "candidates", "rest")
        axes.stackplot(x, *([one[part] for one in found] for part in parts), alpha=0.8,
                       labels=["linear layers", "attention", "norms, rotation, activations", "sampling", "the rest"])
        axes.plot(x, [one["floor"] for one in found], "k--", label="bytes at read bandwidth")
        axes.set_xlabel("paths" if i == 0 else "tokens of context")
        axes.set_ylabel("ms a decode step")
        axes.set_title(f"{name} ({'length ' + str(found[0]['length']) if i == 0 else str(found[0]['paths']) + ' paths'})")
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    main()
