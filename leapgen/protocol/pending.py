"""A message while a path writes it, on a fork of its sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

from leapgen.engine import Event, Sequence
from leapgen.protocol.prompts import SUMMARY_CLOSE
from leapgen.protocol.text import TextStream


@dataclass
class PendingMessage:
    """``aside``: the fork will be dropped, so that nothing said on it becomes part of the path."""

    sequence: Sequence
    text: TextStream  # the path's text, and on
    opening: list[int]  # trigger and lead-in
    block: int
    start: int  # character of the text where the message begins
    aside: bool
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    sampling_logprobs: list[float | None] = field(default_factory=list)
    closed: bool = False  # by the model itself
    done: bool = False

    def append(self, event: Event, token: int) -> str:
        """Notes a sampled token; returns the text it adds."""
        self.tokens.append(token)
        self.logprobs.append(event.logprob)
        self.sampling_logprobs.append(event.sampling_logprob)
        new = self.text.push(token)
        self.closed = SUMMARY_CLOSE in self.text.text[self.start :]
        self.done = self.closed or event.finish == "limit"
        return new

    @property
    def words(self) -> str:
        """The message without its tags."""
        return self.text.text[self.start :].split(SUMMARY_CLOSE, 1)[0].strip()
