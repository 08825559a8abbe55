"""Events of a run, in the order they happen.

Each path's text is the text of its token and segment events that are not ``aside``, appended one after another, less what
cut events take back.
"""

from __future__ import annotations

from dataclasses import dataclass

from leapgen.record.run import BlockRecord, Kind, LeapOutput, PathOutput, Segment


@dataclass(frozen=True)
class TokenEvent:
    """A path sampled a token. ``text`` is what it adds to the path's text: none while a character lacks bytes.

    ``aside``: the token belongs to a summary that does not become part of the path. ``logprob`` is natural, under the model.
    """

    question: int
    path: int
    kind: Kind
    token: int
    text: str
    aside: bool = False
    logprob: float | None = None


@dataclass(frozen=True)
class SegmentEvent:
    """Forced tokens entered a path: a beginning, a trigger, a closing tag, a comment, a forced phrase.

    A resumed run begins with all segments that it has, sampled ones included. ``aside`` as for tokens.
    """

    question: int
    path: int
    segment: Segment
    aside: bool = False


@dataclass(frozen=True)
class CutEvent:
    """A path's last ``tokens`` tokens, and the ``text`` that goes with them, were cut off before a summary."""

    question: int
    path: int
    tokens: int
    text: str


@dataclass(frozen=True)
class BlockEvent:
    """A LeaP block was held: its summaries are routed. What the paths then read follows in segment events."""

    question: int
    block: BlockRecord


@dataclass(frozen=True)
class FinishEvent:
    """A path ended."""

    question: int
    path: PathOutput


@dataclass(frozen=True)
class OutputEvent:
    """A question is done, or was stopped: then ``output.finished`` is False."""

    question: int
    output: LeapOutput


GroupEvent = TokenEvent | SegmentEvent | CutEvent | BlockEvent | FinishEvent
StreamEvent = GroupEvent | OutputEvent
