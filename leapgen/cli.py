"""``leapgen run``, ``demo``, ``show``, ``resume``, ``synth`` and ``sft``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from leapgen.config import LeapConfig, SamplingConfig
from leapgen.display import RunProgress, show
from leapgen.events import OutputEvent
from leapgen.models import bundled_models
from leapgen.output import LeapOutput
from leapgen.training.recipe import RECIPES

PRESETS = ("paper", "official", "single", "leap_t", "independent")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 1 a refused input or failed run, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        return options.run(options, console)
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        console.print(f"[bold red]leapgen:[/] {error}", highlight=False)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="leapgen", description="Reasoning paths that learn from each other (LeaP).")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run LeaP on a question")
    run.add_argument("question")
    run.add_argument("--model", required=True, help="a folder or hub name transformers can load, or 'smollm2'")
    run.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, ... (default: auto)")
    run.add_argument("--device-map", default=None, help="passed to from_pretrained, such as 'auto' or 'cuda'")
    _run_options(run, n=32)
    run.set_defaults(run=_run)

    demo = commands.add_parser("demo", help="LeaP on a small model, with nothing to download at run time")
    models = [*bundled_models(), "smollm2"]
    demo.add_argument("--model", choices=models, default=models[0],
                      help=f"a bundled model, or SmolLM2-135M-Instruct (default: {models[0]})")
    demo.add_argument("--question", default=None, help="for maze: a text as leapgen.maze.Maze.question writes it")
    demo.add_argument("--picture", type=Path, default=None, help="for maze: write who went where as a PNG (matplotlib)")
    _run_options(demo, n=16)
    demo.set_defaults(run=_demo)

    shown = commands.add_parser("show", help="show a saved run")
    shown.add_argument("file", type=Path)
    shown.add_argument("--path", type=int, action="append", default=[], help="print this path's whole text; repeatable")
    shown.set_defaults(run=_show)

    resume = commands.add_parser("resume", help="go on with an interrupted run")
    resume.add_argument("file", type=Path)
    resume.add_argument("--model", help="default: the model the run was made with")
    resume.add_argument("--dtype", default="auto")
    resume.add_argument("--device-map", default=None)
    resume.set_defaults(run=_resume)

    synth = commands.add_parser("synth", help="LeaP-T: a teacher runs LeaP over a problem file; right responses are kept")
    synth.add_argument("--problems", type=Path, required=True, help="JSON or JSON Lines: 'problem' and 'answer' of each")
    synth.add_argument("--model", required=True, help="the teacher: a folder, a hub name, or 'smollm2'")
    synth.add_argument("--dtype", default="auto")
    synth.add_argument("--device-map", default=None)
    synth.add_argument("--output", type=Path, default=Path("responses.jsonl"), help="default: responses.jsonl")
    synth.add_argument("--at-once", type=int, default=1, help="problems in flight together (default: 1)")
    synth.add_argument("--without-peers", action="store_true", help="independent paths: data for the plain-SFT control")
    _protocol_options(synth, n=32)
    synth.set_defaults(run=_synth)

    sft = commands.add_parser("sft", help="LeaP-T: fine-tune a causal LM on such responses (also under accelerate launch)")
    sft.add_argument("--data", type=Path, required=True, help="what leapgen synth wrote")
    sft.add_argument("--model", required=True, help="the student: a folder or a hub name")
    sft.add_argument("--dtype", default="float32", help="of the weights while they are trained (default: float32)")
    sft.add_argument("--output", type=Path, required=True, help="folder of the checkpoints; the result is in model/")
    sft.add_argument("--recipe", choices=RECIPES, default="leap-t-7b",
                     help="values of the paper, or for the bundled model (default: leap-t-7b)")
    sft.add_argument("--per-device", type=int, default=1, help="responses a device computes at a time (default: 1)")
    sft.add_argument("--seed", type=int, default=0)
    sft.add_argument("--lora", type=int, default=None, metavar="RANK", help="train LoRA adapters (needs peft)")
    sft.add_argument("--learn", nargs="+", default=None, metavar="KIND", help="kinds of tokens with loss")
    for name, kind in (("epochs", float), ("batch-size", int), ("learning-rate", float), ("max-length", int)):
        sft.add_argument(f"--{name}", type=kind, default=None, help="instead of the recipe's")
    sft.set_defaults(run=_sft)
    return parser


def _run_options(parser: argparse.ArgumentParser, n: int) -> None:
    parser.add_argument("--save", type=Path, default=Path("run.json"), help="where the run is saved (default: run.json)")
    parser.add_argument("--path", type=int, action="append", default=[], help="print this path's whole text; repeatable")
    _protocol_options(parser, n)


def _protocol_options(parser: argparse.ArgumentParser, n: int) -> None:
    parser.add_argument("--n", type=int, default=n, help=f"paths (default: {n})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    group = parser.add_argument_group("settings", "fields of LeapConfig and SamplingConfig; see their documentation")
    for config in (LeapConfig, SamplingConfig):
        hints = get_type_hints(config)
        for field in dataclasses.fields(config):
            accepted = get_args(hints[field.name]) or (hints[field.name],)
            kind = next((t for t in (bool, int, float, str) if t in accepted), None)
            if kind is None:  # callables and lists have no form on a command line
                continue
            group.add_argument(f"--{field.name.replace('_', '-')}", dest=f"set_{field.name}", default=None,
                               **({"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name[4:]: value for name, value in vars(options).items() if name.startswith("set_") and value is not None}


def _load(name: str, dtype: str, device_map: str | None) -> Any:
    from leapgen.demo import load_smollm2
    from leapgen.generator import LeapGenerator

    if name == "smollm2":
        return load_smollm2()
    options = {"device_map": device_map} if device_map else {}
    return LeapGenerator.from_pretrained(name, dtype=dtype, **options)


def _check_save(path: Path, option: str = "--save") -> None:
    """Before any work: a run that cannot be saved would be lost."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"{option} {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}.")


