"""A path's words as a client reads them: reasoning apart from content, while they come or afterwards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from leapgen.protocol.endings import Endings
from leapgen.protocol.prompts import SUMMARY_OPEN
from leapgen.record.events import CutEvent, SegmentEvent, TokenEvent
from leapgen.record.run import PathOutput, Segment

_BLANK_LINE_AT_END = re.compile(r"\n[ \t]*\n\s*\Z")


class Sampled(NamedTuple):
    """A token of the path's own words."""

    token: int
    logprob: float | None


@dataclass
class Delta:
    """What is new. ``tokens`` are those sampled for the path's own words, which reasoning and content hold."""

    reasoning: str = ""
    content: str = ""
    tokens: list[Sampled] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.tokens)


class _Held(NamedTuple):
    text: str
    tokens: list[Sampled]


class Words:
    """One path's words, told as they come; nothing that is told is taken back.

    What a block may cut off is held back until it is known to stay: own words behind the last blank line. So is what may be
    the beginning of a stop string or of a marker. A path that never closes its thinking has its own words as content, too.

    Args:
        endings: tell where thinking ends; None where nothing is apart from content, as in a text completion.
        stops: strings that end a path; they and what follows are not told.
        cuts: whether blocks may cut.
    """

    def __init__(self, endings: Endings | None, stops: Sequence[str] = (), cuts: bool = True) -> None:
        self._end = endings.think_end if endings is not None else ""
        self._apart = endings is not None
        self._stops, self._cuts = stops, cuts
        self._markers = [marker for marker in (*stops, SUMMARY_OPEN, self._end) if marker]
        self._thinking = bool(self._end)
        self._kind = ""  # of the newest words
        self._held: list[_Held] = []
        self._stays = 0  # how many of these no block can cut off
        self._stretch = ""  # own words since something else was read
        self._said = False  # whether there was a blank line behind something said in them
        self._own: list[str] = []
        self._empty = True  # no content so far
        self._ended = False
        self._new = Delta()

    @classmethod
    def whole(cls, path: PathOutput, endings: Endings | None, stops: Sequence[str] = ()) -> Delta:
        """All of a path that has ended."""
        words = cls(endings, stops)
        for segment in path.segments[1:]:
            words._segment(segment)
        words.end()
        return words.take()

    def take(self) -> Delta:
        """What is new since it was last asked for."""
        new, self._new = self._new, Delta()
        return new

    def add(self, event: TokenEvent | SegmentEvent | CutEvent) -> None:
        """Takes an event of the path."""
        if isinstance(event, CutEvent):
            del self._held[len(self._held) - event.tokens :]
            self._stays = min(self._stays, len(self._held))
            self._stretch = self._stretch.removesuffix(event.text)
        elif event.aside:
            return
        elif isinstance(event, SegmentEvent):
            self._segment(event.segment)
        elif event.kind == "summary":
            self._others(event.kind, event.text)
        else:
            self._hear(event.kind, event.text, [Sampled(event.token, event.logprob)])

    def end(self) -> None:
        """The path has ended: whatever was held back stays. Ending twice is allowed."""
        if self._ended:
            return
        self._ended = True
        self._release(len(self._held), last=True)
        if self._empty and self._apart:
            own = "".join(self._own)
            self._content(own.partition(self._end)[0] if self._end else own)

    def _segment(self, segment: Segment) -> None:
        if segment.kind in ("beginning", "own", "answer"):
            logprobs = zip(segment.token_ids, segment.logprobs, strict=True) if segment.sampled else ()
            self._hear(segment.kind, segment.text, [Sampled(*pair) for pair in logprobs])
        else:
            self._others(segment.kind, segment.text)

    def _others(self, kind: str, text: str) -> None:
        """What stands between own words; the phrase that asks for an answer is a part of it."""
        self._turn(kind)
        if kind == "forced":
            self._say(text)
        elif self._apart:
            self._new.reasoning += text

    def _turn(self, kind: str) -> None:
        if kind != self._kind:
            self._release(len(self._held))
            self._kind, self._stretch, self._said = kind, "", False

    def _hear(self, kind: str, text: str, tokens: list[Sampled]) -> None:
        """Own words: held, and told as far as they are known to stay."""
        self._turn(kind)
        self._held.append(_Held(text, tokens))
        if kind == "own" and self._cuts:
            self._stretch += text
            blank = text != "" and self._stretch.strip() != "" and _BLANK_LINE_AT_END.search(self._stretch[-64:])
            if self._said and not blank:
                return
            self._said = self._said or bool(blank)
        self._stays = len(self._held)
        self._release(self._stays - self._doubtful())

    def _doubtful(self) -> int:
        """How many of the newest words held are, or may become, a part of a marker or of a stop string."""
        heard = "".join(held.text for held in self._held)
        characters = max((size for marker in self._markers for size in range(1, min(len(marker), len(heard)) + 1)
                          if heard.endswith(marker[:size])), default=0)
        characters = max([characters, *(len(heard) - heard.find(stop) for stop in self._stops if stop in heard)])
        count = 0
        while characters > 0:
            count += 1
            characters -= len(self._held[-count].text)
        return count

    def _release(self, count: int, last: bool = False) -> None:
        """Tells the first ``count`` of what is held."""
        told, self._held = self._held[:count], self._held[count:]
        self._stays = max(self._stays - count, 0)
        text = "".join(held.text for held in told)
        self._new.tokens += (token for held in told for token in held.tokens)
        if last:
            text = text[: min((text.find(stop) for stop in self._stops if stop in text), default=len(text))]
        self._own.append(text)
        self._say(text)

    def _say(self, text: str) -> None:
        if self._thinking:
            before, marker, text = text.partition(self._end)
            self._new.reasoning += before
            if not marker:
                return
            self._thinking = False
        self._content(text)

    def _content(self, text: str) -> None:
        if self._apart and self._empty:
            text = text.lstrip()
        self._new.content += text
        self._empty = self._empty and not text
