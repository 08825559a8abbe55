"""``leapgen experiment``: a table or figure of the paper, on any model and any problems."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leapgen.evaluation import paper
from leapgen.options import did_you_mean
from leapgen.terminal.eval import add_study, check_study, read_task, study_settings, work
from leapgen.terminal.options import Commands, leap_config, suggest
from leapgen.terminal.screen import Screen
from leapgen.terminal.signals import Signals

if TYPE_CHECKING:
    from leapgen.evaluation.experiments import Experiment, Plan
    from leapgen.evaluation.results import Column, Result, Row
    from leapgen.evaluation.study import Study

ELSEWHERE = {"n": 32, "groups": 1, "dtype": "auto"}  # leapgen eval's own
BUNDLED = {"maze": "maze-leap-t"}  # a base, and its LeaP-T
MODELS = ("leap-t", "sft")
OWN = ("beginnings", "fraction", "answers", "values", "think", "layers", "agents")
LEAST = {"answers": 1, "layers": 1, "agents": 1, "think": 0}


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "experiment", help="compute a table or figure of the paper, on any model and problems", parents=[common],
        usage="leapgen experiment NAME --problems NAME --model NAME [OPTION ...]",
        description="Runs what a table or figure of the paper shows, with the paper's settings where none are given, and "
                    "prints, saves and draws the result with the paper's numbers beside. The same command goes on where it "
                    f"stopped. NAME: {', '.join(paper.EXPERIMENTS)}.")
    parser.add_argument("name", metavar="NAME", help="which experiment")
    own = parser.add_argument_group("experiment", "what only some of them have")
    kinds = own.add_mutually_exclusive_group()
    kinds.add_argument("--beginnings", choices=("bad", "good", "both"), help="trap: what paths go on from (default: bad)")
    kinds.add_argument("--good", dest="beginnings", action="store_const", const="good", help="trap: good beginnings")
    own.add_argument("--fraction", type=float, metavar="X",
                     help="trap, tolerance: a beginning's part of the mean length (default: 0.15; 0.3)")
    own.add_argument("--answers", type=int, metavar="N",
                     help="trap, tolerance: how many problems' answers are gone on with (default: 10)")
    own.add_argument("--values", type=float, nargs="+", metavar="X",
                     help="granularity, traffic, position, temperature, scaling, tolerance: what is swept: tokens, peers, "
                          "tokens, temperatures, paths, good beginnings")
    own.add_argument("--think", type=int, metavar="N",
                     help="types, transitions: own tokens between a comment and the probe after it (default: 0)")
    own.add_argument("--layers", type=int, metavar="N", help="moa: layers (default: 4)")
    own.add_argument("--agents", type=int, metavar="N", help="moa: agents (default: 3)")
    for name, words in zip(MODELS, ("a LeaP-T model", "a model after plain SFT"), strict=True):
        own.add_argument(f"--{name}", metavar="NAME", help=f"leap-t: {words}")
    add_study(parser)
    parser.set_defaults(command=run, **dict.fromkeys(ELSEWHERE))


def run(options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    if options.name not in paper.EXPERIMENTS:
        raise ValueError(f"there is no experiment {options.name!r}{did_you_mean(options.name, paper.EXPERIMENTS)}. There "
                         f"are: {', '.join(paper.EXPERIMENTS)}.")
    from leapgen.evaluation.experiments import experiment
    from leapgen.evaluation.experiments.output import claim
    from leapgen.evaluation.study import Study

    chosen = experiment(options.name)
    own = _own(options, chosen)
    if options.problems is not None:
        suggest(options, chosen.defaults(options.problems))
    suggest(options, {**ELSEWHERE, "output": Path("experiments") / chosen.name})
    _name_models(options, chosen)
    check_study(options)
    task = read_task(options)
    settings = study_settings(options, task)
    from leapgen.evaluation.experiments import Plan

    plan = Plan(task, leap_config(options, task.leap), options.n, own, settings.models)
    chosen.check(plan)
    study = Study.create(options.output, task, chosen.arms(plan), settings)
    claim(study.folder, chosen, own)
    return work(study, options, screen, signals) or report(chosen, study, plan, screen, options.runs)


def _own(options: argparse.Namespace, chosen: Experiment) -> dict[str, Any]:
    """The experiment's own options.

    Raises:
        ValueError: one is given that it has not, or a value that is not allowed.
    """
    given = {name: getattr(options, name) for name in OWN if getattr(options, name) is not None}
    if other := [name for name in given if name not in chosen.options]:
        raise ValueError(f"experiment {chosen.name} has no --{other[0]}; it has "
                         f"{', '.join(f'--{name}' for name in chosen.options) or 'no options of its own'}.")
    for name, value in given.items():
        if name == "fraction" and not 0 < value < 1:
            raise ValueError(f"--{name} {value} is not allowed: it must be between 0 and 1.")
        if name in LEAST and value < LEAST[name]:
            raise ValueError(f"--{name} {value} is not allowed: it must be at least {LEAST[name]}.")
    return {**chosen.options, **given}


def _name_models(options: argparse.Namespace, chosen: Experiment) -> None:
    """Adds the experiment's further models to ``--models``.

    Raises:
        ValueError: one is given to an experiment that has no use for it.
    """
    for name in MODELS:
        value = getattr(options, name.replace("-", "_"))
        if name not in chosen.models:
            if value is not None:
                raise ValueError(f"experiment {chosen.name} has no --{name}; leap-t has it.")
            continue
        value = value or (BUNDLED.get(options.model) if name == "leap-t" else None)
        if value is not None:
            options.models = [*options.models, f"{name}={value}"]


def report(chosen: Experiment, study: Study, plan: Plan, screen: Screen, runs: int) -> int:
    """Writes and prints the result of what is finished, and the study's page with so many runs."""
    from leapgen.evaluation.experiments.output import result_of, save
    from leapgen.evaluation.table import write_report

    summary = write_report(study)
    result = result_of(chosen, study, plan)
    files = save(result, chosen, study, plan, summary, runs)
    if not screen.quiet:
        screen.out.print(printed(result), markup=False, highlight=False, soft_wrap=True, end="")
        if not any(file.suffix == ".png" for file in files):
            screen.say('no picture: it needs matplotlib (pip install "leapgen[eval]")')
        screen.say(f"saved: {', '.join(map(str, files))}")
    return 0


