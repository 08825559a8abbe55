"""Probes: what a path would answer here, asked of a fork that is then released. The run's tokens are those without them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

from leapgen.answers import extract_answer
from leapgen.config import SamplingConfig
from leapgen.engine import Event
from leapgen.engine import Sequence as LiveSequence
from leapgen.protocol import exchange
from leapgen.protocol.base import Group, Method
from leapgen.protocol.leap import Leap
from leapgen.protocol.path import Path
from leapgen.protocol.text import Plain, TextStream
from leapgen.record.ledger import Ledger
from leapgen.record.message import Message

GREEDY = SamplingConfig.greedy(logprobs=False)
Kind = Literal["before", "after", "placebo", "share", "end"]


@dataclass
class Probe:
    """What a path would have answered at one place.

    Args:
        kind: ``before`` it read a comment, ``after`` it had read it, ``placebo``: after another comment in its place;
            ``share``: after a number of own tokens; ``end``: at the end of its reasoning.
        path: its index.
        own_tokens: that it had sampled by then, cut ones included.
        block: that the comment is of.
        peers: whose messages it read there.
        answer: None if it began none, or none that ends within the probe's tokens.
        logprobs: natural log-probability of each answer in question, once the phrase has asked for it.
    """

    kind: Kind
    path: int
    own_tokens: int
    block: int | None = None
    peers: list[int] = field(default_factory=list)
    answer: str | None = None
    logprobs: dict[str, float] = field(default_factory=dict)


@dataclass
class Fork:
    """A probe whose fork is alive: it decodes an answer, then waits at the answer's beginning until answers are scored."""

    probe: Probe
    said: list[int]  # by the path, after its prompt
    sequence: LiveSequence
    start: int  # where the answer begins
    text: TextStream  # of the answer
    answered: bool = False
    asked: list[str] | None = None  # answers in question
    found: dict[str, float] = field(default_factory=dict)


