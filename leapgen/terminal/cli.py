"""The command line's entry: which command, how it ends."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from leapgen.terminal import demo, eval, experiment, resume, run, serve, show, training
from leapgen.terminal.configuration import add_config, with_config
from leapgen.terminal.screen import Screen
from leapgen.terminal.signals import Signals
from leapgen.version import __version__

EXAMPLES = """examples:
  leapgen demo
  leapgen run "How many primes are below 100?" --model Qwen/Qwen3-4B
  leapgen run --input problems.jsonl --model Qwen/Qwen3-4B --save runs
  leapgen show run.json --path 3
  leapgen resume run.json

leapgen COMMAND --help tells a command's options. Exit status: 0 done, 1 refused
or failed, 2 not understood, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by
SIGHUP; what there is of a stopped run is saved, and resume goes on with it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status (see ``leapgen --help``)."""
    parser = build_parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser.parse_args(with_config(parser, arguments))
    except (ValueError, OSError) as error:
        Screen().error(_said(error))
        return 2
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    screen = Screen(options.quiet, options.verbose)
    with Signals() as signals, screen.logging():
        try:
            status: int = options.command(options, screen, signals)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            return _closed()
        except KeyboardInterrupt:
            return signals.status
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
            if signals.received:  # whatever came of it: libraries may wrap it while they load
                return signals.status
            screen.error(_said(error))
            return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leapgen", description="Reasoning paths that learn from each other (LeaP).", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=_version())
    parser.set_defaults(command=None)
    common = argparse.ArgumentParser(add_help=False)
    noise = common.add_mutually_exclusive_group()
    noise.add_argument("-q", "--quiet", action="store_true", help="nothing but errors, and of a run the answer voted for")
    noise.add_argument("-v", "--verbose", action="store_true", help="also leapgen's log, and other libraries' warnings")
    add_config(common)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in (run, demo, show, resume, serve):
        module.add_parser(commands, common)
    training.add_parsers(commands, common)
    eval.add_parser(commands, common)
    experiment.add_parser(commands, common)
    return parser


def _version() -> str:
    def installed(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    return (f"leapgen {__version__} ({installed('torch')}, {installed('transformers')}, Python {platform.python_version()})")


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}."
    return str(error)


def _closed() -> int:
    """The reader of standard output has gone, as ``head`` does. That is not reported as an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
    return 141  # 128 and SIGPIPE, as of any other command


if __name__ == "__main__":
    sys.exit(main())
