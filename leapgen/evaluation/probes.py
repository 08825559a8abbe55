"""Probes: what paths would have answered on the way, as a run leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["before", "alone", "placebo", "after", "share", "end"]


@dataclass
class Probe:
    """What a path would have answered at one place.

    Args:
        kind: ``before`` it read a comment; ``after`` it had read it; ``placebo``: after another comment in its place;
            ``alone``: without a comment, after as many own tokens as these two; ``share``: after a number of own tokens;
            ``end``: at the end of its reasoning.
        path: its index.
        own_tokens: that it had sampled by then, cut ones included.
        block: that the comment is of.
        peers: whose messages it read there.
        answer: None if it began none, or none that ends within the probe's tokens.
        token_ids: of the answer, as they were drawn after the phrase.
        logprobs: natural log-probability of each answer in question, once the phrase has asked for it.
    """

    kind: Kind
    path: int
    own_tokens: int
    block: int | None = None
    peers: list[int] = field(default_factory=list)
    answer: str | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: dict[str, float] = field(default_factory=dict)


def probes_of(held: Mapping[str, Any]) -> list[Probe]:
    """The probes in what ``LeapOutput.probes`` gives."""
    return [Probe(**fields) for fields in held.get("taken", [])]


def standing(probes: Iterable[Probe], path: int, block: int) -> Probe | None:
    """What a path would have answered when a block's comments were read: before its own, or at its end if it had ended."""
    return next((probe for probe in probes if probe.path == path and (
        (probe.kind == "before" and probe.block == block) or probe.kind == "end")), None)
