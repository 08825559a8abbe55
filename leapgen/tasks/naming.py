"""What users name a task by, with its settings behind a question mark: ``maze?doors=3&length=1``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from leapgen.options import did_you_mean


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """A name without its settings, and the settings: JSON values; what is no JSON is a text.

    Raises:
        ValueError: a setting has no value, or two.
    """
    bare, _, listed = name.partition("?")
    settings: dict[str, Any] = {}
    for setting in filter(None, listed.split("&")):
        key, equals, text = map(unquote, setting.partition("="))
        if not key or not equals or key in settings:
            raise ValueError(f"{name}: {setting!r} is not allowed: settings are field=value, each field once, & between "
                             "them.")
        try:
            settings[key] = json.loads(text)
        except json.JSONDecodeError:
            settings[key] = text
    return bare, settings


def without_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Raises:
        ValueError: there are settings for a task that takes none.
    """
    if settings:
        raise ValueError(f"{name}: this task has no settings, only maze and gym:NAME have.")


def config_of(kind: type[Any], name: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """A dataclass of a task's settings.

    Args:
        name: of the task, for errors.
        settings: what its name says.
        given: other fields, which the name may change.

    Raises:
        ValueError: an unknown field, a value of another type than its default, or one that is not allowed.
    """
    defaults = vars(kind(**given))
    for key in settings.keys() - defaults.keys():
        raise ValueError(f"{name}: there is no field {key!r}{did_you_mean(key, defaults)}. Fields: {', '.join(defaults)}.")
    values = {key: _like(defaults[key], value, f"{name}: {key}={value!r}") for key, value in settings.items()}
    try:
        return kind(**{**given, **values})
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _like(default: Any, value: Any, where: str) -> Any:
    """A value as one of the default's type."""
    if isinstance(default, str) and not isinstance(value, str):
        return json.dumps(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(f"{where} is not allowed: {type(default).__name__} was expected, such as {default!r}.")
    return value