class Probed(Leap):
    """LeaP whose paths are probed on the way. ``probed`` does the same for placebos and other kinds of LeaP.

    At every block each path that reads is probed before the comment, after it and, where a ``placebo`` is given, after the
    comment that this makes instead. All are probed at the end of their reasoning. A probe asks by the phrase that asks a
    path out of budget for its answer, and draws greedily. No path waits for it.

    ``LeapOutput.probes`` holds the probes (``taken``; ``probes_of`` reads them) and their cost (``ledger``), which the run's
    own ledger leaves out. ``save`` and ``resume`` keep both.

    Args:
        every: probes paths after every ``every`` own tokens, too.
        placebo: a kind of LeaP that says what a path reads instead, such as ``leapgen.evaluation.placebos.Scrambled``.
        score: whether to score, at each block, a path's own answer and those of the peers it read: their answers before
            the block's comments.
        answers: that are scored at every probe.
        tokens: of an answer, at most.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, group: Group, *, every: int | None = None, placebo: Method | None = None, score: bool = True,
                 answers: Sequence[str] = (), tokens: int = 16, **options: Any) -> None:
        super().__init__(group, **options)
        for name, value in (("every", every), ("tokens", tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not allowed: it must be an integer >= 1.")
        self.probes: list[Probe] = []
        self.ledger = Ledger()
        self._every, self._score, self._answers, self._tokens = every, score, list(answers), tokens
        self._placebo = None if placebo is None else placebo(group)
        self._forks: list[Fork] = []
        self._places: set[tuple[int, int]] = set()  # path and own tokens, -1 at its end: where it was probed
        self._reading: dict[int, list[Probe]] = {}  # by path: those of the comment that it is about to read

    # -- where paths are probed -------------------------------------------------------------------------------------

    def advance(self) -> None:
        for path in self.group.paths:
            ended = path.stage in ("answering", "finished")
            place = (path.index, -1 if ended else path.own_tokens)
            due = ended or (self._every is not None and path.own_tokens > 0 and path.own_tokens % self._every == 0)
            if due and place not in self._places:
                self._places.add(place)
                said = _said(path)
                self._probe("end" if ended else "share", path, said[: _end_of_reasoning(path)] if ended else said)
        super().advance()
        self._score_answers()

    def told(self, path: Path, messages: Sequence[Message]) -> Sequence[Message]:
        block = self.group.blocks[-1].index
        self._reading[path.index] = [*self._probe("before", path, _said(path), block=block)]
        if isinstance(self._placebo, Leap):
            instead = self._placebo.told(path, messages)
            _, comment, _ = exchange.fitting(path, instead)
            if instead and comment:
                self._reading[path.index] += self._probe("placebo", path, _said(path), comment, block)
        return super().told(path, messages)

    def go_on(self, path: Path) -> None:
        if path.index in self._reading:
            block = self.group.blocks[-1]
            probes = [*self._reading.pop(path.index), *self._probe("after", path, _said(path), block=block.index)]
            for probe in probes:
                probe.peers = [route.peer for route in block.routes[path.index]]
        super().go_on(path)

    # -- a probe ----------------------------------------------------------------------------------------------------

    def _probe(self, kind: Kind, path: Path, said: list[int], more: Sequence[int] = (),
               block: int | None = None) -> list[Probe]:
        """Begins a probe behind what a path has said and ``more``; none where it does not fit the context."""
        speaker = path.speaker
        length = len(speaker.prompt) + len(said) + len(more) + len(speaker.answer_phrase) + self._tokens
        if length > speaker.engine.context_length:
            return []
        probe = Probe(kind, path.index, path.own_tokens, block)
        self.probes.append(probe)
        self._begin(probe, path, said, more)
        return [probe]

    def _begin(self, probe: Probe, path: Path, said: list[int], more: Sequence[int]) -> None:
        speaker, engine = path.speaker, path.speaker.engine
        length = len(speaker.prompt) + len(said)
        if path.sequence is None or path.sequence.released:
            sequence = engine.add([*speaker.prompt, *said], limit=0, ledger=self.ledger, owner=path, phase="probe")
        else:
            sequence = engine.fork(path.sequence, ledger=self.ledger, owner=path)
            if len(sequence) > length:
                engine.crop(sequence, length)
        start = length + len(more) + len(speaker.answer_phrase)
        engine.extend(sequence, [*more, *speaker.answer_phrase], limit=start + self._tokens, sampling=GREEDY, min_length=0,
                      stop_tokens=speaker.endings.end_tokens, phase="probe", then="probe")
        fork = Fork(probe, [*said, *more], sequence, start, TextStream(speaker.vocabulary.tokenizer, sequence.tokens))
        self._forks.append(fork)
        path.forks[sequence] = partial(self._on_token, fork)

    def _on_token(self, fork: Fork, event: Event) -> None:
        """Takes a token of the answer; the answer ends with its box or its line."""
        path = self.group.paths[fork.probe.path]
        new = "" if event.token is None or event.finish == "stop" else fork.text.push(event.token)
        answer = extract_answer(path.speaker.prompts.answer_lead + fork.text.text)
        if event.finish is None and (answer is None or not ("}" in new or "\n" in new)):
            return
        fork.probe.answer, fork.answered = answer, True
        path.speaker.engine.crop(fork.sequence, fork.start)
        if not (self._answers or (self._score and fork.probe.block is not None)):
            self._close(fork)

    def _close(self, fork: Fork) -> None:
        path = self.group.paths[fork.probe.path]
        path.speaker.engine.release(fork.sequence)
        del path.forks[fork.sequence]
        self._forks.remove(fork)

    # -- scores -----------------------------------------------------------------------------------------------------

    def _score_answers(self) -> None:
        """Has answers scored where all that are in question are known."""
        for fork in [fork for fork in self._forks if fork.answered and fork.asked is None]:
            probes = self._in_question(fork.probe)
            if not any(other.probe is probe and not other.answered for probe in probes for other in self._forks):
                answers = [*(probe.answer for probe in probes), *self._answers]
                fork.asked = list(dict.fromkeys(answer for answer in answers if answer is not None))
                for answer in fork.asked:
                    self._ask(fork, answer)
                if not fork.asked:
                    self._close(fork)

    def _in_question(self, probe: Probe) -> list[Probe]:
        """The probes whose answers are scored for this one: its path's and its peers' before the comments of its block."""
        if probe.block is None or not self._score:
            return []
        return [one for path in (probe.path, *probe.peers) for one in [standing(self.probes, path, probe.block)] if one]

    def _ask(self, fork: Fork, answer: str) -> None:
        """Has an answer scored, to the end of its box."""
        path = self.group.paths[fork.probe.path]
        engine, speaker = path.speaker.engine, path.speaker
        closing = ["}"] if speaker.prompts.answer_lead.endswith("{") else []
        tokens = speaker.vocabulary.encode([Plain(answer), *closing], after=fork.sequence.tokens)
        tokens = tokens[: engine.context_length - fork.start]
        twin = engine.fork(fork.sequence, ledger=self.ledger, owner=path)
        engine.extend(twin, tokens, limit=0, phase="probe")
        scores = engine.score(twin, fork.start)

        def on_scored(event: Event) -> None:
            fork.found[answer] = math.fsum(scores.logprobs)
            engine.release(twin)
            del path.forks[twin]
            if len(fork.found) == len(fork.asked or ()):
                fork.probe.logprobs = {one: fork.found[one] for one in fork.asked or () if math.isfinite(fork.found[one])}
                self._close(fork)

        path.forks[twin] = on_scored

    # -- an interrupted run -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        places = {id(probe): place for place, probe in enumerate(self.probes)}
        return {**super().state(), "probes": {
            "taken": [asdict(probe) for probe in self.probes], "ledger": asdict(self.ledger),
            "open": [[places[id(fork.probe)], fork.said] for fork in self._forks]}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Probes that were being taken are taken again: they say the same."""
        super().restore(state)
        held = state.get("probes", {"taken": [], "open": [], "ledger": {}})
        self.probes = probes_of(held)
        self._places = {(probe.path, -1 if probe.kind == "end" else probe.own_tokens) for probe in self.probes
                        if probe.kind in ("share", "end")}
        self.ledger = Ledger(**held["ledger"])
        for place, said in held["open"]:
            probe = self.probes[place]
            self._begin(probe, self.group.paths[probe.path], said, [])


