"""LeaP-T on the maze model from end to end, by leapgen's own commands: synthesis, filter, fine-tuning, the plain control.

    python examples/evidence/leap_t.py --model maze --output runs/leap-t
    python examples/evidence/gain.py --model maze --interval 64 --budget 192 --arms leap plain-prompt leap-t sft \\
        --leap-t runs/leap-t/leap/bundled --sft runs/leap-t/plain/bundled

The problems are none of the held-out ones; responses are sampled at the paper's temperature, 0.6, and top-p, 0.95. What is
there already is not done again, so an interrupted run is gone on with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from gain import Settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from leapgen.models import save_bundled
from leapgen.tasks.maze import make_maze


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="maze", help="teacher and student")
    parser.add_argument("--problems", type=int, default=320)
    parser.add_argument("--interval", type=int, default=64)
    parser.add_argument("--budget", type=int, default=192)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/leap-t"))
    options = parser.parse_args()
    settings = Settings(interval=options.interval, budget=options.budget)
    options.output.mkdir(parents=True, exist_ok=True)
    problems = options.output / "problems.jsonl"
    mazes = [make_maze(f"leap-t/{options.seed}/{i}", settings.shape) for i in range(options.problems)]
    lines = [json.dumps({"id": str(i), "problem": maze.question, "answer": " ".join(maze.solution)})
             for i, maze in enumerate(mazes)]
    problems.write_text("\n".join(lines) + "\n", encoding="utf-8")
    protocol = ["--finished-share" if value is True else f"--{name.replace('_', '-')}={value}"
                for name, value in settings.changes().items()]
    protocol += [f"--temperature={options.temperature}", f"--top-p={options.top_p}"]
    for name, extra in (("leap", []), ("plain", ["--without-peers"])):
        folder = options.output / name
        folder.mkdir(exist_ok=True)
        responses = folder / "responses.jsonl"
        if not responses.exists():
            leapgen("synth", "--problems", problems, "--model", options.model, "--dtype", "float32", "--n", settings.paths,
                    "--seed", options.seed, "--at-once", 16, "--output", responses, *protocol, *extra)
        if not (folder / "model").exists():
            leapgen("sft", "--data", responses, "--model", options.model, "--recipe", "tiny", "--per-device", 16,
                    "--seed", options.seed, "--output", folder)
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        save_bundled(model, AutoTokenizer.from_pretrained(folder / "model"), folder / "bundled")


def leapgen(*arguments: object) -> None:
    command = [sys.executable, "-m", "leapgen", *map(str, arguments)]
    print("$ leapgen", *command[3:], flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
