"""Options made from the fields of the config dataclasses: their names, their types, and help from their docstrings."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from leapgen.config import ROUTERS, SIMILARITIES, EngineConfig, LeapConfig, SamplingConfig
from leapgen.integrations.server.config import ServerConfig

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

PRESETS = ("paper", "official", "single", "leap_t", "official_leap_t", "independent", "retry")
TITLES = {LeapConfig: "protocol", SamplingConfig: "sampling", EngineConfig: "engine", ServerConfig: "server"}
CHOICES = {"router": ROUTERS, "similarity": SIMILARITIES}
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def argument_docs(config: type, quote: str = "") -> dict[str, str]:
    """What the ``Args:`` sections of a class and those it inherits from say of each name; ``quote`` stands around code."""
    docs: dict[str, str] = {}
    for kind in config.__mro__:
        section = re.split(r"^Args:\n", inspect.cleandoc(kind.__doc__ or ""), flags=re.MULTILINE)[-1]
        section = re.split(r"^\S", section, flags=re.MULTILINE)[0]
        for names, text in re.findall(r"^    (\w[\w, ]*): (.+(?:\n     .*)*)", section, flags=re.MULTILINE):
            for name in names.split(", "):
                docs.setdefault(name, " ".join(text.replace("``", quote).split()))
    return docs


def add_settings(parser: argparse.ArgumentParser, config: type, defaults: Mapping[str, Any] | None = None,
                 note: str = "") -> None:
    """An option for every field of a config that can be written on a command line.

    Args:
        defaults: values in place of the class's own, to be told in the help; the options themselves have none.
        note: what else there is to say of the group.
    """
    group = parser.add_argument_group(TITLES[config], note or f"fields of leapgen.{config.__name__}")
    docs, hints = argument_docs(config), get_type_hints(config)
    for field in dataclasses.fields(config):
        form = _form(field.name, hints[field.name])
        if form is not None:
            default = (defaults or {}).get(field.name, field.default)
            group.add_argument(f"--{field.name.replace('_', '-')}", dest=_destination(config, field.name),
                               default=argparse.SUPPRESS, help=_help(docs[field.name], hints[field.name], default), **form)


def given(options: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields of a config that the command line sets."""
    found = {field.name: _destination(config, field.name) for field in dataclasses.fields(config)}
    return {name: getattr(options, place) for name, place in found.items() if hasattr(options, place)}


def suggest(options: argparse.Namespace, values: Mapping[str, Any]) -> None:
    """Sets what the command line does not: fields of ``LeapConfig`` and ``SamplingConfig``, and options that are None."""
    for name, value in values.items():
        config = next((one for one in (LeapConfig, SamplingConfig) if name in one.__dataclass_fields__), None)
        place = name if config is None else _destination(config, name)
        if getattr(options, place, None) is None:
            setattr(options, place, value)


def add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESETS, default="paper", type=lambda name: name.replace("-", "_"),
                        help="protocol settings to start from: the paper's, the published code's, one block (LeaP-S), for "
                             "LeaP-T models (ours, the published code's), no blocks at all, or no blocks and a prompt that "
                             "asks to start over after a mistake; options below change them (default: paper)")


def leap_config(options: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> LeapConfig:
    """The preset with what ``defaults`` and the command line change.

    Raises:
        ValueError: a value that is not allowed.
    """
    preset: LeapConfig = getattr(LeapConfig, options.preset)()
    return preset.replace(**{**(defaults or {}), **given(options, LeapConfig)})


def sampling_options(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of SamplingConfig, checked; those not given are up to the model.

    Raises:
        ValueError: a value that is not allowed.
    """
    fields = given(options, SamplingConfig)
    SamplingConfig(**fields)
    return fields


def byte_count(text: str) -> int:
    """A number of bytes: ``8G``, ``512M``, ``1.5GiB``; units are powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), flags=re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, such as 8G or 512M")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _destination(config: type, name: str) -> str:
    return f"{config.__name__}.{name}"


def _form(name: str, hint: Any) -> dict[str, Any] | None:
    """How ``add_argument`` reads values of a type; None for what cannot be written on a command line."""
    accepted = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in accepted:
        if kind is bool:
            return {"action": argparse.BooleanOptionalAction}
        if kind in (int, float):
            number, metavar = (byte_count, "BYTES") if name.endswith("_bytes") else (_number(kind), _metavar(kind))
            return {"type": _or_none(number) if type(None) in accepted else number, "metavar": metavar}
        if kind is str:
            return {"metavar": "NAME" if name in CHOICES else "TEXT"}
        if get_origin(kind) is tuple and get_args(kind)[0] is int:
            return {"type": _number(int), "nargs": "+", "action": "extend", "metavar": "N"}
        if get_origin(kind) is tuple and get_args(kind)[0] is str:  # one at a time: the question may follow
            return {"action": "append", "metavar": "TEXT"}
    return None


def _metavar(kind: type) -> str:
    return "N" if kind is int else "X"


def _number(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'integer' if kind is int else 'number'}") from None

    return read


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text.lower() == "none" else read(text)


def _help(text: str, hint: Any, default: Any) -> str:
    if any(get_origin(kind) is Callable for kind in get_args(hint)):
        text = re.split(r",? or a callable", text)[0]  # which a command line cannot hold
    if get_origin(hint) is tuple and get_args(hint)[0] is str:
        text = f"{text.rstrip('.')}; repeatable."
    text = re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda name: f"--{name[0].replace('_', '-')}", text)
    if default not in (None, ()) and not isinstance(default, bool):
        text = f"{text.rstrip('.')} (default: {default})"
    elif isinstance(default, bool):
        text = f"{text.rstrip('.')} (default: {'yes' if default else 'no'})"
    return text.rstrip(".").replace("%", "%%")
