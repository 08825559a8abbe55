"""Do peers help? Independent paths, LeaP, its settings, its controls and LeaP-T on held-out mazes, with tokens counted.

    python examples/evidence/gain.py --model runs/maze/model --problems 100 --seeds 5     # independent, LeaP, controls
    python examples/evidence/gain.py --model runs/maze/model --arms router-random peers-1 peers-8     # or any others below
    python examples/evidence/gain.py --model ... --arms leap-t sft --leap-t runs/leap-t/model --sft runs/sft/model

Every arm is resumable: its outcomes are stored in ``--output`` and not computed again. Writes ``summary.json`` and, where
matplotlib is installed, ``gain.png``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from leapgen import EngineConfig, LeapConfig, LeapGenerator, LeapOutput
from leapgen.evaluation.metrics import at_equal_cost, estimate, pass_at
from leapgen.evaluation.placebos import OwnSummary, Scrambled, Strangers
from leapgen.protocol.base import Group, Protocol
from leapgen.protocol.leap import Leap
from leapgen.record.files import save_json
from leapgen.record.run import PathOutput
from leapgen.tasks.maze.drawing import walked
from leapgen.tasks.maze.maze import NAMES, Maze, Shape, make_maze
from leapgen.tasks.maze.tokenizer import build_tokenizer

SPENT = ("own", "trigger", "summary", "closing", "comment", "forced", "answer")  # every token after the prompt


ROOMS = re.compile(rf"(?<= )(?:{'|'.join(NAMES)})\b")


@dataclass(frozen=True)
class Arm:
    """One way to answer: changes to LeaP's settings, a placebo in its place, another model."""

    leap: dict = field(default_factory=dict)
    protocol: Callable[[Group], Protocol] = Leap
    model: str = "model"
    longer: int = 1  # times the budget


ALONE = {"max_blocks": 0, "explain": False}
ARMS = {
    "independent": Arm(ALONE),
    "long": Arm(ALONE, longer=3),  # what baselines of equal cost are cut from
    "leap": Arm(),
    "own": Arm(protocol=OwnSummary),
    "stranger": Arm(protocol=Strangers),
    "scrambled": Arm(protocol=partial(Scrambled, words=ROOMS)),
    "published": Arm({"finished_share": False}),
    **{f"router-{router}": Arm({"router": router}) for router in ("clustered", "hybrid", "random")},
    **{f"peers-{k}": Arm({"top_k_peers": k}) for k in (1, 2, 8)},
    **{f"interval-{tokens}": Arm({"interval": tokens}) for tokens in (40, 90)},
    "single": Arm({"blocks": (0,)}),
    "leap-t": Arm({"explain": False}, model="leap_t"),
    "leap-t-alone": Arm(ALONE, model="leap_t"),
    "sft": Arm({"explain": False}, model="sft"),
    "sft-alone": Arm(ALONE, model="sft"),
    "plain-prompt": Arm({"explain": False}),  # base + LeaP with the prompt LeaP-T gets
}
MAIN = ["independent", "long", "leap", "own", "stranger", "scrambled"]


@dataclass(frozen=True)
class Settings:
    """A problem size and budgets, in tokens."""

    shape: Shape = field(default_factory=lambda: Shape(5, 4, 2))
    interval: int = 72
    budget: int = 216
    paths: int = 16
    peers: int = 4
    sampling: dict = field(default_factory=dict)  # fields of SamplingConfig; the rest is the model's own (temperature 1)

    def changes(self) -> dict:
        """What differs from LeaP's defaults."""
        return {"interval": self.interval, "max_new_tokens": self.budget, "summary_tokens": 32, "forced_answer_tokens": 16,
                "written_answer_tokens": 16, "top_k_peers": self.peers, "finished_share": True}

    def leap(self, changes: dict | None = None, longer: int = 1) -> LeapConfig:
        return LeapConfig(**{**self.changes(), "max_new_tokens": longer * self.budget, **(changes or {})})


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a maze reasoner: what examples/train_maze.py wrote")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="number of the first held-out problem")
    parser.add_argument("--paths", type=int, default=16)
    parser.add_argument("--shape", type=int, nargs=3, default=(5, 4, 2), metavar=("DOORS", "CORRIDORS", "LENGTH"))
    parser.add_argument("--interval", type=int, default=Settings.interval)
    parser.add_argument("--budget", type=int, default=Settings.budget)
    parser.add_argument("--peers", type=int, default=Settings.peers)
    parser.add_argument("--temperature", type=float, default=None, help="the model's own, 1, if not given; the paper's: 0.6")
    parser.add_argument("--top-p", type=float, default=None, help="likewise; the paper's: 0.95")
    parser.add_argument("--output", type=Path, default=Path("evidence"))


