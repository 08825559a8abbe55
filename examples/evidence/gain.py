"""Do peers help? Independent paths, LeaP and its controls on held-out mazes, tokens counted, intervals over problems.

    python examples/evidence/gain.py --problems 100 --seeds 5

Every arm is resumable: its outcomes are stored in ``--output`` and not computed again.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from leapgen import EngineConfig, LeapConfig, LeapGenerator, LeapOutput
from leapgen.evaluation.controls import OwnSummary, Scrambled, Strangers
from leapgen.maze.maze import NAMES, Maze, Shape, make_maze
from leapgen.maze.tokenizer import build_tokenizer
from leapgen.output import save_json
from leapgen.protocol.group import Group

ARMS = ["independent", "long", "leap", "published", "own", "stranger", "scrambled"]
SPENT = ("own", "trigger", "summary", "comment", "forced", "answer")  # every token after the prompt


@dataclass
class Settings:
    """A problem size and budgets, in tokens."""

    shape: Shape
    interval: int
    budget: int
    summary_tokens: int = 32
    answer_tokens: int = 16
    paths: int = 16
    peers: int = 4
    finished_share: bool = False

    def leap(self, **changes) -> LeapConfig:
        return LeapConfig(**{"interval": self.interval, "max_new_tokens": self.budget, "summary_tokens": self.summary_tokens,
                             "answer_tokens": self.answer_tokens, "max_answer_tokens": self.answer_tokens,
                             "top_k_peers": self.peers, "finished_share": self.finished_share, **changes})

    def independent(self, **changes) -> LeapConfig:
        return self.leap(max_blocks=0, explain=False, **changes)


def load(name: str) -> LeapGenerator:
    """The bundled model, or a checkpoint of its training (which has no tokenizer beside it)."""
    engine = EngineConfig(kv_cache_bytes=2 << 30)
    if (Path(name) / "optimizer.pt").exists():
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        return LeapGenerator(model, build_tokenizer(), engine=engine)
    return LeapGenerator.from_pretrained(name, dtype=torch.float32, engine=engine)


def spent(path) -> int:
    return path.count(*SPENT)


def outcomes(mazes: list[Maze], outputs: list[LeapOutput]) -> dict:
    """Per problem: whether each path is right, what it spent, and how it ended."""
    return {
        "right": [[maze.is_solved_by(path.answer) for path in output.paths]
                  for maze, output in zip(mazes, outputs, strict=True)],
        "spent": [[spent(path) for path in output.paths] for output in outputs],
        "own": [[path.count("own") for path in output.paths] for output in outputs],
        "majority": [maze.is_solved_by(output.majority()) for maze, output in zip(mazes, outputs, strict=True)],
        "closed": [[s.closed for block in output.blocks for s in block.summaries.values()] for output in outputs],
        "tokens": {kind: sum(o.tokens_by_kind()[kind] for o in outputs) for kind in SPENT},
    }


def interval(values: np.ndarray, rng: np.random.Generator, repeats: int = 2000) -> tuple[float, float]:
    """Bootstrap 95% interval of the mean over problems; values: [problems]."""
    means = values[rng.integers(0, len(values), (repeats, len(values)))].mean(axis=1)
    return tuple(np.quantile(means, (0.025, 0.975)))


def run(generator: LeapGenerator, problems: list, leap: LeapConfig, n: int, seed: int, at_once: int = 16,
        **options) -> list[LeapOutput]:
    """n paths on each problem: mazes, or prompts in token ids."""
    prompts = [problem.question if isinstance(problem, Maze) else problem for problem in problems]
    outputs = []
    for i in range(0, len(prompts), at_once):
        outputs += generator.generate(prompts[i : i + at_once], n, leap=leap, seed=seed, **options)
    return outputs


def with_total(solo: dict, mean: float) -> tuple[int, np.ndarray]:
    """Independent paths with the budget at which they spend ``mean`` tokens each: that budget, and Pass@1 by problem.

    ``solo`` ran with a budget so large that a smaller one only cuts it: a path that needed more would have been asked for
    its answer without having seen the exit, which it can then not give.
    """
    own, total, right = (np.array(solo[key]) for key in ("own", "spent", "right"))
    tail = total - own
    for budget in range(16, int(own.max()) + 1, 4):
        if (np.minimum(own, budget) + tail).mean() >= mean:
            break
    return budget, (right & (own <= budget)).mean(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="maze")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first held-out problem")
    parser.add_argument("--paths", type=int, default=16)
    parser.add_argument("--shape", type=int, nargs=3, default=(5, 4, 2), metavar=("DOORS", "CORRIDORS", "LENGTH"))
    parser.add_argument("--interval", type=int, default=60)
    parser.add_argument("--budget", type=int, default=180)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--output", type=Path, default=Path("evidence"))
    options = parser.parse_args()
    settings = Settings(Shape(*options.shape), options.interval, options.budget, paths=options.paths, peers=options.peers,
                        finished_share=True)
    mazes = [make_maze(f"held-out/{options.first + i}", settings.shape) for i in range(options.problems)]
    generator = load(options.model)
    options.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict]] = {}
    for seed in range(options.seeds):
        for arm in options.arms:
            file = options.output / f"{arm}-{seed}.json"
            if not file.exists():
                save_json(outcomes(mazes, run_arm(generator, arm, mazes, settings, seed, options.output)), file)
            results.setdefault(arm, []).append(json.loads(file.read_text()))
            report(results, arm)


def run_arm(generator, arm, mazes, settings, seed, folder) -> list[LeapOutput]:
    if arm == "independent":
        return run(generator, mazes, settings.independent(), settings.paths, seed)
    if arm == "long":
        return run(generator, mazes, settings.independent(max_new_tokens=3 * settings.budget), settings.paths, seed)
    if arm == "published":
        return run(generator, mazes, settings.leap(finished_share=False), settings.paths, seed)
    if arm == "leap":
        outputs = run(generator, mazes, settings.leap(), settings.paths, seed)
        save_json([[output.paths[0].segments[0].token_ids,
                    [[summary.text for summary in block.summaries.values() if summary.text] for block in output.blocks]]
                   for output in outputs], folder / f"summaries-{seed}.json")
        return outputs
    if arm == "stranger":
        bank = {tuple(prompt): blocks for prompt, blocks in json.loads((folder / f"summaries-{seed}.json").read_text())}
        group = type("Strangers", (Strangers,), {"bank": bank})
    else:
        group = {"own": OwnSummary, "scrambled": ScrambledRooms}[arm]
    generator.group_class = group
    outputs = run(generator, mazes, settings.leap(), settings.paths, seed)
    generator.group_class = Group
    return outputs


class ScrambledRooms(Scrambled):
    words = re.compile(rf"(?<= )(?:{'|'.join(NAMES)})\b")


def report(results: dict[str, list[dict]], arm: str) -> None:
    """Prints an arm's Pass@1 over all its seeds, and its gain over independent paths of the same seeds and problems."""
    rng = np.random.default_rng(0)
    runs = results[arm]
    right = np.mean([np.mean(run["right"], axis=1) for run in runs], axis=0)  # [problems]
    mean = np.mean([run["spent"] for run in runs])
    closed = [c for run in runs for problem in run["closed"] for c in problem]
    low, high = interval(right, rng)
    text = f"{arm:12} Pass@1 {100 * right.mean():5.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    text += f"  Cons {100 * np.mean([run['majority'] for run in runs]):5.1f}  {mean:.0f} tokens a path"
    if closed:
        text += f"  closed {100 * np.mean(closed):.1f}%"

    def gain(name: str, base: np.ndarray) -> str:
        low, high = interval(right - base, rng)
        return f"\n    against {name}: {100 * (right - base).mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    if "independent" in results and arm not in ("independent", "long"):
        text += gain("independent", np.mean([np.mean(run["right"], axis=1) for run in results["independent"]], axis=0))
    if "long" in results and arm in ("leap", "published"):
        budgets, bases = zip(*(with_total(run, mean) for run in results["long"]), strict=True)
        text += gain(f"independent with as many tokens in all (budget {budgets[0]})", np.mean(bases, axis=0))
    print(text, flush=True)


if __name__ == "__main__":
    main()
