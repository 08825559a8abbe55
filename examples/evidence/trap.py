"""The Prefix Dominance Trap on held-out mazes: beginnings of wrong and right answers, continued alone and with peers.

    python examples/evidence/trap.py --problems 60

As in section 2.1 of arXiv 2505.07787: for every problem with both right and wrong independent answers, one wrong (right)
answer is drawn, and its first tokens, 15% of the mean length, are continued by 16 paths. They count towards the budget.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from gain import Settings, interval, load, run

from leapgen import LeapConfig
from leapgen.maze.maze import Shape, make_maze
from leapgen.maze.tokenizer import THINK_START
from leapgen.output import save_json
from leapgen.protocol.chat import prompt_tokens
from leapgen.protocol.prompts import PromptSet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="maze")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paths", type=int, default=16)
    parser.add_argument("--shape", type=int, nargs=3, default=(5, 4, 2), metavar=("DOORS", "CORRIDORS", "LENGTH"))
    parser.add_argument("--interval", type=int, default=60)
    parser.add_argument("--budget", type=int, default=180)
    parser.add_argument("--fraction", type=float, default=0.15)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=Path("evidence/trap.json"))
    options = parser.parse_args()
    settings = Settings(Shape(*options.shape), options.interval, options.budget, paths=options.paths, finished_share=True)
    generator, rng = load(options.model), random.Random(options.seed)
    mazes = [make_maze(f"held-out/{i}", settings.shape) for i in range(options.problems)]
    sample = {"temperature": options.temperature}

    def right(outputs, chosen) -> np.ndarray:
        return np.array([np.mean([maze.is_solved_by(path.answer) for path in output.paths])
                         for maze, output in zip(chosen, outputs, strict=True)])

    free = run(generator, mazes, settings.independent(), options.paths, options.seed, **sample)
    lengths = [path.count("own", "answer") for output in free for path in output.paths]
    keep = round(options.fraction * float(np.mean(lengths)))
    mixed = [i for i, output in enumerate(free) if 0 < right([output], [mazes[i]])[0] < 1]
    chosen = [mazes[i] for i in mixed]
    peers = run(generator, chosen, settings.leap(), options.paths, options.seed, **sample)
    rates = {"free, alone": right([free[i] for i in mixed], chosen), "free, with peers": right(peers, chosen)}
    for kind, wanted in (("bad", False), ("good", True)):
        begun = []
        for i in mixed:
            path = rng.choice([path for path in free[i].paths if mazes[i].is_solved_by(path.answer) == wanted])
            begun.append(path.segments[1].token_ids[:keep])
        for name, leap in (("alone", settings.independent()), ("with peers", settings.leap())):
            prompts = [[*prompt_tokens(generator.tokenizer, maze.question, LeapConfig(explain=leap.explain), PromptSet(),
                                       THINK_START), *beginning] for maze, beginning in zip(chosen, begun, strict=True)]
            leap = leap.replace(max_new_tokens=options.budget - keep)
            outputs = run(generator, prompts, leap, options.paths, options.seed, **sample)
            rates[f"{kind} beginning, {name}"] = right(outputs, chosen)
    print(f"{len(chosen)} problems with right and wrong answers, {options.paths} paths, beginnings of {keep} tokens")
    boot = np.random.default_rng(0)
    for name, values in rates.items():
        low, high = interval(values, boot)
        text = f"{name:28} Pass@1 {100 * values.mean():5.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        if "beginning" in name:
            gap = rates[f"free, {name.split(', ')[1]}"] - values
            low, high = interval(gap, boot)
            text += f"   gap {100 * gap.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_json({name: values.tolist() for name, values in rates.items()}, options.output)


if __name__ == "__main__":
    main()
