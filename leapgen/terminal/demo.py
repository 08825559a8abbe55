"""``leapgen demo``: one maze without and with peers, or the exchange in plain English, on models that need no download."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.panel import Panel

from leapgen.config import LeapConfig
from leapgen.demo import MAZE_MODELS, QUESTION, SETTINGS
from leapgen.models import SMOLLM2, bundled_models
from leapgen.record.run import Kind, LeapOutput
from leapgen.tasks.maze import MAZE_SETTINGS, MAZE_SHAPE, Maze, make_maze
from leapgen.tasks.maze.drawing import draw, plot, walked
from leapgen.terminal.inputs import Inputs
from leapgen.terminal.loading import check_dtype, engine_config, load, read_prompts
from leapgen.terminal.options import Commands, leap_config, sampling_options
from leapgen.terminal.run import add_run_options, generate
from leapgen.terminal.saving import Target, check_file
from leapgen.terminal.screen import Screen
from leapgen.terminal.show import check_paths
from leapgen.terminal.signals import Signals

if TYPE_CHECKING:
    from leapgen.generator import LeapGenerator

AFTER_PROMPT: tuple[Kind, ...] = ("own", "trigger", "summary", "closing", "comment", "forced", "answer")


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "demo", help="LeaP on a small model, with nothing to download", parents=[common], usage="leapgen demo [OPTION ...]",
        description="Runs LeaP on a small model that is on the disk already: a maze without and with peers, or a question "
                    f"in plain English with --model {SMOLLM2}.")
    models = [*bundled_models(), SMOLLM2]
    parser.add_argument("--model", choices=models, default=models[0],
                        help=f"a bundled model, or SmolLM2-135M-Instruct (default: {models[0]})")
    parser.add_argument("--question", metavar="TEXT", help="for mazes: a text as leapgen.tasks.maze.Maze.question writes it")
    parser.add_argument("--picture", type=Path, metavar="FILE",
                        help="for mazes: write who went where as a picture (PNG; needs matplotlib)")
    add_run_options(parser, n=16, defaults=MAZE_SETTINGS)
    parser.set_defaults(command=demo, dtype="float32", device_map=None)


def demo(options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    check_dtype(options.dtype)
    target = Target(options.save, overwrite=options.overwrite)
    target.check()
    check_paths(options.path, options.n)
    maze = None
    if options.model != SMOLLM2:
        maze = Maze.parse(options.question) if options.question else make_maze(f"demo/{options.seed}", MAZE_SHAPE)
    if options.picture:
        if maze is None:
            raise ValueError(f"--picture goes with mazes, not with --model {SMOLLM2}.")
        check_file(options.picture, "--picture", options.overwrite)
    leap = leap_config(options, SETTINGS if maze is None else MAZE_MODELS[options.model])
    sampling_options(options)
    generator = load(options.model, screen, dtype=options.dtype, engine=engine_config(options),
                     prompts=read_prompts(options.prompts))
    if maze is None:
        return generate(generator, Inputs([options.question or QUESTION], beginnings=[None]), leap, target, options, screen,
                        signals)
    alone = _alone(generator, maze, leap, options, screen)
    status = generate(generator, Inputs([maze.question], beginnings=[None]), leap, target, options, screen, signals)
    if not status:
        together = LeapOutput.load(target.path)
        if not options.quiet:
            screen.out.print(side_by_side(maze, alone, together))
        if options.picture:
            plot(maze, options.picture, {title: [walked(maze, path.own_text) for path in output.paths] for title, output in
                                         (("on their own", alone), ("with peers (LeaP)", together))})
            screen.say(f"the picture is in {options.picture}")
    return status


def _alone(generator: LeapGenerator, maze: Maze, leap: LeapConfig, options: argparse.Namespace,
           screen: Screen) -> LeapOutput:
    with screen.status(f"{options.n} paths on their own"):
        output: LeapOutput = generator.generate(maze.question, options.n, leap=leap.replace(max_blocks=0, explain=False),
                                                seed=options.seed, **sampling_options(options))
    return output


def side_by_side(maze: Maze, alone: LeapOutput, together: LeapOutput) -> Columns:
    """Where the paths of two runs on a maze went, how many found the way, and the vote."""
    panels = []
    for title, output in (("on their own", alone), ("with peers (LeaP)", together)):
        right = sum(maze.is_solved_by(path.answer) for path in output.voters)
        vote = output.majority()
        text = draw(maze, [walked(maze, path.own_text) for path in output.paths])
        text.append(f"\n{right} of {len(output.voters)} paths found the way\n", "bold")
        text.append(f"vote: {vote} {'✓' if maze.is_solved_by(vote) else '✗'}\n")
        text.append(f"{sum(path.count(*AFTER_PROMPT) for path in output.paths) // len(output.paths)} tokens a path", "dim")
        panels.append(Panel(text, title=title))
    return Columns(panels)