def settings_of(options: argparse.Namespace) -> tuple[Settings, list[Maze]]:
    sampling = {name: getattr(options, name) for name in ("temperature", "top_p") if getattr(options, name) is not None}
    settings = Settings(Shape(*options.shape), options.interval, options.budget, options.paths, options.peers, sampling)
    return settings, [make_maze(f"held-out/{options.first + i}", settings.shape) for i in range(options.problems)]


def claim(folder: Path, settings: Settings, options: argparse.Namespace, **more) -> None:
    """Makes the folder these settings' own: what lies there is taken for theirs. ``more``: what else they consist of.

    Raises:
        SystemExit: it holds outcomes of others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    wanted = {"model": options.model, "first": options.first, "problems": options.problems, **vars(settings),
              "shape": list(vars(settings.shape).values()), **more}
    found = json.loads(file.read_text()) if file.exists() else wanted
    other = {key: value for key, value in wanted.items() if found.get(key) != value}
    if other:
        raise SystemExit(f"{folder} holds outcomes of {({key: found.get(key) for key in other})}, not {other}. "
                         "Give every setting an --output of its own.")
    save_json(wanted, file)


def load(name: str) -> LeapGenerator:
    """A bundled model or a folder; of a training's checkpoint too, which has no tokenizer beside it."""
    engine = EngineConfig(kv_cache_bytes=2 << 30)
    if (Path(name) / "optimizer.pt").exists():
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        return LeapGenerator(model, build_tokenizer(), engine=engine)
    return LeapGenerator.from_pretrained(name, dtype=torch.float32, engine=engine)


def run(generator: LeapGenerator, mazes: list[Maze], leap: LeapConfig, n: int, seed: int,
        beginnings: list[list[int]] | None = None, at_once: int = 16, **options) -> list[LeapOutput]:
    """n paths on each maze."""
    outputs = []
    for i in range(0, len(mazes), at_once):
        some = slice(i, i + at_once)
        outputs += generator.generate([maze.question for maze in mazes[some]], n, leap=leap, seed=seed,
                                      beginning=beginnings and beginnings[some], **options)
    return outputs


def run_arm(generator: LeapGenerator, arm: Arm, mazes: list[Maze], settings: Settings, seed: int,
            summaries: Path) -> list[LeapOutput]:
    """``summaries``: where LeaP's are kept, for the strangers to speak."""
    protocol = arm.protocol
    if protocol is Strangers:
        bank = {tuple(prompt): blocks for prompt, blocks in json.loads(summaries.read_text())}
        protocol = partial(Strangers, bank=bank)
    outputs = run(generator, mazes, settings.leap(arm.leap, arm.longer), settings.paths, seed, protocol=protocol,
                  **settings.sampling)
    if arm == ARMS["leap"]:
        save_json([[output.paths[0].segments[0].token_ids,
                    [[summary.text for summary in block.summaries.values() if summary.text] for block in output.blocks]]
                   for output in outputs], summaries)
    return outputs


