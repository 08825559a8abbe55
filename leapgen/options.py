"""Settings by name: keyword options for several configs, and configs as the plain values that a file holds."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

RENAMED = {"answer_tokens": "forced_answer_tokens", "max_answer_tokens": "written_answer_tokens"}  # old name: new name

Config = TypeVar("Config")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """What an error on an unknown name adds to it: the nearest known ones, in brackets; nothing where none is near."""
    close = difflib.get_close_matches(name, known, n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def unknown_options(names: Collection[str], *configs: type) -> TypeError:
    """The error for names that are no field of any of the configs; it names the nearest fields, or the new name of one."""
    known = sorted({field.name for config in configs for field in dataclasses.fields(config)})
    parts = []
    for name in sorted(names):
        parts.append(repr(name) + (f" (it is now {RENAMED[name]})" if RENAMED.get(name) in known else
                                   did_you_mean(name, known)))
    return TypeError(f"unknown option {', '.join(parts)}. Options: {', '.join(known)}.")


def named_options(config: type[Config]) -> type[Config]:
    """Decorates a dataclass: a keyword that is no field raises ``unknown_options``, not Python's own TypeError."""
    kind: type[Any] = config
    known = {field.name for field in dataclasses.fields(kind)}
    init = kind.__init__

    @functools.wraps(init)
    def checked(self: Config, *values: Any, **options: Any) -> None:
        if not known.issuperset(options):
            raise unknown_options(options.keys() - known, kind)
        init(self, *values, **options)

    kind.__init__ = checked
    return config


def split_options(options: Mapping[str, Any], *configs: type) -> list[dict[str, Any]]:
    """Keyword options by the config that has a field of that name.

    Raises:
        TypeError: an option that no config has.
    """
    fields = [{field.name for field in dataclasses.fields(config)} for config in configs]
    unknown = options.keys() - set().union(*fields)
    if unknown:
        raise unknown_options(unknown, *configs)
    return [{name: value for name, value in options.items() if name in names} for names in fields]


def plain_values(config: Any) -> dict[str, Any]:
    """A config as JSON values; a callable, which JSON cannot hold, becomes ``{"callable": its name}``."""
    def value(item: Any) -> Any:
        if isinstance(item, (tuple, list)):
            return [value(i) for i in item]
        return {"callable": getattr(item, "__qualname__", type(item).__name__)} if callable(item) else item

    return {field.name: value(getattr(config, field.name)) for field in dataclasses.fields(config)}


def config_from(config: type[Config], values: Mapping[str, Any], name: str) -> Config:
    """A config from the values that ``plain_values`` made of one; values that are no field of it are left out.

    Raises:
        ValueError: one of them was a callable; says which.
    """
    kind: type[Any] = config
    known = {field.name for field in dataclasses.fields(kind)}
    lost = [f"{key} ({item['callable']})" for key, value in values.items()
            for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    if lost:
        raise ValueError(f"the run was made with callables of yours, which a file cannot hold: {', '.join(lost)}. "
                         f"Give the config again: resume(output, {name}=...).")
    return config(**{key: tuple(value) if isinstance(value, list) else value
                     for key, value in values.items() if key in known})
