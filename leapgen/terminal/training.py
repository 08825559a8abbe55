"""``leapgen synth`` and ``leapgen sft``: LeaP-T, from problems to responses to a fine-tuned model."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import MofNCompleteColumn, Progress

from leapgen.config import LeapConfig
from leapgen.models import model_path
from leapgen.record.run import KINDS
from leapgen.tasks.loading import load_task
from leapgen.terminal.loading import MODEL_HELP, add_dtype, add_loading, check_dtype, engine_config, load, read_prompts
from leapgen.terminal.options import Commands, leap_config, sampling_options
from leapgen.terminal.run import add_protocol
from leapgen.terminal.saving import check_file
from leapgen.terminal.screen import Screen
from leapgen.terminal.signals import Signals
from leapgen.training.recipe import RECIPES

RECIPE_OPTIONS = {"epochs": float, "batch-size": int, "learning-rate": float, "max-length": int}


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "synth", help="LeaP-T: a teacher runs LeaP over problems; right responses are kept", parents=[common],
        usage="leapgen synth --problems TASK --model NAME [OPTION ...]",
        description="LeaP-T, first half: a teacher runs LeaP over problems; responses that are right are kept. Interrupted, "
                    "the same command goes on where it stopped.")
    parser.add_argument("--problems", required=True, metavar="TASK",
                        help="a file, JSON or JSON Lines: 'problem' and 'answer' of each; or a task's name, such as maze")
    parser.add_argument("--model", required=True, metavar="NAME", help=f"the teacher: {MODEL_HELP}")
    add_loading(parser)
    parser.add_argument("--output", type=Path, default=Path("responses.jsonl"), metavar="FILE",
                        help="the responses (default: responses.jsonl)")
    parser.add_argument("--overwrite", action="store_true", help="write over what is at --output")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="problems in flight together (default: 1)")
    parser.add_argument("--without-peers", action="store_true", help="independent paths: data for the plain-SFT control")
    add_protocol(parser, n=32)
    parser.set_defaults(command=synth)

    parser = commands.add_parser(
        "sft", help="LeaP-T: fine-tune a causal LM on such responses (also under accelerate launch)", parents=[common],
        description="LeaP-T, second half: fine-tunes a causal LM on responses. For several devices: accelerate launch -m "
                    "leapgen sft ... Interrupted, the same command goes on from the last checkpoint.")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="what leapgen synth wrote")
    parser.add_argument("--model", required=True, metavar="NAME", help="the student: a folder or a hub name")
    add_dtype(parser, "float32", "float32")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER",
                        help="folder of the checkpoints; the result is in model/")
    parser.add_argument("--recipe", choices=RECIPES, default="leap-t-7b",
                        help="values of the paper, or for the bundled model (default: leap-t-7b)")
    parser.add_argument("--per-device", type=int, default=1, metavar="N",
                        help="responses a device computes at a time (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of shuffling and dropout (default: 0)")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train LoRA adapters (needs peft)")
    parser.add_argument("--learn", nargs="+", metavar="KIND",
                        help=f"kinds of tokens with loss, instead of the recipe's: {', '.join(KINDS)}")
    for name, kind in RECIPE_OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help="instead of the recipe's")
    parser.set_defaults(command=sft)


def synth(options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    check_dtype(options.dtype)
    check_file(options.output, "--output", options.overwrite)
    task = load_task(options.problems)
    leap, sampling = leap_config(options), sampling_options(options)
    if options.without_peers:
        leap = LeapConfig.independent(**{name: value for name, value in vars(leap).items()
                                         if name not in ("max_blocks", "explain")})
    generator = load(options.model, screen, dtype=options.dtype, device_map=options.device_map,
                     engine=engine_config(options), prompts=read_prompts(options.prompts))
    from leapgen.training.synthesis import synthesize

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=screen.err, disable=screen.quiet) as bar:
        row = bar.add_task("problems", total=len(task.problems))
        try:
            made = synthesize(generator, task.problems, options.output, options.n, leap=leap, seed=options.seed,
                              at_once=options.at_once, grade=task.grade,
                              progress=lambda done: bar.update(row, completed=done), **sampling)
        except KeyboardInterrupt:
            screen.say(f"stopped by {signals.name}; the same command goes on with the problems that are left")
            raise
    screen.say(f"{options.output}: {made}")
    return 0


def sft(options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    check_dtype(options.dtype)
    changes = {name: value for name in (option.replace("-", "_") for option in RECIPE_OPTIONS)
               if (value := getattr(options, name)) is not None}
    if options.learn:
        changes["learned"] = tuple(options.learn)
    recipe = RECIPES[options.recipe].replace(**changes)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from leapgen.training.finetuning import finetune

    name = model_path(options.model)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=options.dtype)
    finetune(model, AutoTokenizer.from_pretrained(name), options.data, options.output, recipe,
             per_device=options.per_device, seed=options.seed, lora=options.lora)
    screen.say(f"saved to {options.output / 'model'}")
    return 0
