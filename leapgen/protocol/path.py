"""One reasoning path: its live sequence, its text, and segments that say what every token is."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from leapgen.engine import Sequence
from leapgen.protocol.prompts import SUMMARY_CLOSE
from leapgen.protocol.text import TextStream
from leapgen.record.run import Kind, PathOutput, Segment, Summary

Stage = Literal["reasoning", "waiting", "answering", "finished"]


@dataclass
class PendingSummary:
    """A summary being written on a fork of its path.

    ``aside`` says that the fork will be dropped: what is said on it never becomes part of the path.
    """

    sequence: Sequence
    text: TextStream  # the path's text, and on
    opening: list[int]  # trigger and lead-in
    branch: int  # of the random stream
    start: int  # character of the text where the summary begins
    aside: bool
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    sampling_logprobs: list[float | None] = field(default_factory=list)
    closed: bool = False  # by the model itself
    done: bool = False

    def append(self, token: int, logprob: float | None, sampling_logprob: float | None) -> str:
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.sampling_logprobs.append(sampling_logprob)
        return self.text.push(token)

    def summary(self) -> Summary:
        text = self.text.text[self.start :].split(SUMMARY_CLOSE, 1)[0]
        return Summary(text.strip(), len(self.tokens), self.closed)


@dataclass(eq=False)
class Path:
    """Positions in ``text`` and ``segments`` count from the end of the prompt."""

    index: int
    group: Any  # the Group it belongs to
    text: TextStream
    segments: list[Segment] = field(default_factory=list)
    sequence: Sequence | None = None  # None before the start
    pending: PendingSummary | None = None
    stage: Stage = "reasoning"
    round_tokens: int = 0  # own tokens sampled since the last block, cut ones included
    own_tokens: int = 0  # own tokens sampled in all, cut ones included
    branch: int = 0  # of the random stream
    reason_end: int = 0  # tokens up to the end of reasoning
    concluded: bool = False  # it ended its thinking itself, while it still took part in blocks
    forced: bool = False  # it was asked for its answer
    skips_blocks: bool = False  # the context has no room for another summary
    opened_summary: bool = False  # the model opened <summarize> itself
    shared_summary: Summary | None = None  # what a finished path goes on sharing
    finish_reason: str | None = None
    answer: str | None = None

    def append(self, kind: Kind, token: int, logprob: float | None, sampling_logprob: float | None,
               silent: bool = False) -> str:
        """Notes a sampled token; returns the text it adds (none for a ``silent`` end token)."""
        if not self.segments or self.segments[-1].kind != kind:
            self.segments.append(Segment(kind, []))
        segment = self.segments[-1]
        segment.token_ids.append(token)
        segment.logprobs.append(logprob)
        segment.sampling_logprobs.append(sampling_logprob)
        new = self.text.push_silent() if silent else self.text.push(token)
        segment.text += new
        return new

    def inject(self, kind: Kind, tokens: list[int], block: int | None = None) -> Segment:
        """Notes forced tokens."""
        start = len(self.text)
        self.text.extend(tokens)
        self.segments.append(Segment(kind, list(tokens), self.text.span(start, len(self.text)), block))
        return self.segments[-1]

    def begin(self, tokens: list[int], interval: int) -> None:
        """Notes what it is to go on from. It counts as its own; intervals that end within it hold no block."""
        if tokens:
            self.inject("beginning", tokens)
            self.own_tokens, self.round_tokens, self.reason_end = len(tokens), len(tokens) % interval, len(self.text)

    def crop_last(self, count: int) -> str:
        """Takes the last ``count`` tokens off the last segment; returns the text that goes with them."""
        segment, text = self.segments[-1], self.text.text
        keep = len(segment.token_ids) - count
        for values in (segment.token_ids, segment.logprobs, segment.sampling_logprobs):
            del values[keep:]
        self.text.crop(len(self.text) - count)
        segment.text = self.text.span(len(self.text) - keep, len(self.text))
        return text[len(self.text.text) :]

    def adopt(self, pending: PendingSummary, block: int) -> None:
        """Makes a summary part of the path."""
        first = len(self.text)
        self.text = pending.text
        middle = first + len(pending.opening)
        if pending.opening:
            self.segments.append(Segment("trigger", pending.opening, self.text.span(first, middle), block))
        self.segments.append(Segment("summary", pending.tokens, self.text.span(middle, len(self.text)), block,
                                     pending.logprobs, pending.sampling_logprobs))

    def find_new(self, wanted: str) -> int | None:
        """Where the newest token completed ``wanted`` inside the last segment, as a character of ``text``; else None."""
        last = self.segments[-1]
        begin = len(self.text.text) - len(last.text)
        previous = self.text.ends[-2] if len(self.text) > 1 else 0
        found = self.text.text.find(wanted, max(begin, previous - len(wanted) + 1))
        return found if found >= 0 else None

    def thought(self) -> str:
        """The path's own words of reasoning: the same at a block, however far an answer is that follows them."""
        return "".join(s.text for s in self.segments if s.kind in ("beginning", "own"))

    def said(self) -> str:
        """The path's own words, and the phrase that asked for its answer; no peer's."""
        return "".join(s.text for s in self.segments if s.kind in ("beginning", "own", "forced", "answer"))

    def output(self, prompt: list[int], unfinished: str | None = None) -> PathOutput:
        """A copy of the path as it stands."""
        return PathOutput(
            index=self.index,
            segments=[Segment("prompt", list(prompt)), *copy.deepcopy(self.segments)],
            answer=self.answer, finish_reason=self.finish_reason or unfinished,
            state={"stage": self.stage, "round_tokens": self.round_tokens, "own_tokens": self.own_tokens,
                   "branch": self.branch, "reason_end": self.reason_end, "concluded": self.concluded, "forced": self.forced,
                   "skips_blocks": self.skips_blocks, "opened_summary": self.opened_summary,
                   "shared_summary": dataclasses.asdict(self.shared_summary) if self.shared_summary else None})

    def restore(self, output: PathOutput) -> None:
        """Takes over the state of an interrupted run."""
        state = dict(output.state)
        shared = state.pop("shared_summary")
        self.shared_summary = Summary(**shared) if shared else None
        for name, value in state.items():
            setattr(self, name, value)
        self.segments = copy.deepcopy(output.segments[1:])
        self.text.crop(0)
        for segment in self.segments:
            self.text.extend(segment.token_ids)
        if self.stage == "finished":
            self.finish_reason, self.answer = output.finish_reason, output.answer