def _run(options: argparse.Namespace, console: Console) -> int:
    _check_save(options.save)
    with console.status(f"loading {options.model}"):
        generator = _load(options.model, options.dtype, options.device_map)
    return _generate(generator, options.question, options, _settings(options), console)


def _demo(options: argparse.Namespace, console: Console) -> int:
    from leapgen.demo import QUESTION, SETTINGS, load_smollm2

    _check_save(options.save)
    if options.model != "smollm2":
        return _demo_maze(options, console)
    with console.status("loading SmolLM2-135M-Instruct"):
        generator = load_smollm2()
    return _generate(generator, options.question or QUESTION, options, {**SETTINGS, **_settings(options)}, console)


def _demo_maze(options: argparse.Namespace, console: Console) -> int:
    """The same maze without and with peers."""
    from leapgen.demo import MAZE_MODELS, MAZE_SHAPE, picture, quiet_loading, side_by_side
    from leapgen.generator import LeapGenerator
    from leapgen.maze import Maze, make_maze

    maze = Maze.parse(options.question) if options.question else make_maze(f"demo/{options.seed}", MAZE_SHAPE)
    if options.picture:
        _check_save(options.picture, "--picture")
    with console.status("loading the maze model"), quiet_loading():
        generator = LeapGenerator.from_pretrained(options.model, dtype="float32")
    settings = {**MAZE_MODELS[options.model], **_settings(options)}
    with console.status(f"{options.n} paths on their own"):
        alone = generator.generate(maze.question, options.n, seed=options.seed,
                                   **{**settings, "max_blocks": 0, "explain": False})
    status = _generate(generator, maze.question, options, settings, console)
    if not status:
        together = LeapOutput.load(options.save)
        Console().print(side_by_side(maze, alone, together))
        if options.picture:
            picture(maze, alone, together, options.picture)
    return status


