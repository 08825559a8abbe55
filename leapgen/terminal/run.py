"""``leapgen run``: LeaP on a question, or on each of many."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig
from leapgen.terminal.inputs import Inputs, add_inputs, read_inputs
from leapgen.terminal.loading import MODEL_HELP, add_loading, check_dtype, engine_config, load, read_prompts
from leapgen.terminal.options import Commands, add_preset, add_settings, leap_config, sampling_options
from leapgen.terminal.running import conclude, follow
from leapgen.terminal.saving import Target, add_saving
from leapgen.terminal.screen import Screen
from leapgen.terminal.show import check_paths
from leapgen.terminal.signals import Signals

if TYPE_CHECKING:
    from leapgen.generator import LeapGenerator

SAMPLING_NOTE = "fields of leapgen.SamplingConfig; where the model's generation_config states a value, that is the default"


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "run", help="run LeaP on a question, or on many", parents=[common], usage="leapgen run [OPTION ...] [QUESTION]",
        description="Runs n reasoning paths on a question; they learn from each other at every block.")
    add_inputs(parser)
    parser.add_argument("--model", required=True, metavar="NAME", help=MODEL_HELP)
    add_loading(parser)
    add_run_options(parser, n=32)
    parser.set_defaults(command=run)


def add_run_options(parser: argparse.ArgumentParser, n: int, defaults: dict[str, Any] | None = None) -> None:
    """What ``run`` and ``demo`` share."""
    add_saving(parser)
    parser.add_argument("--path", type=int, action="append", default=[], metavar="N",
                        help="also print this path's whole text at the end, counted from 0; repeatable")
    add_protocol(parser, n, defaults)


def add_protocol(parser: argparse.ArgumentParser, n: int, defaults: dict[str, Any] | None = None) -> None:
    """What decides about the paths and their tokens."""
    parser.add_argument("--n", "-n", type=int, default=n, metavar="N", help=f"paths for each question (default: {n})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random streams (default: 0)")
    parser.add_argument("--prompts", type=Path, metavar="FILE",
                        help="the protocol's sentences: JSON with fields of leapgen.PromptSet, or a published prompts.py")
    add_preset(parser)
    add_settings(parser, LeapConfig, defaults)
    add_settings(parser, SamplingConfig, note=SAMPLING_NOTE)
    add_settings(parser, EngineConfig)


def run(options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    check_dtype(options.dtype)
    inputs = read_inputs(options)
    target = Target(options.save, inputs.several, options.overwrite)
    target.check()
    if options.path and inputs.several:
        raise ValueError("--path goes with one question; for many, leapgen show prints a path of any of the saved files.")
    leap, engine, prompts = leap_config(options), engine_config(options), read_prompts(options.prompts)
    sampling_options(options)
    check_paths(options.path, options.n)
    generator = load(options.model, screen, dtype=options.dtype, device_map=options.device_map, engine=engine,
                     prompts=prompts)
    return generate(generator, inputs, leap, target, options, screen, signals)


def generate(generator: LeapGenerator, inputs: Inputs, leap: LeapConfig, target: Target, options: argparse.Namespace,
             screen: Screen, signals: Signals) -> int:
    """Runs, saves and reports."""
    stream = generator.stream(n=options.n, leap=leap, seed=options.seed, **inputs.for_stream(), **sampling_options(options))
    files = target.take(len(inputs.prompts))
    try:
        outputs, status = follow(stream, files, screen, signals, {"device_map": options.device_map})
    finally:
        target.give_back()
    conclude(outputs, files, target.path, options, screen, signals)
    return status
