"""``leapgen eval``: arms x problems x groups on a folder, from any number of processes; then the numbers."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from leapgen.terminal.loading import (
    MODEL_HELP,
    add_loading,
    check_dtype,
    engine_config,
    load,
    local_device,
    read_prompts,
)
from leapgen.terminal.options import Commands, leap_config, sampling_options
from leapgen.terminal.run import add_protocol
from leapgen.terminal.screen import Screen
from leapgen.terminal.signals import Signals
from leapgen.terminal.standing import StudyProgress

if TYPE_CHECKING:
    from leapgen.evaluation.settings import StudySettings
    from leapgen.evaluation.study import Study
    from leapgen.generator import LeapGenerator
    from leapgen.tasks.base import Task

NEEDED = ("problems", "model", "output")


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "eval", help="evaluate arms on problems, resumable, from any number of processes", parents=[common],
        usage="leapgen eval --problems NAME --model NAME --output FOLDER [OPTION ...]\n       leapgen eval --report FOLDER",
        description="Runs every arm on every problem and prints accuracy, votes and cost with intervals. Started again, or "
                    "in other processes on the same folder, the same command goes on with what is left.")
    parser.add_argument("--report", type=Path, metavar="FOLDER",
                        help="only put together what is finished in a study's folder, and say how much is missing")
    parser.add_argument("--arms", nargs="+", default=["leap,independent"], metavar="ARM",
                        help="ways to answer, with commas or spaces between: leap, independent, official, single, leap-t, "
                             "retry, own, strangers, scrambled, broadcast, equal:ARM, or one with fields: "
                             "leap:router=random,top_k_peers=2 (default: leap,independent)")
    add_study(parser)
    parser.set_defaults(command=evaluate)


def add_study(parser: argparse.ArgumentParser) -> None:
    """What every study needs: problems, models, a folder, and how it is worked on."""
    parser.add_argument("--problems", metavar="NAME",
                        help="maze, gym:NAME, aime24, aime25, aimo25, gpqa-diamond, math500, zebralogic, or a file of "
                             "problems and answers")
    parser.add_argument("--problems-limit", type=int, metavar="N", help="only so many of them")
    parser.add_argument("--problems-first", type=int, default=0, metavar="N", help="the first one, from 0 (default: 0)")
    parser.add_argument("--problems-seed", type=int, default=0, metavar="N",
                        help="of what problems are made from or shuffled by (default: 0)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the files of named problems are")
    parser.add_argument("--model", metavar="NAME", help=MODEL_HELP)
    parser.add_argument("--models", nargs="+", default=[], metavar="KEY=NAME",
                        help="further models, for arms that say model=KEY")
    add_loading(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="the study's folder")
    parser.add_argument("--groups", type=int, default=1, metavar="N",
                        help="groups of paths on each problem, which differ by seed (default: 1)")
    parser.add_argument("--at-once", type=int, default=4, metavar="N",
                        help="groups in flight together in this process (default: 4)")
    parser.add_argument("--stale", type=float, default=120.0, metavar="SECONDS",
                        help="take over what a process has been working on that gave no sign for so long (default: 120)")
    parser.add_argument("--runs", type=int, default=20, metavar="N",
                        help="runs that the report's page carries whole, to be looked at (default: 20)")
    parser.add_argument("--aha", nargs="*", metavar="WORDS", help="what counts as a turn of thought, instead of the list "
                        "that the result prints")
    parser.add_argument("--count-with", metavar="NAME", help="also count tokens by this model's tokenizer")
    add_protocol(parser, n=32)


def evaluate(options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    if options.runs < 0:
        raise ValueError(f"--runs {options.runs} is not allowed: it must be at least 0.")
    if options.report is not None:
        from leapgen.evaluation.study import Study

        return report(Study.open(options.report), screen, options.runs)
    check_study(options)
    task = read_task(options)
    from leapgen.evaluation.arms import arms
    from leapgen.evaluation.study import Study

    study = Study.create(options.output, task, arms(options.arms), study_settings(options, task))
    return work(study, options, screen, signals) or report(study, screen, options.runs)


def check_study(options: argparse.Namespace) -> None:
    """Before any work, and before anything takes seconds to load.

    Raises:
        ValueError: an option is missing, or its value not allowed.
    """
    missing = [f"--{name}" for name in NEEDED if getattr(options, name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.")
    check_dtype(options.dtype)
    for name, least in (("at_once", 1), ("stale", 1.0), ("groups", 1), ("n", 1)):
        value = getattr(options, name)
        if value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value} is not allowed: it must be at least {least}.")
    leap_config(options)
    sampling_options(options)


def read_task(options: argparse.Namespace) -> Task:
    """Raises:
        ValueError, OSError, ModuleNotFoundError: there is no such task, or it cannot be had here; says what to do.
    """
    from leapgen.tasks.loading import load_task

    return load_task(options.problems, problems=options.problems_limit, first=options.problems_first,
                     seed=options.problems_seed, data=options.data)


def study_settings(options: argparse.Namespace, task: Task) -> StudySettings:
    """Raises:
        ValueError: a value that is not allowed.
    """
    from leapgen.evaluation.records import AHA
    from leapgen.evaluation.settings import StudySettings
    from leapgen.protocol.prompts import PromptSet

    pairs = [text.partition("=") for text in options.models]
    if wrong := [key for key, equals, name in pairs if not (key and equals and name)]:
        raise ValueError(f"--models {wrong[0]}: KEY=NAME was expected.")
    return StudySettings(
        model=options.model, models={key: name for key, _, name in pairs}, n=options.n, groups=options.groups,
        seed=options.seed, leap=leap_config(options, task.leap), sampling=sampling_options(options),
        prompts=read_prompts(options.prompts) or PromptSet(), dtype=options.dtype,
        context_length=engine_config(options).context_length, aha=AHA if options.aha is None else tuple(options.aha),
        count_with=options.count_with)


def work(study: Study, options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    """Works on a study until it is complete; the exit status: 0, 1 if a unit failed, or that of a signal."""
    from leapgen.evaluation.worker import UnitFailed

    def loaded(name: str) -> LeapGenerator:
        return load(name, screen, dtype=options.dtype, device_map=local_device(options.device_map),
                    engine=engine_config(options), prompts=study.settings.prompts)

    try:
        with StudyProgress(screen).running() as progress:
            study.work(loaded, at_once=options.at_once, stale=options.stale, watch=progress.update)
    except UnitFailed as failed:
        screen.error(f"{failed}. What is finished stays; the same command goes on with the rest.")
        return 1
    except KeyboardInterrupt:
        left = len(study.missing())
        screen.say(f"stopped by {signals.name}, {left} of {len(study.units)} units are left; the same command goes on")
        return signals.status
    return 0


def report(study: Study, screen: Screen, runs: int) -> int:
    """Writes and prints the numbers of what is finished, and the page of them, with so many runs."""
    from leapgen.evaluation.report import write_page
    from leapgen.evaluation.table import text, write_report

    summary = write_report(study)
    page = write_page(study, summary, runs=runs)
    if not screen.quiet:
        screen.out.print(text(summary), markup=False, highlight=False, soft_wrap=True, end="")
        screen.say(f"the numbers are in {page.parent}{os.sep}, as a page in {page.name}")
    missing = summary["units"]["all"] - summary["units"]["done"]
    if missing:
        screen.warn(f"{missing} of {summary['units']['all']} units are missing: these numbers are not the study's.")
    return 0
