"""Arms by text: ``leap``, ``independent``, ``leap:router=random,top_k_peers=2``, ``equal:leap``, ``strangers``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_type_hints

from leapgen.config import LeapConfig, SamplingConfig
from leapgen.evaluation.broadcast import Broadcast
from leapgen.evaluation.controls import EqualCost, FromStrangers, broadcast, scrambled
from leapgen.evaluation.design import Arm, Finished, Prepare, depths
from leapgen.evaluation.fields import read_fields
from leapgen.evaluation.placebos import OwnSummary, Scrambled, Strangers
from leapgen.options import did_you_mean
from leapgen.protocol.base import Method
from leapgen.protocol.leap import Leap

__all__ = ["KINDS", "Arm", "Finished", "Kind", "Prepare", "arm", "arms", "depths"]

LEAP, SAMPLING = get_type_hints(LeapConfig), get_type_hints(SamplingConfig)
OTHERS = {"model": str, "n": int}
MEETING = LEAP.keys() - {"max_new_tokens", "min_new_tokens", "force_answer", "forced_answer_tokens", "write_answer",
                         "written_answer_tokens", "stop_token_ids", "stop_strings", "ignore_eos", "think_start", "think_end"}
EQUAL = "equal"


@dataclass(frozen=True)
class Kind:
    """What a name stands for in an arm's text.

    Args:
        preset: a constructor of ``LeapConfig``: what it changes is changed, and its own arguments are fields as well.
        leap: fields of ``LeapConfig`` that belong to the name, whatever suits the task.
        protocol: how the paths work together.
        after: kinds that the arm comes after, with the same fields.
        prepare: makes ``Arm.prepare``, given the names of these arms.
    """

    preset: Callable[..., LeapConfig] = LeapConfig
    leap: Mapping[str, Any] = field(default_factory=dict)
    protocol: Method = Leap
    after: tuple[str, ...] = ()
    prepare: Callable[..., Prepare] | None = None

    def arm(self, name: str, fields: str) -> Arm:
        """The arm with these ``FIELD=VALUE``.

        Raises:
            ValueError: a field or value that is not allowed.
        """
        own = {} if self.preset is LeapConfig else get_type_hints(self.preset)
        own = {key: hint for key, hint in own.items() if key not in ("return", "changes")}
        given = read_fields(fields, {**LEAP, **SAMPLING, **OTHERS, **own}, f"arm {name!r}")
        preset = self.preset(**{key: given.pop(key) for key in own if key in given})
        leap = {**_changed(preset), **self.leap, **{key: value for key, value in given.items() if key in LEAP}}
        sampling = {key: value for key, value in given.items() if key in SAMPLING}
        try:
            LeapConfig(**leap)
            SamplingConfig(**sampling)
        except ValueError as error:
            raise ValueError(f"arm {name!r}: {error}") from error
        after = tuple(_text(kind, fields) for kind in self.after)
        return Arm(name, leap, sampling, self.protocol, given.get("model", ""), given.get("n"), after,
                   self.prepare and self.prepare(*after))


KINDS: dict[str, Kind] = {
    "leap": Kind(),
    "independent": Kind(LeapConfig.independent),
    "official": Kind(LeapConfig.official, leap={"finished_share": False}),
    "single": Kind(LeapConfig.single),
    "leap-t": Kind(LeapConfig.leap_t),
    "retry": Kind(LeapConfig.retry),
    "own": Kind(protocol=OwnSummary),
    "strangers": Kind(protocol=partial(Strangers, bank={}), after=("leap",), prepare=FromStrangers),
    "scrambled": Kind(protocol=Scrambled, prepare=lambda: scrambled),
    "broadcast": Kind(protocol=Broadcast, prepare=lambda: broadcast),
}


def arm(text: str) -> Arm:
    """The arm that a text tells: ``NAME``, or ``NAME:FIELD=VALUE,...``.

    NAME is one of ``KINDS``, or ``equal:ARM``: independent paths with the budget at which they spend as many tokens as
    those of ARM (``EqualCost`` has the rule). FIELD is a field of ``LeapConfig`` or ``SamplingConfig``, ``model`` (one of
    the study's further models), ``n``, or an argument of the preset; values of a tuple are joined by ``+``.

    Raises:
        ValueError: an unknown name or field (the nearest are named), or a value that is not allowed.
    """
    text = text.strip()
    name, _, fields = text.partition(":")
    if name == EQUAL and fields:
        return _equal(text, fields)
    if name not in KINDS:
        raise ValueError(f"there is no arm {name!r}{did_you_mean(name, [*KINDS, EQUAL])}. Arms: {', '.join(KINDS)}, "
                         f"{EQUAL}:ARM.")
    return KINDS[name].arm(text, fields)


def arms(texts: str | Sequence[str]) -> list[Arm]:
    """The arms that texts tell, those that they come after before them. A text may hold several, joined by commas.

    Raises:
        ValueError: as for ``arm``.
    """
    found: dict[str, Arm] = {}

    def add(name: str) -> None:
        if name not in found:
            one = arm(name)
            for earlier in one.after:
                add(earlier)
            found[name] = one

    for text in [texts] if isinstance(texts, str) else texts:
        for name in _split(text):
            add(name)
    return list(found.values())


def _split(text: str) -> list[str]:
    """At commas; ``FIELD=VALUE`` goes on with the arm before it."""
    names: list[str] = []
    for item in filter(None, map(str.strip, text.split(","))):
        if names and "=" in item and ":" not in item.partition("=")[0]:
            names[-1] += f",{item}"
        else:
            names.append(item)
    return names


def _equal(text: str, name: str) -> Arm:
    """Independent paths as ``name`` has them: with its model, its sampling, its answers, but not how its paths meet."""
    like = arm(name)
    kept = [field for field in filter(None, name.partition(":")[2].split(","))
            if _name(field) in LEAP.keys() - MEETING or _name(field) in SAMPLING or _name(field) in OTHERS]
    base = _text("independent", ",".join(kept))
    return dataclasses.replace(arm(base), name=text, after=(like.name, base), prepare=EqualCost(like.name, base))


def _name(field: str) -> str:
    return field.partition("=")[0].strip().replace("-", "_")


def _text(kind: str, fields: str) -> str:
    return f"{kind}:{fields}" if fields else kind


def _changed(config: LeapConfig) -> Mapping[str, Any]:
    """Fields that are not as they are by default."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)
            if getattr(config, field.name) != field.default}