def _generate(generator: Any, question: str, options: argparse.Namespace, settings: dict[str, Any], console: Console) -> int:
    from leapgen.session import GenerationFailed, GenerationInterrupted

    preset = getattr(LeapConfig, options.preset)()
    config, _ = generator.settings(preset, None, settings)
    events = generator.stream(question, options.n, leap=preset, seed=options.seed, **settings)
    output, status = None, 0
    try:
        with RunProgress(console, options.n, config.max_new_tokens).running() as progress:
            for event in events:
                progress.update(event)
                if isinstance(event, OutputEvent):
                    output = event.output
    except GenerationInterrupted as interrupted:
        output, status = interrupted.outputs[0], 130
    except GenerationFailed as failed:
        output, status = failed.outputs[0], 1
        console.print(f"[bold red]leapgen:[/] the run failed: {failed}", highlight=False)
    return _finish(output, options, console, status)


def _finish(output: LeapOutput, options: argparse.Namespace, console: Console, status: int) -> int:
    show(output, Console(), paths=options.path)
    output.save(options.save)
    console.print(f"saved to {options.save}; [bold]leapgen show {options.save}[/] shows it again", highlight=False)
    if status:
        console.print(f"not finished; [bold]leapgen resume {options.save}[/] goes on from here", highlight=False)
    return status


def _synth(options: argparse.Namespace, console: Console) -> int:
    from leapgen.evaluation.problems import load_problems
    from leapgen.training.synthesis import synthesize

    _check_save(options.output)
    problems = load_problems(options.problems)
    with console.status(f"loading {options.model}"):
        generator = _load(options.model, options.dtype, options.device_map)
    settings = _settings(options)
    leap = LeapConfig.independent() if options.without_peers else getattr(LeapConfig, options.preset)()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task("problems", total=len(problems))
        made = synthesize(generator, problems, options.output, options.n, leap=leap, seed=options.seed,
                          at_once=options.at_once, progress=lambda done: bar.update(task, completed=done), **settings)
    console.print(f"{options.output}: {made}", highlight=False)
    return 0


def _sft(options: argparse.Namespace, console: Console) -> int:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from leapgen.models import model_path
    from leapgen.training.finetuning import finetune

    changes = {name: getattr(options, name) for name in ("epochs", "batch_size", "learning_rate", "max_length")
               if getattr(options, name) is not None}
    if options.learn:
        changes["learned"] = tuple(options.learn)
    recipe = RECIPES[options.recipe].replace(**changes)
    name = model_path(options.model)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=options.dtype)
    finetune(model, AutoTokenizer.from_pretrained(name), options.data, options.output, recipe,
             per_device=options.per_device, seed=options.seed, lora=options.lora)
    console.print(f"saved to {options.output / 'model'}", highlight=False)
    return 0


def _show(options: argparse.Namespace, console: Console) -> int:
    output = LeapOutput.load(options.file)
    _check_paths(options.path, output)
    show(output, paths=options.path)
    return 0


def _check_paths(paths: list[int], output: LeapOutput) -> None:
    for path in paths:
        if not 0 <= path < len(output.paths):
            raise ValueError(f"--path {path}: the run has paths 0 .. {len(output.paths) - 1}.")


def _resume(options: argparse.Namespace, console: Console) -> int:
    from leapgen.session import GenerationFailed, GenerationInterrupted

    output = LeapOutput.load(options.file)
    if output.finished:
        console.print(f"{options.file} is a finished run; there is nothing to resume.")
        return 0
    name = options.model or output.model
    if not name:
        raise ValueError("the run does not say which model made it; give --model.")
    with console.status(f"loading {name}"):
        generator = _load(name, options.dtype, options.device_map)
    status = 0
    try:
        with console.status("resuming"):
            output = generator.resume(output)
    except (GenerationInterrupted, GenerationFailed) as stopped:
        output, status = stopped.outputs[0], 130 if isinstance(stopped, GenerationInterrupted) else 1
        console.print(f"stopped: {stopped}", highlight=False)
    options.save, options.path = options.file, []
    return _finish(output, options, console, status)


if __name__ == "__main__":
    sys.exit(main())