def outcomes(mazes: list[Maze], outputs: list[LeapOutput]) -> dict:
    """What is kept of a run, by problem and path where it is theirs."""
    pairs = list(zip(mazes, outputs, strict=True))
    return {
        "right": [[maze.is_solved_by(path.answer) for path in output.paths] for maze, output in pairs],
        "spent": [[path.count(*SPENT) for path in output.paths] for output in outputs],
        "own": [[path.count("own") for path in output.paths] for output in outputs],
        "majority": [maze.is_solved_by(output.majority()) for maze, output in pairs],
        "closed": [[s.closed for block in output.blocks for s in block.summaries.values()] for output in outputs],
        "knew": [[knew_before(maze, path) for path in output.paths] for maze, output in pairs],
        "misled": [[was_misled(maze, path) for path in output.paths] for maze, output in pairs],
        "tokens": {kind: sum(o.tokens_by_kind()[kind] for o in outputs) for kind in SPENT},
    }


def knew_before(maze: Maze, path: PathOutput) -> bool:
    """Whether a path had been at the exit before it read its last comment (right, then told)."""
    kinds = [segment.kind for segment in path.segments]
    last = max((i for i, kind in enumerate(kinds) if kind == "comment"), default=0)
    return maze.exit in walked(maze, "".join(s.text for s in path.segments[:last] if s.kind == "own"))


def was_misled(maze: Maze, path: PathOutput) -> bool | None:
    """Of paths that were told of a dead end on the way to the exit: whether they never went there. None if not told so."""
    ways = [maze.label(room) for room in maze.solution[1:3]]
    false = [i for i, s in enumerate(path.segments) if s.kind == "comment" and any(
        way in said for way in ways for said in re.findall(r"dead ends: ([\w ]+)", s.text))]
    if not false:
        return None
    return maze.exit not in walked(maze, "".join(s.text for s in path.segments if s.kind == "own"))


def compare(results: dict[str, list[dict]]) -> dict[str, dict]:
    """Every arm's figures, as fractions over all its seeds; gains are over the same problems."""
    def by_problem(arm: str) -> np.ndarray:
        return np.mean([np.mean(run["right"], axis=1) for run in results[arm]], axis=0)

    summary = {}
    for arm, runs in results.items():
        right = np.array([run["right"] for run in runs])  # [seeds, problems, paths]
        mean = float(np.mean([run["spent"] for run in runs]))
        knew, misled = (np.array([run[name] for run in runs], dtype=object) for name in ("knew", "misled"))
        told = misled[[[[m is not None for m in p] for p in r] for r in misled]] if misled.size else misled
        closed = [c for run in runs for problem in run["closed"] for c in problem]
        row = {
            "seeds": len(runs), "problems": right.shape[1], "paths": right.shape[2],
            "pass_at_1": vars(estimate(by_problem(arm))),
            "pass_at_n": float(np.mean([pass_at(right.shape[2], r).mean() for r in right])),
            "cons_at_n": float(np.mean([run["majority"] for run in runs])),
            "spread_between_groups": float(right.mean(axis=2).std(axis=0, ddof=1).mean()) if len(runs) > 1 else None,
            "tokens_per_path": mean,
            "tokens_by_kind": {kind: sum(run["tokens"][kind] for run in runs) / right.size for kind in SPENT},
            "summaries_closed": float(np.mean(closed)) if closed else None,
            "transitions": {f"{a}>{b}": int(np.sum((knew.astype(bool) == (a == "C")) & (right == (b == "C"))))
                            for a in "CI" for b in "CI"},  # before the last comment > in the answer; paths
            "correct_to_incorrect": _share(~right[knew.astype(bool)]), "correct_before_comment": int(knew.sum()),
            "misled": _share(told), "told_falsely": int(told.size),
        }
        if "independent" in results and arm not in ("independent", "long"):
            row["gain"] = vars(estimate(by_problem(arm) - by_problem("independent")))
        if "long" in results and arm not in ("independent", "long"):
            longer = [[np.array(run[key]) for key in ("right", "own", "spent")] for run in results["long"]]
            cut = [at_equal_cost(*run, mean) for run in longer]
            base = np.mean([right for _, right in cut], axis=0)
            row["equal_tokens"] = {"budget": cut[0][0], "pass_at_1": float(base.mean()),
                                   "gain": vars(estimate(by_problem(arm) - base))}
        if "leap" in results and arm not in ("independent", "long", "leap"):
            row["against_leap"] = vars(estimate(by_problem(arm) - by_problem("leap")))
        summary[arm] = row
    return summary


