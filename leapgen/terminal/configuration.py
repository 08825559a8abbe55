"""``--config``: a command's options from a YAML or JSON file; those on the command line go before them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leapgen.options import did_you_mean

CONFIG = "--config"


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(CONFIG, type=Path, metavar="FILE",
                        help="options of this command from a YAML or JSON file, by their names; what stands on the command "
                             "line goes before them")


def with_config(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments with those that a file named by ``--config`` holds put before them.

    Args:
        parser: the one whose subparsers are the commands.

    Raises:
        ValueError: the file is not of that form, or has an option that the command has not; names the nearest. OSError.
    """
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    place = next((place for place, word in enumerate(arguments) if word in commands.choices), None)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument(CONFIG, type=Path, action="append", default=[])
    files = [] if place is None else finder.parse_known_args(list(arguments[place + 1:]))[0].config
    if place is None or not files:
        return list(arguments)
    if len(files) > 1:
        raise ValueError(f"{CONFIG} is given {len(files)} times; give it once.")
    own, command = arguments[place + 1:], commands.choices[arguments[place]]
    options = {option.removeprefix("--"): action for action in command._actions for option in action.option_strings
               if option.startswith("--") and action.dest != "help" and option != CONFIG}
    read: list[str] = []
    for name, value in _values(files[0]).items():
        key = name.strip().replace("_", "-")
        if key not in options:
            raise ValueError(f"{CONFIG} {files[0]}: {command.prog} has no option {name!r}{did_you_mean(key, options)}.")
        words = _words(key, options[key], value, f"{CONFIG} {files[0]}: {name}={value!r} is not allowed")
        if not any(_is(word, options[key]) for word in own):
            read += words
    return [*arguments[: place + 1], *read, *own]


def _values(file: Path) -> Mapping[str, Any]:
    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix.lower() == ".json":
            values = json.loads(text)
        else:
            import yaml

            values = yaml.safe_load(text)
    except Exception as error:  # yaml's own errors, json's, and those of values they hold
        raise ValueError(f"{CONFIG} {file}: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{CONFIG} {file}: option names and their values were expected, not {type(values).__name__}.")
    return values


def _words(key: str, action: argparse.Action, value: Any, where: str) -> list[str]:
    """An option as it stands on a command line; ``where`` begins an error."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{where}: it must be true or false.")
        word = f"--{key}" if value else f"--no-{key}"
        return [word] if word in action.option_strings else []
    if isinstance(value, (list, tuple)):
        if action.nargs in ("+", "*"):
            return [f"--{key}", *map(_written, value)]
        if not isinstance(action, argparse._AppendAction):
            raise ValueError(f"{where}: it must be one value.")
        return [f"--{key}={_written(item)}" for item in value]
    if isinstance(value, Mapping):
        raise ValueError(f"{where}: it must be a value or a list of values.")
    return [f"--{key}={_written(value)}"]


def _written(value: Any) -> str:
    return "none" if value is None else str(value)


def _is(word: str, action: argparse.Action) -> bool:
    """Whether a word of the command line is this option; argparse takes the beginning of a long one for it."""
    name = word.partition("=")[0]
    return any(name == option or (name.startswith("--") and len(name) > 2 and option.startswith(name))
               or (len(option) == 2 and word.startswith(option)) for option in action.option_strings)
