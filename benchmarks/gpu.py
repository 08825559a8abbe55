"""This engine on a CUDA machine, random weights of the shape of Qwen2.5-7B in bfloat16; nothing is downloaded.

    python benchmarks/gpu.py --parts bandwidth attention decode                 # 3 minutes on an H200, estimated
    python benchmarks/gpu.py --parts bandwidth decode transformers --json benchmarks/results/gpu-decode.json    # 6
    python benchmarks/gpu.py --parts bandwidth sweep shared fork leap --json benchmarks/results/gpu-leap.json   # 6

Parts: ``bandwidth``: bytes a copy moves, read and written. ``attention``: the kernels alone, by how they are launched.
``decode``: a step of n sequences of ``length`` tokens that share nothing, beside the time that reading weights and KV
once takes at that bandwidth. ``transformers``: the same by ``generate``, with its dynamic cache, and with a static cache,
which it compiles. ``sweep``: n from 1 to 128. ``shared``: the same lengths with a common prefix. ``fork``, ``leap``: as in
``fork.py`` and ``leap.py``, the re-prefilling engine being this one.

``--tiny`` runs every part on a small model, on CPU too: it shows that the script works, and measures nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
import worker
from leapgen_kernels import gpu
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from leapgen import EngineConfig, SamplingConfig
from leapgen.engine import Engine, Sequence, Stream
from leapgen.engine.backends.cuda.backend import CUDABackend
from leapgen.engine.backends.cuda.tiles import Attends
from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.step import Step

QWEN2_7B = {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
            "tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
TINY = {**QWEN2_7B, "vocab_size": 300, "hidden_size": 56, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 512}
PARTS = ("bandwidth", "attention", "decode", "transformers", "sweep", "shared", "fork", "leap")
SAMPLING = SamplingConfig(temperature=0.6, top_k=40, top_p=0.95, logprobs=False)
NEEDS = ("benchmarks/gpu.py needs a CUDA device with about 60 GB of memory (weights 15 GB, KV 8 GB at n=32 and 4,096 "
         "tokens, transformers' caches beside them) and Triton. Without one, --tiny runs its code on a small model.")


class StopAt(StoppingCriteria):
    """Ends at a length: the cache is made for the same most, so that a compiled step fits all lengths."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length, device=input_ids.device)