def _share(values: np.ndarray) -> float | None:
    return float(np.mean(values.astype(float))) if values.size else None


def show(summary: dict[str, dict]) -> str:
    """A table, percent and points."""
    def points(values: dict | None) -> str:
        return f"{100 * values['mean']:+6.1f} [{100 * values['low']:+.1f}, {100 * values['high']:+.1f}]" if values else "-"

    lines = [f"{'arm':16}{'Pass@1':>20}{'Pass@N':>8}{'Cons@N':>8}{'tokens':>8}{'gain':>24}{'at equal tokens':>26}"
             f"{'against LeaP':>24}{'C>I':>7}{'misled':>8}"]
    for arm, row in summary.items():
        one, shown = row["pass_at_1"], [None if row[key] is None else f"{100 * row[key]:.1f}%" for key in
                                        ("correct_to_incorrect", "misled")]
        lines.append(f"{arm:16}{100 * one['mean']:8.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]".ljust(36)
                     + f"{100 * row['pass_at_n']:8.1f}{100 * row['cons_at_n']:8.1f}{row['tokens_per_path']:8.0f}"
                     + f"{points(row.get('gain')):>24}{points(row.get('equal_tokens', {}).get('gain')):>26}"
                     + f"{points(row.get('against_leap')):>24}{shown[0] or '-':>7}{shown[1] or '-':>8}")
    return "\n".join(lines)


def plot(summary: dict[str, dict], file: Path) -> None:
    """Pass@1 of every arm with its interval, and the tokens it took, everything after the prompt counted."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    rows = sorted(summary.items(), key=lambda item: item[1]["pass_at_1"]["mean"])
    means, low, high = (100 * np.array([row["pass_at_1"][key] for _, row in rows]) for key in ("mean", "low", "high"))
    figure = Figure(figsize=(7, 0.8 + 0.28 * len(rows)))
    axes = figure.add_subplot()
    bars = axes.barh([arm for arm, _ in rows], means, xerr=[means - low, high - means], capsize=3)
    labels = [f"{mean:.1f}, {row['tokens_per_path']:.0f} tokens" for mean, (_, row) in zip(means, rows, strict=True)]
    axes.bar_label(bars, labels, padding=6, fontsize=8)
    axes.set_xlabel("Pass@1 (%), tokens a path")
    axes.set_xlim(0, 125)
    axes.set_xticks(range(0, 101, 20))
    figure.savefig(file, dpi=130, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser)
    parser.add_argument("--leap-t", default=None, help="model of the leap-t arms")
    parser.add_argument("--sft", default=None, help="model of the sft arms")
    parser.add_argument("--arms", nargs="+", default=MAIN, choices=list(ARMS))
    options = parser.parse_args()
    settings, mazes = settings_of(options)
    claim(options.output, settings, options)
    generators: dict[str, LeapGenerator] = {}
    for seed in range(options.seeds):
        for name in options.arms:
            file, arm = options.output / f"{name}-{seed}.json", ARMS[name]
            if file.exists():
                continue
            model = getattr(options, arm.model)
            if model is None:
                parser.error(f"--{arm.model.replace('_', '-')} is needed for {name}")
            if model not in generators:
                generators[model] = load(model)
            summaries = options.output / f"summaries-{seed}.json"
            save_json(outcomes(mazes, run_arm(generators[model], arm, mazes, settings, seed, summaries)), file)
            print(file, flush=True)
    results = {name: [json.loads(file.read_text()) for file in sorted(options.output.glob(f"{name}-[0-9]*.json"))]
               for name in ARMS}
    summary = compare({name: runs for name, runs in results.items() if runs})
    save_json(summary, options.output / "summary.json")
    plot(summary, options.output / "gain.png")
    print(show(summary))


if __name__ == "__main__":
    main()
