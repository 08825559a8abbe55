"""What a server gains by working on requests side by side: clients at once against one after another.

    python benchmarks/serve.py --model smollm2 --clients 16 --n 8 --json benchmarks/results/serve.json

Every client asks one question, n paths of it, by HTTP, of a real server in this process. Budgets are fixed (no path ends
before its own), so both ways do the same tokens' worth of work, which is checked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import machine
import torch

from leapgen import EngineConfig, LeapConfig
from leapgen.integrations.server.arguments import Served
from leapgen.integrations.server.config import ServerConfig
from leapgen.integrations.server.serving import Server
from leapgen.models import SMOLLM2

QUESTION = "A shop sells pens at {} cents each and books at 7 dollars each. What do {} pens and 3 books cost?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--json", type=Path)
    for name, value in {"clients": 16, "n": 8, "tokens": 96, "interval": 48, "summary": 16, "rounds": 1,
                        "threads": 2, "draft-tokens": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    leap = LeapConfig(interval=a.interval, max_new_tokens=a.tokens, summary_tokens=a.summary, forced_answer_tokens=8,
                      explain=False, ignore_eos=True)
    addresses: list[str] = []
    config = ServerConfig(port=0, paths=a.n, running=a.clients, waiting=a.clients, max_paths=max(a.n, 64))
    server = Server(Served(load(a.model, EngineConfig(draft_tokens=a.draft_tokens)), "model", leap, {}, config),
                    addresses.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not addresses:
        time.sleep(0.01)
    seconds: dict[str, list[float]] = {"one after another": [], "at once": []}
    with httpx.Client(timeout=None, limits=httpx.Limits(max_connections=a.clients)) as client:
        def ask(number: int) -> tuple[int, float]:
            began = time.perf_counter()
            response = client.post(f"{addresses[0]}/v1/chat/completions", json={
                "model": "model", "seed": number,
                "messages": [{"role": "user", "content": QUESTION.format(20 + number, 3 + number)}]})
            response.raise_for_status()
            return response.json()["usage"]["completion_tokens"], time.perf_counter() - began

        ask(0)
        tokens: dict[str, int] = {}
        waits: dict[str, float] = {}
        for _ in range(a.rounds):
            for name, workers in (("at once", a.clients), ("one after another", 1)):
                began = time.perf_counter()
                with ThreadPoolExecutor(workers) as pool:
                    answers = list(pool.map(ask, range(a.clients)))
                seconds[name].append(time.perf_counter() - began)
                tokens[name] = sum(count for count, _ in answers)
                waits[name] = statistics.median(wait for _, wait in answers)
                print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    server.stop()
    thread.join()
    assert len(set(tokens.values())) == 1, f"unequal work: {tokens}"
    medians = machine.medians(seconds)
    ratio = medians["one after another"] / medians["at once"]
    print(f"{Path(a.model).name}, {a.clients} clients, n={a.n}, {a.tokens} tokens a path, {machine.description()}")
    for name, value in medians.items():
        print(f"  {name:20}{value:8.1f} s{tokens[name] / value:9.0f} tokens/s   median answer after {waits[name]:.1f} s")
    print(f"  throughput at once over one after another: {ratio:.2f}")
    if a.json:
        a.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in vars(a).items() if name != "json"}
        a.json.write_text(json.dumps({"machine": machine.description(), "settings": settings, "seconds": seconds,
                                      "tokens": tokens, "ratio": ratio}, indent=1) + "\n")


def load(name: str, engine: EngineConfig):
    if name == SMOLLM2:
        from leapgen.demo import load_smollm2

        return load_smollm2(engine=engine)
    from leapgen import LeapGenerator

    return LeapGenerator.from_pretrained(name, engine=engine, dtype="float32")


if __name__ == "__main__":
    main()
