"""A message while a path writes it, on a fork of its sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

from leapgen.engine import Engine, Event, Sequence
from leapgen.protocol.prompts import SUMMARY_CLOSE, SUMMARY_OPEN
from leapgen.protocol.speaker import Speaker
from leapgen.protocol.text import TextStream
from leapgen.record.message import Message


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

    @classmethod
    def begin(cls, speaker: Speaker, twin: Sequence, text: TextStream, opening: list[int], block: int,
              aside: bool) -> PendingMessage:
        """Lets a fork write: ``opening`` is forced, ``summary_tokens`` sampled ones at most follow."""
        text.extend(opening)
        speaker.engine.extend(twin, opening, limit=len(twin) + len(opening) + speaker.config.summary_tokens,
                              phase="summarize", then="summarize", stop_tokens=speaker.endings.reasoning, min_length=0)
        return cls(twin, text, opening, block, text.text.rfind(SUMMARY_OPEN) + len(SUMMARY_OPEN), aside)

    def take(self, engine: Engine, event: Event, token: int) -> str | None:
        """Notes a sampled token; returns the text it adds, or None for an end token, which is no part of a message."""
        if event.finish == "stop":
            engine.crop(self.sequence, len(self.sequence) - 1)
            self.sequence.ledger.discarded += 1
            self.done = True
            return None
        self.tokens.append(token)
        self.logprobs.append(event.logprob)
        self.sampling_logprobs.append(event.sampling_logprob)
        new = self.text.push(token)
        self.closed = SUMMARY_CLOSE in self.text.text[self.start :]
        self.done = self.closed or event.finish == "limit"
        if self.done:
            engine.pause(self.sequence)
        return new

    def message(self, sender: int, answer: str | None, start: int) -> Message:
        """As the others get it; ``start`` is where its opening begins in the sender's context."""
        return Message(sender, self.words, self.block, answer, num_tokens=len(self.tokens), closed=self.closed,
                       token_ids=list(self.tokens), start=None if self.aside else start + len(self.opening))

    @property
    def words(self) -> str:
        """The message without its tags."""
        return self.text.text[self.start :].split(SUMMARY_CLOSE, 1)[0].strip()
