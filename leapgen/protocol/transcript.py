"""What one path has said and read, token by token: its text, and segments that say what every token is."""

from __future__ import annotations

from collections.abc import Sequence

from leapgen.protocol.pending import PendingMessage
from leapgen.protocol.text import TextStream
from leapgen.record.message import Source
from leapgen.record.run import Kind, Segment


class Transcript:
    """Positions in ``text`` and ``segments`` count from the end of the prompt."""

    def __init__(self, text: TextStream) -> None:
        self.text = text
        self.segments: list[Segment] = []

    def __len__(self) -> int:
        return len(self.text)

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

    def inject(self, kind: Kind, tokens: Sequence[int], block: int | None = None, sources: Sequence[Source] = ()) -> Segment:
        """Notes forced tokens."""
        start = len(self.text)
        self.text.extend(tokens)
        segment = Segment(kind, list(tokens), self.text.span(start, len(self.text)), block, sources=list(sources))
        self.segments.append(segment)
        return segment

    def take(self, pending: PendingMessage) -> None:
        """Makes a message that was written on a fork part of this."""
        first = len(self.text)
        self.text = pending.text
        middle = first + len(pending.opening)
        if pending.opening:
            self.segments.append(Segment("trigger", pending.opening, self.text.span(first, middle), pending.block))
        self.segments.append(Segment("summary", pending.tokens, self.text.span(middle, len(self.text)), pending.block,
                                     pending.logprobs, pending.sampling_logprobs))

    def after_blank_line(self) -> int:
        """Tokens of the newest own words that follow their last blank line."""
        if not self.segments or self.segments[-1].kind != "own":
            return 0
        return len(self.text) - self.text.last_blank_line(len(self.text) - len(self.segments[-1].token_ids))

    def after(self, wanted: str | None) -> int:
        """Tokens of the newest own words from where ``wanted`` last stands in them; 0 if it does not."""
        if not wanted or not self.segments or self.segments[-1].kind != "own":
            return 0
        found = self.text.text.rfind(wanted, len(self.text.text) - len(self.segments[-1].text))
        return len(self.text) - self.text.tokens_before(found) if found >= 0 else 0

    def crop_last(self, count: int) -> str:
        """Takes the last ``count`` tokens off the last segment; returns the text that goes with them."""
        segment, text = self.segments[-1], self.text.text
        keep = len(segment.token_ids) - count
        for values in (segment.token_ids, segment.logprobs, segment.sampling_logprobs):
            del values[keep:]
        self.text.crop(len(self.text) - count)
        segment.text = self.text.span(len(self.text) - keep, len(self.text))
        return text[len(self.text.text) :]

    def find_new(self, wanted: str) -> int | None:
        """Where the newest token completed ``wanted`` inside the last segment, as a character of ``text``; else None."""
        last = self.segments[-1]
        begin = len(self.text.text) - len(last.text)
        previous = self.text.ends[-2] if len(self.text) > 1 else 0
        found = self.text.text.find(wanted, max(begin, previous - len(wanted) + 1))
        return found if found >= 0 else None

    def restore(self, segments: Sequence[Segment]) -> None:
        self.segments = list(segments)
        self.text.crop(0)
        for segment in self.segments:
            self.text.extend(segment.token_ids)

    def thought(self) -> str:
        """The path's own words of reasoning: the same at a block, however far an answer is that follows them."""
        return "".join(s.text for s in self.segments if s.kind in ("beginning", "own"))

    def said(self) -> str:
        """The path's own words, and the phrase that asked for its answer; no peer's."""
        return "".join(s.text for s in self.segments if s.kind in ("beginning", "own", "forced", "answer"))