def probed(protocol: Method = Leap, **settings: Any) -> Method:
    """A kind of LeaP, such as a placebo or a ``partial`` of one, with probes on the way. ``settings`` are ``Probed``'s.

    Raises:
        TypeError: it is no kind of LeaP.
    """
    made, arguments, options = (protocol.func, protocol.args, protocol.keywords) if isinstance(protocol, partial) else (
        protocol, (), {})
    if not (isinstance(made, type) and issubclass(made, Leap)):
        raise TypeError(f"probed takes Leap, a subclass of it or a partial of one, not {protocol!r:.80}.")
    kind = Probed if made is Leap else type(f"Probed{made.__name__}", (Probed, made), {})
    return partial(kind, *arguments, **options, **settings)


def probes_of(held: Mapping[str, Any]) -> list[Probe]:
    """The probes in what ``LeapOutput.probes`` gives."""
    return [Probe(**fields) for fields in held.get("taken", [])]


def standing(probes: Iterable[Probe], path: int, block: int) -> Probe | None:
    """What a path thought when the comments of a block were read: its probe before its own, or that at its end."""
    return next((probe for probe in probes if probe.path == path and (
        (probe.kind == "before" and probe.block == block) or probe.kind == "end")), None)


def _said(path: Path) -> list[int]:
    """All tokens of a path after its prompt."""
    return [token for segment in path.transcript.segments for token in segment.token_ids]


def _end_of_reasoning(path: Path) -> int:
    """How many of these were said before it was asked for its answer, or began to write it."""
    if path.concluded:
        return path.reason_end
    segments = path.transcript.segments
    after = len(segments)
    after -= segments[-1].kind == "answer"
    after -= path.forced
    return sum(len(segment.token_ids) for segment in segments[:after])