class Bench:
    """The model, the engine made of it when first asked for, and what has been measured so far."""

    def __init__(self, a: argparse.Namespace) -> None:
        self.a = a
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.float32 if a.tiny else torch.bfloat16
        self.result: dict[str, Any] = {}
        self._model: PreTrainedModel | None = None
        self._engine: Engine | None = None

    @property
    def model(self) -> PreTrainedModel:
        if self._model is None:
            config = AutoConfig.for_model("qwen2", **(TINY if self.a.tiny else QWEN2_7B))
            torch.manual_seed(0)
            with self.device:
                self._model = AutoModelForCausalLM.from_config(config, dtype=self.dtype).eval()
        return self._model

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            began = time.perf_counter()
            self._engine = Engine(self.model, EngineConfig(
                kv_cache_bytes=(1 << 24) if self.a.tiny else self.a.kv_gigabytes << 30, graphs=self.a.graphs,
                compile=self.a.compile, max_batch_size=max(self.a.sweep), max_step_tokens=self.a.step_tokens))
            graphs = self._engine.runner.replays
            self.result["engine"] = {"seconds to make": time.perf_counter() - began,
                                     "of these captures": graphs.seconds if graphs else None,
                                     "graphs": bool(graphs), "compiled": self.a.compile}
        return self._engine

    def give_back_engine(self) -> None:
        self._engine = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, call: Callable[[], object]) -> float:
        self.wait()
        began = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - began

    def median(self, call: Callable[[], object], rounds: int | None = None, calls: int = 1) -> float:
        """Seconds of one of ``calls`` in a row: median of some rounds, after one that does not count."""
        def several() -> None:
            for _ in range(calls):
                call()

        return statistics.median([self.timed(several) / calls for _ in range((rounds or self.a.rounds) + 1)][1:])

    # -- sequences --------------------------------------------------------------------------------------------------

    def prompt(self, length: int, seed: int = 0) -> list[int]:
        return [(7 + 37 * i + 101 * seed) % 290 for i in range(length)]

    def live(self, n: int, length: int, shared: int) -> list[Sequence]:
        """Sequences of this length, prefilled, which sample from now on; the first ``shared`` tokens are common."""
        engine, kept = self.engine, []
        if shared:
            first = engine.add(self.prompt(shared), SAMPLING, limit=shared)
            self.run()
            kept = [engine.fork(first, stream=Stream(0, i)) for i in range(n)]
            engine.release(first)
            for i, one in enumerate(kept):
                engine.extend(one, self.prompt(length - shared, i), limit=length)
        else:
            kept = [engine.add(self.prompt(length, i), SAMPLING, stream=Stream(0, i), limit=length) for i in range(n)]
        self.run()
        return kept

    def run(self) -> None:
        while self.engine.has_work:
            self.engine.step()

    def step_seconds(self, n: int, length: int, shared: int = 0) -> dict[str, float]:
        """Of a decode step: the median of some, and of its graph alone; prefill seconds beside them."""
        engine = self.engine
        kept: list[Sequence] = []
        prefill = self.timed(lambda: kept.extend(self.live(n, length, shared)))
        for one in kept:
            engine.extend(one, [5], limit=length + 1 + self.a.steps)
        times = []
        while engine.has_work:
            times.append(self.timed(engine.step))
        answer = {"step": statistics.median(times[2:]), "prefill": prefill,
                  "kv bytes": sum(map(len, kept)) * engine.runner.cache.bytes_per_token}
        graphs = engine.runner.replays
        if graphs and n <= graphs.sizes[-1]:  # the newest step again: the device's own time
            size = next(size for size in graphs.sizes if size >= n)
            answer["replay"] = self.median(graphs._replays[size], calls=5)
        for one in kept:
            engine.release(one)
        return answer

    # -- parts ------------------------------------------------------------------------------------------------------

    def bandwidth(self) -> None:
        size = (1 << 22) if self.a.tiny else (4 << 30)
        source = torch.ones(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        seconds = self.median(lambda: target.copy_(source), rounds=9, calls=3)
        self.result["bandwidth"] = {"bytes a second, read and written": 2 * size / seconds}

    def floor(self, kv_bytes: float) -> float:
        """Seconds that reading the weights, but for the embedding table, and KV once takes at the copy's speed."""
        if "bandwidth" not in self.result:
            self.bandwidth()
        table = self.model.get_input_embeddings().weight
        weights = sum(p.nbytes for p in self.model.parameters()) - table.nbytes
        return (weights + kv_bytes) / self.result["bandwidth"]["bytes a second, read and written"]

    def attention(self) -> None:
        """A layer's attention at n and length, nothing shared and all but 16 tokens shared, by the launch settings."""
        if gpu.library() is None or self.device.type != "cuda":
            self.result["attention"] = "not run: needs CUDA"
            return
        n, length, size, config = self.a.n, self.a.length, 16, self.model.config
        kv_heads, heads = config.num_key_value_heads, config.num_attention_heads
        dim, each = config.hidden_size // heads, -(-length // size)
        cache = KVCache(dict.fromkeys(range(2), LayerSpec(kv_heads, dim, dim, self.dtype, self.device)), n * each, size)
        for tensor in (*cache.keys.values(), *cache.values.values()):
            tensor.normal_()
        query = torch.randn(1, heads, n, dim, device=self.device, dtype=self.dtype)
        key, value = (torch.randn(1, kv_heads, n, dim, device=self.device, dtype=self.dtype) for _ in range(2))
        alone = [list(range(i * each, (i + 1) * each)) for i in range(n)]
        common = [alone[0][:-1] + own[-1:] for own in alone]
        steps = {name: Step.build(cache, pages, [length - 1] * n, [length] * n)
                 for name, pages in (("alone", alone), ("shared", common))}
        answers, before = {}, gpu.LAUNCH
        for name, step in steps.items():
            for launch in (before, *(before._replace(**{field: v}) for field, v in (
                    ("stages", 2), ("stages", 4), ("stages", 5), ("max_columns", 32), ("waves", 4), ("waves", 16),
                    ("rows", 128)))):
                gpu.LAUNCH = launch
                tiles = CUDABackend().prepare(step).tiles(Attends.of(query, key))

                def layers(tiles: gpu.Tiles = tiles) -> None:
                    for i in cache.keys:
                        gpu.attend(query, key, value, cache.keys[i], cache.values[i], tiles, scaling=dim**-0.5)

                try:
                    seconds = self.median(layers, calls=10) / len(cache.keys)
                    changed = {f: v for f, v in launch._asdict().items() if v != getattr(before, f)}
                    read = n * length if name == "alone" else length + 16 * n
                    answers[f"{name} {changed or 'default'}"] = {
                        "microseconds": 1e6 * seconds,
                        "bytes a second": read * kv_heads * dim * 2 * self.dtype.itemsize / seconds}
                except Exception as error:  # a setting that asks for more than the device has
                    answers[f"{name} {launch}"] = str(error)[:200]
        gpu.LAUNCH = before
        self.result["attention"] = answers

    def decode(self) -> None:
        answer = self.step_seconds(self.a.n, self.a.length)
        floor = self.floor(answer["kv bytes"])
        self.result["decode"] = {"step over floor": answer["step"] / floor, "seconds": answer, "floor": floor,
                                 "tokens a second": self.a.n / answer["step"]}

    def transformers(self) -> None:
        """A step of ``generate``: what more tokens cost, after the same prompts."""
        if "decode" not in self.result:
            self.decode()
        self.give_back_engine()
        ids = torch.tensor([self.prompt(self.a.length, i) for i in range(self.a.n)], device=self.device)
        few, many = (4, 12) if self.a.tiny else (8, 40)
        sampling = {"do_sample": True, "temperature": 0.6, "top_k": 40, "top_p": 0.95, "pad_token_id": 0,
                    "eos_token_id": None, "max_new_tokens": many}
        answers: dict[str, Any] = {}
        caches = {"dynamic cache": {}, "static cache, compiled": {"cache_implementation": "static"}}
        for name, options in caches.items():
            def generate(steps: int, options: dict[str, str] = options) -> None:
                output = self.model.generate(ids, attention_mask=torch.ones_like(ids), **sampling, **options,
                                             stopping_criteria=StoppingCriteriaList([StopAt(self.a.length + steps)]))
                assert output.shape[1] == self.a.length + steps
            try:
                if options:
                    generate(few)  # compiles
                times = {steps: self.median(lambda s=steps: generate(s), rounds=2) for steps in (few, many)}
                answers[name] = (times[many] - times[few]) / (many - few)
            except Exception as error:
                answers[name] = f"failed: {type(error).__name__}: {str(error)[:300]}"
        ours = self.result["decode"]["seconds"]["step"]
        self.result["transformers"] = {
            "times our step": {name: s / ours for name, s in answers.items() if isinstance(s, float)},
            "seconds": answers}

    def sweep(self) -> None:
        """Decode steps of n paths on a common prompt, from 1 to 128."""
        answers = {}
        for n in self.a.sweep:
            seconds = self.step_seconds(n, self.a.sweep_length, shared=self.a.sweep_length // 2)
            answers[n] = {**seconds, "tokens a second": n / seconds["step"], "floor without KV": self.floor(0)}
        self.result["sweep"] = answers

    def shared(self) -> None:
        """The same lengths, with and without common pages, in turns."""
        length = self.a.length + 16
        rounds: dict[str, list[float]] = {"alone": [], "shared": []}
        for _ in range(self.a.rounds):
            for name, common in (("alone", 0), ("shared", self.a.length)):
                seconds = self.step_seconds(self.a.n, length, common)
                rounds[name].append(seconds.get("replay", seconds["step"]))
        medians = machine.medians(rounds)
        self.result["shared"] = {"alone over shared": medians["alone"] / medians["shared"], "seconds": rounds}

    def fork(self) -> None:
        engine, length = self.engine, self.a.length
        first = engine.add(self.prompt(length), SAMPLING, limit=length)
        self.run()
        used, kept = engine.pool.num_used, []

        def fork() -> None:
            kept.extend(engine.fork(first, stream=Stream(0, i)) for i in range(self.a.n))

        seconds = self.timed(fork)
        self.result["fork"] = {"milliseconds": 1000 * seconds, "pages taken": engine.pool.num_used - used,
                               "paths": self.a.n, "tokens": length}
        for one in (first, *kept):
            engine.release(one)

    def leap(self) -> None:
        """LeaP by live sequences, by this engine with every text prefilled anew, and plain decoding as long."""
        live, generate = worker.leap_on_live_sequences(self.engine), worker.generate_by(self.engine)
        own, summary = (4, 3) if self.a.tiny else (128, 48)
        work = {"rounds": 2 if self.a.tiny else 5, "interval": own, "summary": summary,
                "top_k": 2 if self.a.tiny else 4, "trigger": list(range(100, 125)), "close": [5, 6, 7],
                "open": [11, 12, 13], "header": list(range(20, 26)), "nudge": list(range(200, 230))}
        prompt, n = self.prompt(20 if self.a.tiny else 600), self.a.n
        calls = {"leap, live": lambda: live["leap"](prompt, n, work), "plain": lambda: live["plain"](prompt, n, work),
                 "leap, prefilled anew": lambda: worker.leap_by_prompts(generate, prompt, n, work)}
        live["leap"](prompt, n, {**work, "rounds": 2, "interval": 4, "summary": 4})  # compiles what is not yet
        times: dict[str, list[float]] = {name: [] for name in calls}
        lengths: dict[str, list[int]] = {}
        for _ in range(self.a.rounds):
            for name, call in calls.items():
                times[name].append(self.timed(lambda call=call, name=name: lengths.update(
                    {name: [len(tokens) for tokens in call()[0]]})))
        assert len({tuple(given) for given in lengths.values()}) == 1, "unequal work"
        medians = machine.medians(times)
        self.result["leap"] = {"times the live one": {k: v / medians["leap, live"] for k, v in medians.items()},
                               "seconds": times, "tokens a path": lengths["plain"][0]}


def main(arguments: list[str] | None = None) -> dict[str, Any] | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=64, help="decode steps timed")
    parser.add_argument("--sweep", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--sweep-length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step-tokens", type=int, default=8192, help="tokens of a prefill step at most")
    parser.add_argument("--kv-gigabytes", type=int, default=24)
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args(arguments)
    if a.tiny:
        a.n, a.length, a.steps, a.sweep, a.sweep_length, a.rounds, a.compile = 3, 40, 4, [1, 2, 4], 32, 1, False
    elif not torch.cuda.is_available():
        parser.exit(2, NEEDS + "\n")
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("leapgen").setLevel(logging.INFO)  # what was captured, or why not
    bench = Bench(a)
    for part in sorted(a.parts, key=PARTS.index):
        began = time.perf_counter()
        getattr(bench, part)()
        print(f"{part}, {time.perf_counter() - began:.0f} s: {json.dumps(bench.result[part], indent=1)}", flush=True)
        if a.json:  # after every part: a run that is cut short keeps what it has
            settings = {k: v for k, v in vars(a).items() if k != "json"}
            a.json.parent.mkdir(parents=True, exist_ok=True)
            a.json.write_text(json.dumps({"machine": machine.description(), "settings": settings, **bench.result},
                                         indent=1) + "\n")
    return bench.result


if __name__ == "__main__":
    main()
