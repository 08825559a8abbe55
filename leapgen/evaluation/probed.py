"""Runs with probes: what a path would answer is asked of a fork, which is then released. No token of the run changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from leapgen.answers import extract_answer
from leapgen.config import SamplingConfig
from leapgen.engine import Event, Stream
from leapgen.engine import Sequence as LiveSequence
from leapgen.evaluation.probes import Kind, Probe, probes_of, standing
from leapgen.protocol import exchange
from leapgen.protocol.base import Group, Method
from leapgen.protocol.leap import Leap
from leapgen.protocol.path import Path
from leapgen.protocol.text import Plain, TextStream
from leapgen.record.ledger import Ledger
from leapgen.record.message import Message

GREEDY = SamplingConfig.greedy(logprobs=False)

@dataclass
class Fork:
    """A probe whose fork is alive: it may reason, decodes an answer, and waits at its beginning until answers are scored."""

    probe: Probe
    said: list[int]  # after the prompt
    sequence: LiveSequence
    branch: int | None  # of the random stream that it reasons by; None where it no longer does
    text: TextStream  # of what it decodes
    start: int = 0  # where the answer begins
    answered: bool = False
    asked: dict[str, list[int]] | None = None  # answers in question, as they were drawn
    found: dict[str, float] = field(default_factory=dict)


class Due(NamedTuple):
    """A path that has read a comment and is to be probed once it has ``own_tokens``."""

    own_tokens: int
    block: int
    peers: list[int]


class Probed(Leap):
    """LeaP whose paths are probed on the way. ``probed`` does the same for placebos and other kinds of LeaP.

    At every block each path that reads is probed before the comment, after it and, where a ``placebo`` is given, after the
    comment that this makes instead, on a fork. All are probed at the end of their reasoning. A probe asks by the phrase that
    asks a path out of budget for its answer, and draws greedily. No path waits for it.

    ``LeapOutput.probes`` holds the probes (``taken``; ``probes_of`` reads them) and their cost (``ledger``), which the run's
    own ledger leaves out. ``save`` and ``resume`` keep both.

    Args:
        every: probes paths after every ``every`` own tokens, too.
        think: own tokens that a path reasons after a comment before it is probed. The placebo's fork reasons as many, and
            so does one without a comment, by the same random numbers.
        placebo: a kind of LeaP that says what a path reads instead, such as ``leapgen.evaluation.placebos.Scrambled``.
        score: whether to score, at each block, a path's own answer and those of the peers it read: their answers before
            the block's comments.
        answers: that are scored at every probe.
        tokens: of an answer, at most.

    Raises:
        ValueError: a number that is not allowed.
    """

    def __init__(self, group: Group, *, every: int | None = None, think: int = 0, placebo: Method | None = None,
                 score: bool = True, answers: Sequence[str] = (), tokens: int = 16, **options: Any) -> None:
        super().__init__(group, **options)
        for name, value, least in (("every", every, 1), ("tokens", tokens, 1), ("think", think, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name}={value} is not allowed: it must be an integer >= {least}.")
        if think > self.config.interval:
            raise ValueError(f"think={think} is not allowed: a block comes every interval={self.config.interval} tokens.")
        self.probes: list[Probe] = []
        self.ledger = Ledger()
        self._every, self._think, self._score, self._answers, self._tokens = every, think, score, list(answers), tokens
        self._placebo = None if placebo is None else placebo(group)
        self._forks: list[Fork] = []
        self._places: set[tuple[int, int]] = set()  # path and own tokens, -1 at its end: where it was probed
        self._reading: dict[int, list[Probe]] = {}  # by path: those of the comment that it is about to read
        self._due: dict[int, Due] = {}  # by path

    # -- where paths are probed -------------------------------------------------------------------------------------

    def advance(self) -> None:
        for path in self.group.paths:
            ended = path.stage in ("answering", "finished")
            place = (path.index, -1 if ended else path.own_tokens)
            length = _end_of_reasoning(path) if ended else len(path.transcript)
            due = self._due.get(path.index)
            if due is not None and (path.stage != "reasoning" or path.own_tokens >= due.own_tokens):
                del self._due[path.index]
                self._probe("after", path, length, block=due.block, peers=due.peers)
            share = self._every is not None and path.own_tokens > 0 and path.own_tokens % self._every == 0
            if (ended or share) and place not in self._places:
                self._places.add(place)
                self._probe("end" if ended else "share", path, length)
        super().advance()
        self._score_answers()

    def told(self, path: Path, messages: Sequence[Message]) -> Sequence[Message]:
        block, length = self.group.blocks[-1].index, len(path.transcript)
        self._reading[path.index] = self._probe("before", path, length, block=block)
        if self._think:
            self._reading[path.index] += self._probe("alone", path, length, block=block, think=True)
        if isinstance(self._placebo, Leap):
            instead = self._placebo.told(path, messages)
            _, comment, _ = exchange.fitting(path, instead)
            if instead and comment:
                self._reading[path.index] += self._probe("placebo", path, length, comment, block, think=True)
        return super().told(path, messages)

    def go_on(self, path: Path) -> None:
        if path.index in self._reading:
            block = self.group.blocks[-1]
            peers = [route.peer for route in block.routes[path.index]]
            for probe in self._reading.pop(path.index):
                probe.peers = peers
            if self._think:
                self._due[path.index] = Due(path.own_tokens + self._think, block.index, peers)
            else:
                self._probe("after", path, len(path.transcript), block=block.index, peers=peers)
        super().go_on(path)

    # -- a probe ----------------------------------------------------------------------------------------------------

    def _probe(self, kind: Kind, path: Path, length: int, comment: Sequence[int] = (), block: int | None = None,
               peers: Sequence[int] = (), think: bool = False) -> list[Probe]:
        """Begins a probe behind a path's first tokens and a comment; none where it does not fit the context."""
        speaker, thought = path.speaker, self._think if think else 0
        needed = len(speaker.prompt) + length + len(comment) + thought + len(speaker.answer_phrase) + self._tokens
        if needed > speaker.engine.context_length:
            return []
        probe = Probe(kind, path.index, path.own_tokens, block, list(peers))
        self.probes.append(probe)
        self._begin(probe, path, _said(path)[:length], comment, path.branch if thought else None)
        return [probe]

    def _begin(self, probe: Probe, path: Path, said: list[int], comment: Sequence[int], branch: int | None) -> None:
        speaker, engine = path.speaker, path.speaker.engine
        length = len(speaker.prompt) + len(said)
        if path.sequence is None or path.sequence.released:
            sequence = engine.add([*speaker.prompt, *said], speaker.sampling, limit=0, ledger=self.ledger, owner=path,
                                  phase="probe")
        else:
            sequence = engine.fork(path.sequence, ledger=self.ledger, owner=path)
            engine.crop(sequence, length)
        engine.extend(sequence, comment, limit=0, phase="probe")
        fork = Fork(probe, [*said, *comment], sequence, branch, TextStream(speaker.vocabulary.tokenizer, sequence.tokens))
        self._forks.append(fork)
        if branch is None:
            self._ask_for_answer(fork, path)
        else:
            least = len(sequence) + max(speaker.config.min_new_tokens - probe.own_tokens, 0)
            engine.extend(sequence, limit=len(sequence) + self._think, stream=Stream(path.seed, path.index, branch),
                          stop_tokens=speaker.endings.reasoning, min_length=least, phase="probe", then="probe")
            path.forks[sequence] = partial(self._on_thought, fork)

    def _on_thought(self, fork: Fork, event: Event) -> None:
        """Takes a token of its reasoning, up to where a path would end it."""
        path = self.group.paths[fork.probe.path]
        ends, speaker = [], path.speaker
        if event.token is not None and event.finish != "stop":
            fork.text.push(event.token)
            ends = [fork.text.text.find(end) for end in (speaker.endings.think_end, *speaker.config.stop_strings)
                    if end and end in fork.text.text]
        if event.finish is None and not ends:
            return
        count = fork.text.tokens_before(min(ends)) if ends else len(fork.text)
        length = len(speaker.prompt) + len(fork.said)
        fork.said += fork.sequence.tokens[length : length + count]
        speaker.engine.crop(fork.sequence, length + count)
        fork.branch, fork.text = None, TextStream(speaker.vocabulary.tokenizer, fork.sequence.tokens)
        self._ask_for_answer(fork, path)

    def _ask_for_answer(self, fork: Fork, path: Path) -> None:
        speaker, sequence = path.speaker, fork.sequence
        fork.start = len(sequence) + len(speaker.answer_phrase)
        speaker.engine.extend(sequence, speaker.answer_phrase, limit=fork.start + self._tokens, sampling=GREEDY,
                              stop_tokens=speaker.endings.end_tokens, min_length=0, phase="probe", then="probe")
        path.forks[sequence] = partial(self._on_answer, fork)

    def _on_answer(self, fork: Fork, event: Event) -> None:
        """Takes a token of the answer, up to the end of its box or of its line."""
        probe, path, new = fork.probe, self.group.paths[fork.probe.path], ""
        if event.token is not None and event.finish != "stop":
            probe.token_ids.append(event.token)
            new = fork.text.push(event.token)
        answer = extract_answer(path.speaker.prompts.answer_lead + fork.text.text)
        if event.finish is None and (answer is None or not ("}" in new or "\n" in new)):
            return
        probe.answer, fork.answered = answer, True
        path.speaker.engine.crop(fork.sequence, fork.start)
        if not (self._answers or (self._score and probe.block is not None)):
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
            asked, path = self._in_question(fork.probe), self.group.paths[fork.probe.path]
            if any(not other.answered for probe in asked for other in self._forks if other.probe is probe):
                continue
            encode = path.speaker.vocabulary.encode
            closing = ["}"] if path.speaker.prompts.answer_lead.endswith("{") else []
            fork.asked = {}
            for probe in asked:
                if probe.answer is not None:
                    fork.asked.setdefault(probe.answer, probe.token_ids)
            for answer in self._answers:
                fork.asked.setdefault(answer, encode([Plain(answer), *closing], after=fork.sequence.tokens))
            for answer, tokens in fork.asked.items():
                self._score_answer(fork, path, answer, tokens)
            if not fork.asked:
                self._close(fork)

    def _in_question(self, probe: Probe) -> list[Probe]:
        """The probes whose answers are scored for this one: its path's and its peers' before the comments of its block."""
        if probe.block is None or not self._score:
            return []
        found = (standing(self.probes, path, probe.block) for path in (probe.path, *probe.peers))
        return [one for one in found if one is not None]

    def _score_answer(self, fork: Fork, path: Path, answer: str, tokens: Sequence[int]) -> None:
        engine = path.speaker.engine
        twin = engine.fork(fork.sequence, ledger=self.ledger, owner=path)
        engine.extend(twin, tokens[: engine.context_length - fork.start], limit=0, phase="probe")
        scores = engine.score(twin, fork.start)

        def on_scored(event: Event) -> None:
            fork.found[answer] = math.fsum(scores.logprobs)
            engine.release(twin)
            del path.forks[twin]
            asked = fork.asked or {}
            if len(fork.found) == len(asked):
                fork.probe.logprobs = {one: fork.found[one] for one in asked if math.isfinite(fork.found[one])}
                self._close(fork)

        path.forks[twin] = on_scored

    # -- an interrupted run -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        places = {id(probe): place for place, probe in enumerate(self.probes)}
        return {**super().state(), "probes": {
            "taken": [asdict(probe) for probe in self.probes], "ledger": asdict(self.ledger),
            "due": [[path, *due] for path, due in self._due.items()],
            "open": [[places[id(fork.probe)], fork.said, fork.branch] for fork in self._forks]}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Probes that were being taken are taken again: they say the same."""
        super().restore(state)
        held = state.get("probes", {"taken": [], "due": [], "open": [], "ledger": {}})
        self.probes = probes_of(held)
        self._places = {(probe.path, -1 if probe.kind == "end" else probe.own_tokens) for probe in self.probes
                        if probe.kind in ("share", "end")}
        self.ledger = Ledger(**held["ledger"])
        self._due = {path: Due(*due) for path, *due in held["due"]}
        for place, said, branch in held["open"]:
            self.probes[place] = probe = replace(self.probes[place], answer=None, token_ids=[])
            self._begin(probe, self.group.paths[probe.path], said, [], branch)


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
