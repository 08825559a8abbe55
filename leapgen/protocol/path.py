"""One reasoning path: its live sequence, its transcript, and the moves it can make."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from leapgen.answers import extract_answer
from leapgen.engine import Event, Stream
from leapgen.engine import Sequence as LiveSequence
from leapgen.protocol.pending import PendingMessage
from leapgen.protocol.prompts import SUMMARY_CLOSE
from leapgen.protocol.speaker import Speaker
from leapgen.protocol.text import TextStream
from leapgen.protocol.transcript import Transcript
from leapgen.record.events import CutEvent, FinishEvent, GroupEvent, SegmentEvent, TokenEvent
from leapgen.record.ledger import Ledger
from leapgen.record.message import Message, Source
from leapgen.record.run import Kind, PathOutput, Segment

Stage = Literal["reasoning", "waiting", "answering", "finished"]
STAGES: tuple[Stage, ...] = get_args(Stage)
PHASES: dict[Kind, str] = {"prompt": "prompt", "beginning": "prompt", "own": "reason", "trigger": "summarize",
                           "summary": "summarize", "closing": "summarize", "comment": "comment",
                           "forced": "answer", "answer": "answer"}
STATE = ("stage", "round_tokens", "own_tokens", "branch", "reason_end", "concluded", "forced", "paused_at")


class Path:
    """A path moves by itself through its own tokens: to the end of a stretch, of its thinking, of its answer.

    Everything else is a protocol's to ask for: ``reason``, ``cut``, ``write`` and then ``keep`` or ``drop``, ``read``,
    ``answer``, ``force_answer``. What happens is told by events.

    Args:
        index: among the paths of its question; ``question`` says which.
        emit: takes the events.
    """

    def __init__(self, index: int, question: int, speaker: Speaker, seed: int, ledger: Ledger,
                 emit: Callable[[GroupEvent], None]) -> None:
        self.index, self.question, self.speaker, self.seed = index, question, speaker, seed
        self.transcript = Transcript(TextStream(speaker.vocabulary.tokenizer, speaker.prompt))
        self.sequence: LiveSequence | None = None  # None before it enters the engine, and where it had ended by then
        self.pending: PendingMessage | None = None
        self.forks: dict[LiveSequence, Callable[[Event], None]] = {}  # made beside its own, and who takes their events
        self.votes = True  # its answer counts; a protocol says where it does not
        self.stage: Stage = "reasoning"
        self.round_tokens = 0  # own tokens sampled since its newest message, cut ones included
        self.own_tokens = 0  # own tokens sampled in all, cut ones included
        self.branch = 0  # of the random stream
        self.reason_end = 0  # tokens up to the end of reasoning
        self.concluded = False  # it ended its thinking itself
        self.forced = False  # it was asked for its answer
        self.paused_at: str | None = None  # the string whose completion made it wait
        self.finish_reason: str | None = None
        self.answer_found: str | None = None
        self._pause_at: tuple[str, ...] = ()
        self._ledger, self._emit = ledger, emit

    # -- life -------------------------------------------------------------------------------------------------------

    def begin(self, tokens: Sequence[int]) -> None:
        """Notes what it is to go on from. It counts as its own; intervals that end within it hold no block."""
        if tokens:
            self.transcript.inject("beginning", tokens)
            interval = self.speaker.config.interval
            self.own_tokens, self.round_tokens, self.reason_end = len(tokens), len(tokens) % interval, len(tokens)

    def enter(self, root: LiveSequence) -> None:
        """Enters the engine as a fork of ``root``, which holds prompt and beginning, and takes up where it stood."""
        engine = self.speaker.engine
        self.sequence = engine.fork(root, stream=Stream(self.seed, self.index, self.branch), owner=self)
        engine.pause(self.sequence)
        for segment in self.transcript.segments:
            if segment.kind != "beginning":
                engine.extend(self.sequence, segment.token_ids, limit=0, phase=PHASES[segment.kind], then="reason")
        if self.stage == "answering":
            last = self.transcript.segments[-1]
            self._go_on_answering(len(last.token_ids) if last.kind == "answer" else 0)

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

    @property
    def writing(self) -> bool:
        """Whether a message is pending that is not all written."""
        return self.pending is not None and not self.pending.done

    # -- moves ------------------------------------------------------------------------------------------------------

    def reason(self, stretch: int | None = None, pause_at: Sequence[str] = ()) -> None:
        """Reasons on for ``stretch`` own tokens at most and then waits; None is up to the end of its budget.

        It waits as well where its words complete one of ``pause_at`` (``paused_at`` says which). Out of budget or context
        it is asked for its answer.
        """
        config, length = self.speaker.config, len(self.live)
        count = min(config.max_new_tokens - self.own_tokens, self.free_positions)
        if stretch is not None:
            count = min(count, stretch)
        if count <= 0:
            self.force_answer()
            return
        self.stage, self.paused_at, self._pause_at = "reasoning", None, tuple(pause_at)
        self.speaker.engine.extend(
            self.live, limit=length + count, stop_tokens=self.speaker.endings.reasoning, then="reason",
            min_length=length + max(config.min_new_tokens - self.own_tokens, 0))

    def wait(self) -> None:
        """Stays where it is until a protocol lets it go on."""
        self.stage = "waiting"
        self.speaker.engine.pause(self.live)

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
            self.read("closing", closing, pending.block)

    def drop(self) -> None:
        """Forgets the pending message: only the others have it."""
        pending, self.pending = self._written(), None
        self._ledger.discarded += len(pending.tokens)
        self.speaker.engine.release(pending.sequence)

    def read(self, kind: Kind, tokens: list[int], block: int | None = None, sources: Sequence[Source] = ()) -> None:
        """Puts forced tokens behind what the path has said."""
        self.speaker.engine.extend(self.live, tokens, limit=0, phase=PHASES[kind])
        self._emit(SegmentEvent(self.question, self.index, self.transcript.inject(kind, tokens, block, sources)))

    def force_answer(self) -> None:
        """Asks for the answer, if that is wanted and fits; else the path ends."""
        tokens = self.speaker.forced_answer
        if not tokens or self.context_left <= len(tokens):
            self.finish("length")
            return
        self.forced = True
        self.read("forced", tokens)
        self._go_on_answering(0)

    def finish(self, reason: str) -> None:
        """Ends the path; its pages stay until ``leave``."""
        self.stage, self.finish_reason = "finished", reason
        self.answer_found = extract_answer(self.transcript.said())
        self.speaker.engine.pause(self.live)
        self._emit(FinishEvent(self.question, self.output()))

    def _conclude(self, reason: str | None = None) -> None:
        """Ends its thinking: for a ``reason`` that ends the path, or to go on to its answer."""
        self.concluded = True
        if reason is None and self.speaker.config.write_answer and self.context_left > 0:
            self._go_on_answering(0)
        else:
            self.finish(reason or "stop")

    def _go_on_answering(self, said: int) -> None:
        """``said``: tokens of the answer that are there already."""
        config, self.stage = self.speaker.config, "answering"
        limit = config.forced_answer_tokens if self.forced else config.written_answer_tokens
        self.speaker.engine.extend(self.live, limit=len(self.live) + limit - said, then="answer",
                                   stop_tokens=self.speaker.endings.end_tokens, min_length=0)

    # -- sampled tokens ---------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Takes what the engine did to one of the path's sequences."""
        if event.sequence in self.forks:
            self.forks[event.sequence](event)
            return
        if event.token is None:  # forced tokens are in, and nothing is to be sampled yet
            return
        if event.sequence is not self.sequence:
            self._on_message(event, event.token)
        elif self.stage == "answering":
            self._on_answer(event, event.token)
        else:
            self._on_reasoning(event, event.token)

    def _on_reasoning(self, event: Event, token: int) -> None:
        endings, transcript, config = self.speaker.endings, self.transcript, self.speaker.config
        self._note(event, token, "own")
        self.round_tokens += 1
        self.own_tokens += 1
        self.reason_end = len(transcript)
        if event.finish == "stop":
            self.reason_end -= 1
            return self._conclude(None if token == endings.think_end_token else "stop")
        found = transcript.find_new(endings.think_end) if endings.think_end else None
        if found is not None:
            self.reason_end = transcript.text.tokens_before(found)
            return self._conclude()
        if any(transcript.find_new(text) is not None for text in config.stop_strings):
            return self._conclude("stop_string")
        self.paused_at = next((text for text in self._pause_at if transcript.find_new(text) is not None), None)
        if self.paused_at is not None or (
                event.finish == "limit" and self.own_tokens < config.max_new_tokens and self.free_positions > 0):
            self.wait()
        elif event.finish == "limit":
            self.force_answer()

    def _on_answer(self, event: Event, token: int) -> None:
        self._note(event, token, "answer")
        if event.finish is not None or any(
                self.transcript.find_new(text) is not None for text in self.speaker.config.stop_strings):
            self.finish("forced" if self.forced else "length" if event.finish == "limit" else "stop")

    def _on_message(self, event: Event, token: int) -> None:
        pending = self._written()
        text = pending.take(self.speaker.engine, event, token)
        if text is not None:
            self._emit(TokenEvent(self.question, self.index, "summary", token, text, pending.aside, event.logprob))

    def _note(self, event: Event, token: int, kind: Kind) -> None:
        silent = event.finish == "stop" and token != self.speaker.endings.think_end_token
        text = self.transcript.append(kind, token, event.logprob, event.sampling_logprob, silent)
        self._emit(TokenEvent(self.question, self.index, kind, token, text, logprob=event.logprob))

    # -- what it is -------------------------------------------------------------------------------------------------

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

    def output(self, unfinished: str | None = None) -> PathOutput:
        """A copy of the path as it stands; one that has not ended has ``unfinished`` for its finish reason."""
        return PathOutput(
            index=self.index,
            segments=[Segment("prompt", list(self.speaker.prompt)), *copy.deepcopy(self.transcript.segments)],
            answer=self.answer_found, finish_reason=self.finish_reason or unfinished, votes=self.votes,
            state={name: getattr(self, name) for name in STATE})

    def restore(self, output: PathOutput) -> None:
        """Takes over the state of an interrupted run."""
        for name in STATE:
            setattr(self, name, output.state[name])
        self.transcript.restore(copy.deepcopy(output.segments[1:]))
        if self.stage == "finished":
            self.finish_reason, self.answer_found = output.finish_reason, output.answer