def printed(result: Result) -> str:
    """A result as a table for people; the paper's numbers in columns of their own, where there are any."""
    keys = {row.key for row in result.table.rows}
    beside = {column.name: numbers for column in result.table.columns
              if keys & (numbers := result.published.get(column.name, {})).keys()}
    cells = [["", *(heading for column in result.table.columns
                    for heading in (column.heading, *(["paper"] if column.name in beside else [])))]]
    for row in result.table.rows:
        cells.append([" ".join(row.label.split()), *(cell for column in result.table.columns for cell in (
            _cell(row, column), *([_number(beside[column.name], row.key)] if column.name in beside else [])))])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells]
    told = f"95% intervals over problems; paper: {result.whose}" if beside else "95% intervals over problems"
    also = ["the paper also has ({}): {}: {}".format(result.whose, column, ", ".join(
        f"{key} {value:,g}" for key, value in numbers.items())) for column, numbers in result.unmatched().items()]
    return "\n".join([f"{result.title} ({result.source})", "", *lines, "", told, *result.table.notes, *also]) + "\n"


def _number(numbers: Mapping[str, float], key: str) -> str:
    return f"{numbers[key]:,.1f}" if key in numbers else ""


def _cell(row: Row, column: Column) -> str:
    if column.name not in row.values:
        return ""
    value, scale = row.values[column.name], column.scale
    mean, low, high = (scale * one for one in (value.mean, value.low, value.high))
    if abs(mean) >= 100 and column.unit not in ("%", "points"):
        return f"{mean:,.0f}"
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"
