"""Fields of configs as a text tells them: ``router=random,top_k_peers=2``."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from leapgen.options import did_you_mean

WORDS = {bool: "yes or no", int: "an integer", float: "a number", str: "a text", type(None): "none"}
TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def read_fields(text: str, hints: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``FIELD=VALUE,...`` as values of the types that ``hints`` says; values of a tuple are joined by ``+``.

    Raises:
        ValueError: an unknown field (the nearest are named), or a value that is not of its type; ``where`` says in what.
    """
    found: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"{where}: {item!r} is no FIELD=VALUE.")
        if name not in hints:
            raise ValueError(f"{where}: there is no field {name!r}{did_you_mean(name, hints)}. Fields: "
                             f"{', '.join(sorted(hints))}.")
        found[name] = _value(value.strip(), hints[name], f"{where}: {name}={value}")
    return found


def _value(text: str, hint: Any, where: str) -> Any:
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    for kind in kinds:
        try:
            if kind is bool:
                return TRUTH[text.lower()]
            if kind in (int, float, str):
                return kind(text)
            if get_origin(kind) is tuple and get_args(kind)[0] in (int, str):
                return tuple(map(get_args(kind)[0], text.split("+")))
        except (ValueError, KeyError):
            continue
    said = [WORDS.get(kind, "values joined by +") for kind in kinds if kind in WORDS or get_origin(kind) is tuple]
    raise ValueError(f"{where} is not allowed: it must be {' or '.join(said)}.")
