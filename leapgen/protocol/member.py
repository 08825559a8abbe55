"""One of a group in an engine: what it holds there, what it has said, and what it exchanges with the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leapgen.engine import Event, Stream
from leapgen.engine import Sequence as LiveSequence
from leapgen.protocol.pending import PendingMessage
from leapgen.protocol.prompts import SUMMARY_CLOSE
from leapgen.protocol.speaker import Speaker
from leapgen.protocol.text import TextStream
from leapgen.protocol.transcript import Transcript
from leapgen.record.events import CutEvent, GroupEvent, SegmentEvent, TokenEvent
from leapgen.record.ledger import Ledger
from leapgen.record.message import Message, Source
from leapgen.record.run import Kind, Segment

PHASES: dict[Kind, str] = {"prompt": "prompt", "beginning": "prompt", "own": "reason", "trigger": "summarize",
                           "summary": "summarize", "comment": "comment", "forced": "answer", "answer": "answer"}


class Member:
    """Its moves are a protocol's to ask for; what happens is told by events.

    Args:
        index: among the paths of its question; ``question`` says which.
        emit: takes the events.
    """

    def __init__(self, index: int, question: int, speaker: Speaker, seed: int, ledger: Ledger,
                 emit: Callable[[GroupEvent], None]) -> None:
        self.index, self.question, self.seed = index, question, seed
        self.sequence: LiveSequence | None = None  # None before it enters the engine, and where it had ended by then
        self.pending: PendingMessage | None = None
        self.forks: dict[LiveSequence, Callable[[Event], None]] = {}  # made beside its own, and who takes their events
        self.round_tokens = 0  # own tokens sampled since its newest message, cut ones included
        self.branch = 0  # of the random stream
        self.reason_end = 0  # tokens up to the end of reasoning
        self.paused_at: str | None = None  # the string whose completion made it wait
        self._ledger, self._emit = ledger, emit
        self.turn_to(speaker)

    def turn_to(self, speaker: Speaker, sources: Sequence[Source] = ()) -> None:
        """Speaks through this one from now on; it has said nothing yet, nor entered the engine with another's prompt.

        Args:
            sources: of the prompt: which of its tokens are whose words.
        """
        self.speaker = speaker
        self.prompt = Segment("prompt", list(speaker.prompt), sources=list(sources))
        self.transcript = Transcript(TextStream(speaker.vocabulary.tokenizer, speaker.prompt))

    def leave(self) -> None:
        """Gives every page back."""
        for sequence in (self.sequence, self.pending.sequence if self.pending else None):
            if sequence is not None:
                self.speaker.engine.release(sequence)

    def close(self) -> None:
        """Gives back the pages of its forks, too."""
        self.leave()
        for fork in self.forks:
            self.speaker.engine.release(fork)
        self.forks.clear()

    # -- what it says and reads -------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Back to the last blank line of what it said since it last read something; else to what it was paused at."""
        count = self.transcript.after_blank_line() or self.transcript.after(self.paused_at)
        if count:
            self._ledger.discarded += count
            self.speaker.engine.crop(self.live, len(self.live) - count)
            self._emit(CutEvent(self.question, self.index, count, self.transcript.crop_last(count)))

    def can_write(self, opening: list[int]) -> bool:
        """Whether a message fits the context, and a forced answer after it."""
        return self.free_positions > len(opening) + self.speaker.config.summary_tokens + self.speaker.closing_size

    def write(self, opening: list[int], block: int, aside: bool = False, from_end_of_reasoning: bool = False) -> None:
        """Begins a message on a fork: ``opening``, which opens its tag, and then ``summary_tokens`` sampled ones at most.

        Args:
            block: what the message is for; its tokens have a random stream of their own.
            aside: it will not become part of the path.
            from_end_of_reasoning: it leaves out the answer that the path may have begun.
        """
        engine, text, self.round_tokens = self.speaker.engine, self.transcript.text.copy(), 0
        twin = engine.fork(self.live, stream=Stream(self.seed, self.index, block + 1), owner=self)
        if from_end_of_reasoning:
            text.crop(self.reason_end)
            engine.crop(twin, len(self.speaker.prompt) + self.reason_end)
        first = len(text)
        self.pending = PendingMessage.begin(self.speaker, twin, text, opening, block, aside)
        if opening:
            trigger = Segment("trigger", opening, text.span(first, len(text)), block)
            self._emit(SegmentEvent(self.question, self.index, trigger, aside))

    def message(self, answer: str | None = None) -> Message:
        """The pending message, as the others get it."""
        return self._written().message(self.index, answer, start=len(self.live))

    def keep(self, close: bool = True) -> None:
        """Makes the pending message part of the path, closed if it was cut short; unless nothing is to follow it."""
        pending, self.pending = self._written(), None
        self.speaker.engine.release(self.live)
        self.sequence, self.branch = pending.sequence, pending.block + 1
        self.transcript.take(pending)
        if close and not pending.closed:
            closing = self.speaker.vocabulary.encode([f" {SUMMARY_CLOSE}"], after=self.live.tokens)
            self.read("forced", closing, pending.block, phase="summarize")

    def drop(self) -> None:
        """Forgets the pending message: only the others have it."""
        pending, self.pending = self._written(), None
        self._ledger.discarded += len(pending.tokens)
        self.speaker.engine.release(pending.sequence)

    def read(self, kind: Kind, tokens: list[int], block: int | None = None, sources: Sequence[Source] = (),
             phase: str | None = None) -> None:
        """Puts forced tokens behind what the path has said."""
        self.speaker.engine.extend(self.live, tokens, limit=0, phase=phase or PHASES[kind])
        self._emit(SegmentEvent(self.question, self.index, self.transcript.inject(kind, tokens, block, sources)))

    def _on_message(self, event: Event, token: int) -> None:
        pending = self._written()
        text = pending.take(self.speaker.engine, event, token)
        if text is not None:
            self._emit(TokenEvent(self.question, self.index, "summary", token, text, pending.aside))

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def writing(self) -> bool:
        """Whether a message is pending that is not all written."""
        return self.pending is not None and not self.pending.done

    @property
    def live(self) -> LiveSequence:
        assert self.sequence is not None, "the path has not entered the engine"
        return self.sequence

    def _written(self) -> PendingMessage:
        assert self.pending is not None, "the path has begun no message"
        return self.pending

    @property
    def context_left(self) -> int:
        return self.speaker.engine.context_length - len(self.live)

    @property
    def free_positions(self) -> int:
        """Positions of the context that it may still fill if a forced answer is to fit after them."""
        return self.context_left - self.speaker.reserved_positions
