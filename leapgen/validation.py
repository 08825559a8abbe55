"""Checks of single values. An error says what was given and what is allowed."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(f"{name}={value!r} is not allowed: {name} must be {allowed}.")


def is_int(value: object, minimum: int) -> bool:
    """Whether it is an integer of at least ``minimum``; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_number(value: object) -> bool:
    """Whether it is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def settle(config: Any) -> None:
    """Makes numbers of other libraries, in the fields of a frozen dataclass, Python's own.

    Raises:
        ValueError: a field whose default is True or False has another value.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(field.default, bool):
            require(isinstance(value, bool), field.name, value, "True or False")
        elif isinstance(value, numbers.Integral) and not isinstance(value, bool):
            object.__setattr__(config, field.name, int(value))
        elif isinstance(value, numbers.Real) and not isinstance(value, (bool, int)):
            object.__setattr__(config, field.name, float(value))


def make_tuple(config: object, name: str, items: str, check: Callable[[Any], bool], single: bool = False) -> None:
    """Makes a field a tuple; a ``single`` item, where that is allowed, becomes a tuple of one.

    Raises:
        ValueError: it is no collection, or ``check`` does not hold for an item; ``items`` says what they must be.
    """
    value = getattr(config, name)
    if single and isinstance(value, (str, numbers.Integral)):
        value = (value,)
    require(isinstance(value, Iterable) and not isinstance(value, str), name, value, f"a collection of {items}")
    values = tuple(int(v) if isinstance(v, numbers.Integral) and not isinstance(v, bool) else v for v in value)
    require(all(check(item) for item in values), name, value, f"a collection of {items}")
    object.__setattr__(config, name, values)


def required_arguments(function: Callable[..., Any]) -> int | None:
    """How many arguments a call must give by position; None if the function has no signature, or needs one by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return None if any(p.kind is p.KEYWORD_ONLY for p in required) else len(required)


def takes(function: Callable[..., Any], arguments: int) -> bool:
    """Whether a call may give this many arguments by position; True for a function without a signature."""
    try:
        inspect.signature(function).bind(*range(arguments))
    except ValueError:  # no signature
        return True
    except TypeError:
        return False
    return True
