"""The Prefix Dominance Trap on held-out mazes: beginnings of wrong and right answers, continued alone and with peers.

    python examples/evidence/trap.py --model runs/maze/model --problems 100 --seeds 5

As in section 2.1 of arXiv 2505.07787: for every problem with both right and wrong independent answers, one wrong (right)
answer is drawn, and its first tokens, 15% of the mean length, are continued by all paths. They count towards the budget.
Answers that were reached within these tokens are not drawn: nothing would be left to continue.

Seeds that are done are not computed again. Writes ``trap.json`` and, where matplotlib is installed, ``trap.png``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gain import ALONE, Settings, add_settings, claim, load, run, settings_of

from leapgen import LeapGenerator, LeapOutput
from leapgen.evaluation.metrics import Estimate, estimate
from leapgen.record.files import save_json
from leapgen.tasks.maze import Maze

INTERVAL, BUDGET = 48, 384  # room to turn back in; looked for on mazes 0 to 49 and 1000 to 1049


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser)
    parser.set_defaults(interval=INTERVAL, budget=BUDGET, temperature=0.6, top_p=0.95)  # the paper's; its top-k is left out
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=("bad", "good"), default=("bad", "good"))
    parser.add_argument("--fraction", type=float, default=0.15)
    options = parser.parse_args()
    settings, mazes = settings_of(options)
    claim(options.output, settings, options, fraction=options.fraction)
    generator = load(options.model)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        file = options.output / f"trap-{seed}.json"
        if not file.exists():
            save_json(one_seed(generator, mazes, settings, seed, options.fraction, options.kinds), file)
            print(file, flush=True)
    runs = [json.loads(file.read_text()) for file in sorted(options.output.glob("trap-[0-9]*.json"))]
    summary = compare(runs)
    described = {**vars(settings), "shape": vars(settings.shape), "problems": len(mazes)}
    save_json({"settings": described, "seeds": len(runs), "beginnings": [run["tokens"] for run in runs], "summary": summary},
              options.output / "trap.json")
    plot(summary, options.output / "trap.png")
    print(f"{settings.paths} paths, {len(runs)} seeds; {[len(run['rates']['free, alone']) for run in runs]} problems with "
          f"right and wrong answers, beginnings of {[run['tokens'] for run in runs]} tokens")
    for name, row in summary.items():
        gaps = [f"   {words} {Estimate(**row[key]).percent('+')}" for key, words in
                (("gap", "gap"), ("gap_to_alone", "to free, alone")) if key in row]
        print(f"{name:28} Pass@1 {Estimate(**row['pass_at_1']).percent()}{''.join(gaps)}")


def one_seed(generator: LeapGenerator, mazes: list[Maze], settings: Settings, seed: int, fraction: float,
             kinds: Sequence[str]) -> dict:
    """Pass@1 by problem, for every way to run it; and how many tokens a beginning has."""
    rng = random.Random(seed)
    free = run(generator, mazes, settings.leap(ALONE), settings.paths, seed, **settings.sampling)
    keep = round(fraction * float(np.mean([path.count("own", "answer") for output in free for path in output.paths])))
    begun = {"bad": [], "good": []}  # by problem: the beginnings there are to draw from
    for maze, output in zip(mazes, free, strict=True):
        drawn = [(maze.is_solved_by(path.answer), thoughts(path)) for path in output.paths]
        for kind, wanted in (("bad", False), ("good", True)):
            begun[kind].append([tokens[:keep] for right, tokens in drawn if right == wanted and len(tokens) > keep])
    mixed = [i for i in range(len(mazes)) if begun["bad"][i] and begun["good"][i]]

    def rates(outputs: list[LeapOutput]) -> dict[int, float]:
        return {i: float(np.mean([mazes[i].is_solved_by(path.answer) for path in output.paths]))
                for i, output in zip(mixed, outputs, strict=True)}

    ways = {"alone": settings.leap(ALONE), "with peers": settings.leap()}
    found = {"free, alone": rates([free[i] for i in mixed]),
             "free, with peers": rates(run(generator, [mazes[i] for i in mixed], ways["with peers"], settings.paths, seed,
                                           **settings.sampling))}
    for kind in kinds:
        drawn = [rng.choice(begun[kind][i]) for i in mixed]
        for name, leap in ways.items():
            found[f"{kind} beginning, {name}"] = rates(run(generator, [mazes[i] for i in mixed], leap, settings.paths, seed,
                                                           drawn, **settings.sampling))
    return {"tokens": keep, "rates": found}


def compare(runs: list[dict]) -> dict[str, dict]:
    """Means over problems with their intervals. ``gap``: what a beginning costs those who run in the same way;
    ``gap_to_alone``: how far they stay below free paths without peers."""
    values: dict[str, dict[str, list[float]]] = {}
    for result in runs:
        for name, rates in result["rates"].items():
            for problem, rate in rates.items():
                values.setdefault(name, {}).setdefault(str(problem), []).append(rate)
    means = {name: np.array([np.mean(rates) for _, rates in sorted(one.items())]) for name, one in values.items()}
    summary = {}
    for name, one in means.items():
        summary[name] = {"pass_at_1": vars(estimate(one))}
        if "beginning" in name:
            summary[name]["gap"] = vars(estimate(means[f"free, {name.split(', ')[1]}"] - one))
            summary[name]["gap_to_alone"] = vars(estimate(means["free, alone"] - one))
    return summary


def plot(summary: dict[str, dict], file: Path) -> None:
    """Pass@1 of free paths and of those with a given beginning, alone and with peers, with intervals."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    figure = Figure(figsize=(6, 3.6))
    axes = figure.add_subplot()
    starts = list(dict.fromkeys(name.split(", ")[0] for name in summary))
    for shift, ways in ((-0.2, "alone"), (0.2, "with peers")):
        rows = [summary[f"{start}, {ways}"]["pass_at_1"] for start in starts]
        means, low, high = (100 * np.array([row[key] for row in rows]) for key in ("mean", "low", "high"))
        bars = axes.bar(np.arange(len(rows)) + shift, means, 0.4, yerr=[means - low, high - means], capsize=3, label=ways)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_xticks(range(len(starts)), starts)
    axes.set_ylabel("Pass@1 (%)")
    axes.set_ylim(0, 110)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=130, bbox_inches="tight")


def thoughts(path) -> list[int]:
    """Own tokens up to where the path stopped thinking."""
    return [token for segment in path.segments if segment.kind == "own" for token in segment.token_ids]


if __name__ == "__main__":
    main()
