"""The Prefix Dominance Trap on held-out mazes: beginnings of wrong and right answers, continued alone and with peers.

    python examples/evidence/trap.py --model runs/maze/model --problems 100 --seeds 5

As in section 2.1 of arXiv 2505.07787: for every problem with both right and wrong independent answers, one wrong (right)
answer is drawn, and its first tokens, 15% of the mean length, are continued by all paths. They count towards the budget.
Answers that were reached within these tokens are not drawn: nothing would be left to continue.
"""

from __future__ import annotations

import argparse
import random

import numpy as np
from gain import ALONE, add_settings, load, run, settings_of

from leapgen.evaluation.metrics import estimate
from leapgen.output import save_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser)
    parser.add_argument("--fraction", type=float, default=0.15)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--kinds", nargs="*", choices=("bad", "good"), default=("bad", "good"))
    options = parser.parse_args()
    settings, mazes = settings_of(options)
    generator = load(options.model)
    rates: dict[str, dict[int, list[float]]] = {}  # Pass@1 by problem, one value a seed
    kept = []

    def note(name: str, outputs: list, chosen: list[int]) -> None:
        for i, output in zip(chosen, outputs, strict=True):
            right = float(np.mean([mazes[i].is_solved_by(path.answer) for path in output.paths]))
            rates.setdefault(name, {}).setdefault(i, []).append(right)

    for seed in range(options.seeds):
        rng, sampling = random.Random(seed), {"temperature": options.temperature}
        free = run(generator, mazes, settings.leap(ALONE), settings.paths, seed, **sampling)
        lengths = [path.count("own", "answer") for output in free for path in output.paths]
        keep = round(options.fraction * float(np.mean(lengths)))
        kept.append(keep)
        begun = {"bad": [], "good": []}  # by problem: the beginnings there are to draw from
        for maze, output in zip(mazes, free, strict=True):
            drawn = [(maze.is_solved_by(path.answer), thoughts(path)) for path in output.paths]
            for kind, wanted in (("bad", False), ("good", True)):
                begun[kind].append([tokens[:keep] for right, tokens in drawn if right == wanted and len(tokens) > keep])
        mixed = [i for i in range(len(mazes)) if begun["bad"][i] and begun["good"][i]]
        note("free, alone", [free[i] for i in mixed], mixed)
        outputs = run(generator, [mazes[i] for i in mixed], settings.leap(), settings.paths, seed, **sampling)
        note("free, with peers", outputs, mixed)
        for kind in options.kinds:
            beginnings = [rng.choice(begun[kind][i]) for i in mixed]
            for name, leap in (("alone", settings.leap(ALONE)), ("with peers", settings.leap())):
                outputs = run(generator, [mazes[i] for i in mixed], leap, settings.paths, seed, beginnings, **sampling)
                note(f"{kind} beginning, {name}", outputs, mixed)
    print(f"{len(rates['free, alone'])} problems with right and wrong answers, {settings.paths} paths, "
          f"{options.seeds} seeds, beginnings of {min(kept)} to {max(kept)} tokens")
    summary = {}
    for name, values in rates.items():
        row = {"pass_at_1": estimate(by_problem(values))}
        text = f"{name:28} Pass@1 {row['pass_at_1'].percent()}"
        if "beginning" in name:
            row["gap"] = estimate(by_problem(rates[f"free, {name.split(', ')[1]}"]) - by_problem(values))
            text += f"   gap {row['gap'].percent('+')}"
        summary[name] = {key: vars(value) for key, value in row.items()}
        print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    save_json({"summary": summary, "rates": rates}, options.output / "trap.json")


def thoughts(path) -> list[int]:
    """Own tokens up to where the path stopped thinking."""
    return [token for segment in path.segments if segment.kind == "own" for token in segment.token_ids]


def by_problem(values: dict[int, list[float]]) -> np.ndarray:
    return np.array([np.mean(rates) for _, rates in sorted(values.items())])


if __name__ == "__main__":
    main()
