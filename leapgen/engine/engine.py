"""The five verbs on live sequences, and the step that moves them all."""

from __future__ import annotations

import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine.memory.pages import PagePool
from leapgen.engine.model.fingerprint import ModelChangedError
from leapgen.engine.runner import Runner
from leapgen.engine.sampling.host import NonFiniteLogitsError, Sampled
from leapgen.engine.sampling.random import Stream
from leapgen.engine.scheduler import Chunk, Scheduler
from leapgen.engine.sequence import Draw, Sequence, no_pages
from leapgen.engine.speculation import Drafter
from leapgen.engine.states import States
from leapgen.record.ledger import Ledger


@dataclass(frozen=True)
class Event:
    """What a step did to one sequence.

    ``token`` is the sampled token, or None when the sequence's forced tokens are computed and its limit leaves no room
    to sample. ``finish`` is ``"stop"`` (a stop token was sampled), ``"limit"`` (the sequence has ``limit`` tokens), or
    None while it goes on. Log-probabilities are natural, under the model and under the sampling distribution.
    """

    sequence: Sequence
    token: int | None
    logprob: float | None = None
    sampling_logprob: float | None = None
    finish: Literal["stop", "limit"] | None = None


class Engine:
    """Live token sequences over one paged KV pool and one transformers model.

    Every operation leaves other sequences as they are; everything computed is computed once, unless the pool runs
    out and a sequence is preempted (its tokens stay, its KV is computed again, its samples are the same).

    The model may change between runs: adapters, weights, modules, hooks, dtypes. ``add`` takes it as it is then.

    Args:
        model: a causal language model of transformers, in eval mode when a step runs. It is not modified.
        config: limits.

    Raises:
        UnsupportedModelError: the model cannot be served exactly; says why.
        PoolTooSmallError: the KV limit does not hold two pages.
    """

    def __init__(self, model: PreTrainedModel, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self.last_step: list[Chunk] = []  # what the newest step computed
        self.last_step_seconds = 0.0
        self._live: dict[int, Sequence] = {}  # oldest first
        self._next_id = 0
        self._states = States(model, self.config)
        self._go_by(self.runner)

    # -- the model --------------------------------------------------------------------------------------------------

    @property
    def runner(self) -> Runner:
        """Of the model in the state it was in when it was last looked at."""
        return self._states.runner

    def refresh(self) -> None:
        """Takes the model as it is now. One that has changed is checked and compiled as when the engine was made.

        ``add`` does this first. A state that the model comes back to costs nothing again, if it is one of the newest few and
        the model still has its parameters.

        Raises:
            ModelChangedError: it has changed while there are live sequences; names what has. They stay as they are.
            UnsupportedModelError, PoolTooSmallError: as when the engine is made.
        """
        before = self.runner
        self._states.refresh(len(self._live))
        if self.runner is not before:
            self._go_by(self.runner, before)

    def _go_by(self, runner: Runner, before: Runner | None = None) -> None:
        """What depends on a runner; pages are counted anew where its cache is another than before."""
        if before is None or runner.cache is not before.cache:
            most = self.config.draft_tokens
            if most is None:
                most = runner.backend.default_draft_tokens
            self.drafter = Drafter(most) if most else None
            self.pool = PagePool(runner.cache.num_pages, self.config.page_size)
            self.scheduler = Scheduler(self.pool, self.config.max_step_tokens, self.config.max_batch_size,
                                       runner.cache.copy_page, self.drafter)
        self.context_length = min(runner.context_length, self.pool.num_pages * self.config.page_size)

    # -- the five verbs ---------------------------------------------------------------------------------------------

    def add(self, tokens: Tokens[int], sampling: SamplingConfig | None = None, *, stream: Stream = Stream(),
            limit: int | None = None, stop_tokens: Tokens[int] | frozenset[int] = (), min_length: int = 0,
            ledger: Ledger | None = None) -> Sequence:
        """A new sequence; its tokens are prefilled by the next steps.

        Args:
            tokens: at least one token id.
            limit: sample until the sequence has this many tokens, at most the context length (the default).
            stop_tokens: ids that end sampling; the stop token itself stays in the sequence.
            min_length: no stop token is sampled while the sequence has fewer tokens.
            ledger: where this sequence and its forks are counted.

        Raises:
            ValueError: no tokens, an id outside the vocabulary, or more tokens than the context.
            ModelChangedError, UnsupportedModelError, PoolTooSmallError: as ``refresh``.
        """
        self.refresh()
        tokens = list(tokens)
        if not tokens:
            raise ValueError("tokens is empty: a sequence needs at least one token.")
        self._check_tokens(tokens, len(tokens))
        sequence = Sequence(
            id=self._next_id, family=self._next_id, tokens=tokens, sampled=bytearray(len(tokens)),
            sampling=sampling or SamplingConfig(), stream=stream, limit=self._limit(limit),
            stop_tokens=frozenset(stop_tokens), min_length=min_length, ledger=ledger or Ledger())
        return self._enter(sequence)

    def fork(self, sequence: Sequence, *, stream: Stream | None = None) -> Sequence:
        """A twin that shares every page; nothing is copied until one of the two writes into a page they share.

        Tokens of the original that are still to be computed are computed once for both. Give the twin a ``stream`` of
        its own unless it is meant to draw what the original would.
        """
        self._check_live(sequence)
        self._forget_ahead(sequence)
        twin = Sequence(
            id=self._next_id, family=sequence.family, tokens=list(sequence.tokens), sampled=bytearray(sequence.sampled),
            sampling=sequence.sampling, stream=stream or sequence.stream, limit=sequence.limit,
            stop_tokens=sequence.stop_tokens, min_length=sequence.min_length, ledger=sequence.ledger,
            active=sequence.active, num_computed=sequence.num_computed, num_lost=sequence.num_lost,
            pages=sequence.pages[:], num_entered=sequence.num_entered)
        self.pool.share(twin.pages)
        twin.ledger.forks += 1
        twin.ledger.reused += twin.num_computed
        if sequence.leader is not None:
            self._follow(twin, sequence.leader, sequence.shared_length)
        elif sequence.active and sequence.num_computed < len(sequence):
            self._follow(twin, sequence, len(sequence))
        return self._enter(twin)

    def extend(self, sequence: Sequence, tokens: Tokens[int] = (), *, limit: int | None = None) -> None:
        """Appends forced tokens (only these are prefilled) and lets the sequence go on to ``limit``.

        Raises:
            ValueError: an id outside the vocabulary, or more tokens than the context.
        """
        self._check_live(sequence)
        tokens = list(tokens)
        self._check_tokens(tokens, len(sequence) + len(tokens))
        self._forget_ahead(sequence)
        sequence.tokens.extend(tokens)
        sequence.sampled.extend(bytes(len(tokens)))
        sequence.limit = self._limit(limit)
        sequence.ledger.injected += len(tokens)
        forced_tail = sequence.num_computed < len(sequence) and not sequence.sampled[-1]
        if forced_tail or len(sequence) < sequence.limit:
            sequence.active = True
        else:
            self.pause(sequence)

    def crop(self, sequence: Sequence, length: int) -> None:
        """Rolls back to the first ``length`` tokens and pauses. Pages that others share are left as they are.

        Raises:
            ValueError: the length is not in 1 .. the sequence's own.
        """
        self._check_live(sequence)
        if not 1 <= length <= len(sequence):
            raise ValueError(f"length={length} is not allowed: crop takes 1 .. {len(sequence)}, the sequence's length.")
        if length == len(sequence):
            self.pause(sequence)
            return
        self._forget_ahead(sequence)
        self._dismiss_followers(sequence)
        if sequence.leader is not None:
            sequence.shared_length = min(sequence.shared_length, length)
        del sequence.tokens[length:]
        del sequence.sampled[length:]
        sequence.num_computed = min(sequence.num_computed, length)
        sequence.num_lost = min(sequence.num_lost, length)
        sequence.num_entered = min(sequence.num_entered, length)
        keep = self.pool.pages_for(sequence.num_computed)
        self.pool.release(sequence.pages[keep:])
        del sequence.pages[keep:]
        self.pause(sequence)

    def release(self, sequence: Sequence) -> None:
        """The sequence is done; its pages go back. Releasing twice is allowed."""
        if sequence.released:
            return
        self._forget_ahead(sequence)
        self._dismiss_followers(sequence)
        self._unfollow(sequence)
        self.pool.release(sequence.pages)
        sequence.pages = no_pages()
        sequence.active, sequence.released = False, True
        del self._live[sequence.id]

    def pause(self, sequence: Sequence) -> None:
        """Stops sampling until the next ``extend``; KV stays."""
        self._check_live(sequence)
        self._forget_ahead(sequence)
        self._dismiss_followers(sequence)
        sequence.active = False

    # -- the step ---------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return any(sequence.active for sequence in self._live.values())

    def step(self) -> list[Event]:
        """One forward pass for everything runnable, decode and prefill mixed; [] when nothing is.

        A sequence gets one token at most. What a pass drew behind drafts that proved right is handed out, token by token,
        by the next calls, before there is another pass. An error that concerns one sequence only has it as ``sequence``: the
        others can go on.

        Raises:
            NonFiniteLogitsError: names path and position; no sequence has changed.
            ModelChangedError: the model can no longer go on with live sequences, which it has computed as it was.
            PoolTooSmallError: the pool cannot hold the oldest runnable sequence.
        """
        began = time.perf_counter()
        if events := self._hand_out():
            self.last_step, self.last_step_seconds = [], time.perf_counter() - began
            return events
        chunks = self.scheduler.schedule(self._live.values())
        self.last_step = chunks
        if not chunks:
            return []
        try:
            sampled = self._run(chunks)
        except NonFiniteLogitsError:
            drafted = [chunk for chunk in chunks if chunk.sequence.drafts]
            if not drafted:
                raise
            for chunk in drafted:  # they may stand behind a draft that nobody would have drawn
                chunk.draft([])
            sampled = self._run(chunks)
        events: list[Event] = []
        for chunk in chunks:
            self._commit(chunk, events)
        if sampled is not None:
            draws: dict[Sequence, list[Draw]] = {}
            for (_, sequence), *draw in zip((row for chunk in chunks for row in chunk.samples), *sampled, strict=True):
                draws.setdefault(sequence, []).append(Draw(*draw))
            events += [self._accept(sequence, drawn) for sequence, drawn in draws.items()]
        self.last_step_seconds = time.perf_counter() - began
        if self.drafter is not None and all(chunk.end - chunk.start == 1 for chunk in chunks):
            self.drafter.times.observe(len(chunks), sum(chunk.end for chunk in chunks),
                                       sum(len(chunk.sequence.drafts) for chunk in chunks), self.last_step_seconds)
        return events

    def _run(self, chunks: list[Chunk]) -> Sampled | None:
        try:
            return self.runner.step(chunks)
        except NonFiniteLogitsError:
            raise
        except Exception as error:
            changes = self._states.changes()
            if not changes:
                raise
            raise ModelChangedError(changes, len(self._live)) from error

    def _hand_out(self) -> list[Event]:
        """The next token of each sequence that an earlier step drew more of."""
        events = []
        for sequence in self._live.values():
            if sequence.ahead and sequence.ahead_by != sequence.drawn_by:
                self._forget_ahead(sequence)
            if sequence.ahead:
                sequence.num_computed += 1
                sequence.ledger.computed += 1
                sequence.ledger.accepted += 1
                events.append(self._append(sequence, sequence.ahead.popleft()))
        return events

    def _accept(self, sequence: Sequence, draws: list[Draw]) -> Event:
        """The first draw, and those behind drafts for as long as the draft is what was drawn."""
        event, newest = self._append(sequence, draws[0]), draws[0]
        for draft, draw in zip(sequence.drafts, draws[1:], strict=True):
            if newest.token != draft or draft in sequence.stop_tokens:
                break
            sequence.ahead.append(draw)
            newest = draw
        if sequence.drafts:
            sequence.ahead_by = sequence.drawn_by
            sequence.ledger.drafted += len(sequence.drafts)
            self._trim(sequence)
        return event

    def _forget_ahead(self, sequence: Sequence) -> None:
        if sequence.ahead:
            sequence.ahead.clear()
            self._trim(sequence)

    def _trim(self, sequence: Sequence) -> None:
        """Gives back pages behind what has been computed for good."""
        keep = self.pool.pages_for(sequence.num_computed + len(sequence.ahead))
        self.pool.release(sequence.pages[keep:])
        del sequence.pages[keep:]

    def _commit(self, chunk: Chunk, events: list[Event]) -> None:
        sequence, start, end = chunk.sequence, chunk.start, chunk.end
        first = max(start, sequence.num_computed)  # before it: a last token once more, for its logits
        again = max(min(sequence.num_lost, end) - first, 0)
        sequence.ledger.recomputed += again
        sequence.ledger.prefilled += sequence.sampled.count(0, first + again, end)
        sequence.ledger.computed += end - start
        sequence.num_computed = end
        sequence.ledger.pages_peak = max(sequence.ledger.pages_peak, self.pool.num_used)
        served = [follower for follower in sequence.followers if follower.shared_length <= end]
        for follower in served:
            self._adopt(follower, sequence)
        for who in (sequence, *served):
            if who.active and who.num_computed == len(who) and not who.wants_sample:
                who.active = False
                events.append(Event(who, None, finish="limit"))

    def _append(self, sequence: Sequence, draw: Draw) -> Event:
        sequence.tokens.append(draw.token)
        sequence.sampled.append(1)
        sequence.ledger.decoded += 1
        finish = None
        if draw.token in sequence.stop_tokens:
            finish = "stop"
        elif len(sequence) >= sequence.limit:
            finish = "limit"
        sequence.active = finish is None
        return Event(sequence, *draw, finish)

    # -- followers: forks made before their tokens were computed ----------------------------------------------------

    def _follow(self, follower: Sequence, leader: Sequence, shared_length: int) -> None:
        follower.leader, follower.shared_length = leader, shared_length
        leader.followers.append(follower)

    def _unfollow(self, follower: Sequence) -> None:
        if follower.leader is not None:
            follower.leader.followers.remove(follower)
            follower.leader = None

    def _adopt(self, follower: Sequence, leader: Sequence) -> None:
        """Takes over what the leader has computed of the tokens in common."""
        self._unfollow(follower)
        length = min(leader.num_computed, follower.shared_length)
        if length <= follower.num_computed:
            return
        self.pool.release(follower.pages)
        follower.pages = leader.pages[: self.pool.pages_for(length)]
        self.pool.share(follower.pages)
        follower.ledger.reused += length - follower.num_computed
        follower.num_computed = length

    def _dismiss_followers(self, leader: Sequence) -> None:
        """The leader will not compute what its followers wait for: the first that is active leads the others."""
        followers = list(leader.followers)
        for follower in followers:
            self._adopt(follower, leader)
        waiting = [f for f in followers if f.num_computed < f.shared_length]
        heir = next((f for f in waiting if f.active), None)
        for follower in waiting:
            if heir is not None and follower is not heir:
                self._follow(follower, heir, min(follower.shared_length, heir.shared_length))

    # -- checks -----------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Raises AssertionError unless page counts, lengths and follower links all add up."""
        self.pool.check_integrity(s.pages for s in self._live.values())
        for s in self._live.values():
            assert len(s.sampled) == len(s.tokens), s
            assert 0 <= s.num_computed <= len(s), s
            assert len(s.pages) >= self.pool.pages_for(s.num_computed + len(s.ahead)), s
            assert s.active or not s.ahead, s
            assert s.leader is None or (s in s.leader.followers and s.leader.runnable), s
            assert all(f.leader is s and f.tokens[: f.shared_length] == s.tokens[: f.shared_length]
                       for f in s.followers), s

    @property
    def context(self) -> str:
        """The context in words, for errors: how many tokens, and why no more."""
        exact, why = self.runner.context_length, self.runner.context_reason
        if self.context_length < exact:
            why = f"the model has {exact}, but the KV pool holds no more; raise kv_cache_bytes or kv_cache_fraction"
        return f"the context is {self.context_length} tokens" + (f" ({why})" if why else "")

    def _enter(self, sequence: Sequence) -> Sequence:
        self._next_id += 1
        self._live[sequence.id] = sequence
        return sequence

    def _limit(self, limit: int | None) -> int:
        return self.context_length if limit is None else min(limit, self.context_length)

    def _check_live(self, sequence: Sequence) -> None:
        if sequence.released or self._live.get(sequence.id) is not sequence:
            raise ValueError(f"{sequence!r} is not live in this engine: it was released, or belongs to another.")

    def _check_tokens(self, tokens: list[int], length: int) -> None:
        if length > self.context_length:
            raise ValueError(f"{length} tokens do not fit: {self.context}.")
        vocab = self.runner.vocab_size
        for token in tokens:
            if not 0 <= token < vocab:
                raise ValueError(f"token id {token} is outside the model's vocabulary of {vocab}.")
