"""One reasoning path: the stages it goes through, and what moves it from one to the next."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from leapgen.answers import extract_answer
from leapgen.engine import Event, Stream
from leapgen.engine import Sequence as LiveSequence
from leapgen.protocol.member import PHASES, Member
from leapgen.protocol.speaker import Speaker
from leapgen.record.events import FinishEvent, GroupEvent, TokenEvent
from leapgen.record.ledger import Ledger
from leapgen.record.run import Kind, PathOutput

Stage = Literal["reasoning", "waiting", "answering", "finished"]
STAGES: tuple[Stage, ...] = get_args(Stage)
STATE = ("stage", "round_tokens", "own_tokens", "branch", "reason_end", "concluded", "forced", "paused_at")


class Path(Member):
    """A path moves by itself through its own tokens: to the end of a stretch, of its thinking, of its answer.

    Everything else is a protocol's to ask for: ``reason``, ``cut``, ``write`` and then ``keep`` or ``drop``, ``read``,
    ``force_answer``, ``finish``.

    Args:
        index: among the paths of its question; ``question`` says which.
        emit: takes the events.
    """

    def __init__(self, index: int, question: int, speaker: Speaker, seed: int, ledger: Ledger,
                 emit: Callable[[GroupEvent], None]) -> None:
        super().__init__(index, question, speaker, seed, ledger, emit)
        self.votes = True  # its answer counts; a protocol says where it does not
        self.stage: Stage = "reasoning"
        self.own_tokens = 0  # own tokens sampled in all, cut ones included
        self.concluded = False  # it ended its thinking itself
        self.forced = False  # it was asked for its answer
        self.finish_reason: str | None = None
        self.answer_found: str | None = None
        self._pause_at: tuple[str, ...] = ()

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
        engine.extend(self.sequence, limit=0, sampling=self.speaker.sampling)
        engine.pause(self.sequence)
        for segment in self.transcript.segments:
            if segment.kind != "beginning":
                engine.extend(self.sequence, segment.token_ids, limit=0, phase=PHASES[segment.kind], then="reason")
        if self.stage == "answering":
            last = self.transcript.segments[-1]
            self._go_on_answering(len(last.token_ids) if last.kind == "answer" else 0)

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

    def _note(self, event: Event, token: int, kind: Kind) -> None:
        silent = event.finish == "stop" and token != self.speaker.endings.think_end_token
        text = self.transcript.append(kind, token, event.logprob, event.sampling_logprob, silent)
        self._emit(TokenEvent(self.question, self.index, kind, token, text))

    # -- what it is -------------------------------------------------------------------------------------------------

    def output(self, unfinished: str | None = None) -> PathOutput:
        """A copy of the path as it stands; one that has not ended has ``unfinished`` for its finish reason."""
        return PathOutput(
            index=self.index,
            segments=copy.deepcopy([self.prompt, *self.transcript.segments]),
            answer=self.answer_found, finish_reason=self.finish_reason or unfinished, votes=self.votes,
            state={name: getattr(self, name) for name in STATE})

    def restore(self, output: PathOutput) -> None:
        """Takes over the state of an interrupted run."""
        for name in STATE:
            setattr(self, name, output.state[name])
        prompt, *segments = output.segments
        if prompt.token_ids != self.prompt.token_ids:
            self.turn_to(replace(self.speaker, prompt=tuple(prompt.token_ids)), prompt.sources)
        self.transcript.restore(copy.deepcopy(segments))
        if self.stage == "finished":
            self.finish_reason, self.answer_found = output.finish_reason, output.answer
