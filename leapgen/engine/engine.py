"""The verbs on live sequences, and the step that moves them all."""

from __future__ import annotations

import time
from collections.abc import Collection
from collections.abc import Sequence as Tokens

from transformers import PreTrainedModel

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import outcome
from leapgen.engine.memory.holding import Holding
from leapgen.engine.memory.pages import PagePool
from leapgen.engine.model.fingerprint import ModelChangedError
from leapgen.engine.outcome import Event
from leapgen.engine.runner import Runner
from leapgen.engine.sampling.host import NonFiniteLogitsError, Sampled
from leapgen.engine.scheduler import Chunk, Scheduler
from leapgen.engine.scores import Scored, Scores
from leapgen.engine.sequence import Phases, Sequence
from leapgen.engine.speculation import Drafter
from leapgen.engine.states import States
from leapgen.engine.stream import Stream
from leapgen.record.ledger import Ledger


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
            self.scheduler = Scheduler(self.pool, self.config.max_step_tokens, self.config.max_batch_size, self.drafter)
        self.context_length = min(runner.context_length, self.pool.num_pages * self.config.page_size)

    # -- the verbs --------------------------------------------------------------------------------------------------

    def add(self, tokens: Tokens[int], sampling: SamplingConfig | None = None, *, stream: Stream = Stream(),
            limit: int | None = None, stop_tokens: Collection[int] = (), min_length: int = 0, ledger: Ledger | None = None,
            owner: object = None, phase: str = "prompt", then: str = "decode") -> Sequence:
        """A new sequence; its tokens are prefilled by the next steps.

        Args:
            tokens: at least one token id.
            limit: sample until the sequence has this many tokens, at most the context length (the default).
            stop_tokens: ids that end sampling; the stop token itself stays in the sequence.
            min_length: no stop token is sampled while the sequence has fewer tokens.
            ledger: where this sequence and its forks are counted.
            owner: whatever is to be found again from an event.
            phase, then: what the tokens are for, and what those sampled after them: ``Ledger.seconds`` goes by it.

        Raises:
            ValueError: no tokens, an id outside the vocabulary, or more tokens than the context.
            ModelChangedError, UnsupportedModelError, PoolTooSmallError: as ``refresh``.
        """
        self.refresh()
        tokens = list(tokens)
        if not tokens:
            raise ValueError("tokens is empty: a sequence needs at least one token.")
        self._check_tokens(tokens, len(tokens))
        phases = Phases([0], [phase])
        phases.set(len(tokens), then)
        sequence = Sequence(
            id=self._next_id, family=self._next_id, tokens=tokens, sampled=bytearray(len(tokens)),
            sampling=sampling or SamplingConfig(), stream=stream, limit=self._limit(limit),
            stop_tokens=frozenset(stop_tokens), min_length=min_length, ledger=ledger or Ledger(),
            holding=Holding(self.pool, self.runner.cache.copy_page), phases=phases, owner=owner)
        return self._enter(sequence)

    def fork(self, sequence: Sequence, *, stream: Stream | None = None, ledger: Ledger | None = None,
             owner: object = None) -> Sequence:
        """A twin that shares every page; nothing is copied until one of the two writes into a page they share.

        Tokens of the original that are still to be computed are computed once for both. Give the twin a ``stream`` of
        its own unless it is meant to draw what the original would, and a ``ledger`` if it is to be counted elsewhere.
        """
        self._check_live(sequence)
        sequence.forget_ahead()
        twin = Sequence(
            id=self._next_id, family=sequence.family, tokens=list(sequence.tokens), sampled=bytearray(sequence.sampled),
            sampling=sequence.sampling, stream=stream or sequence.stream, limit=sequence.limit,
            stop_tokens=sequence.stop_tokens, min_length=sequence.min_length, ledger=ledger or sequence.ledger,
            holding=sequence.holding.fork(), phases=sequence.phases.copy(), owner=owner, active=sequence.active,
            num_lost=sequence.num_lost, num_entered=sequence.num_entered)
        twin.ledger.forks += 1
        twin.ledger.reused += twin.num_computed
        leader = sequence.leader
        if sequence.active and len(sequence) > (sequence.num_computed if leader is None else sequence.shared_length):
            twin.follow(sequence, len(sequence))  # the original has tokens of its own to compute
        elif leader is not None:
            twin.follow(leader, sequence.shared_length)
        return self._enter(twin)

    def extend(self, sequence: Sequence, tokens: Tokens[int] = (), *, limit: int | None = None,
               sampling: SamplingConfig | None = None, stream: Stream | None = None,
               stop_tokens: Collection[int] | None = None, min_length: int | None = None, phase: str | None = None,
               then: str | None = None) -> None:
        """Appends forced tokens (only these are prefilled) and lets the sequence go on to ``limit``.

        Args:
            limit: as for ``add``; without one, to the end of the context.
            sampling, stream, stop_tokens, min_length: as for ``add``; None keeps what the sequence has.
            phase: what ``tokens`` are for; None is what was sampled before them.
            then: what is sampled after them is for; None is what was sampled before.

        Raises:
            ValueError: an id outside the vocabulary, or more tokens than the context.
        """
        self._check_live(sequence)
        tokens = list(tokens)
        self._check_tokens(tokens, len(sequence) + len(tokens))
        sequence.forget_ahead()
        before = sequence.phases.newest()
        sequence.phases.set(len(sequence), phase or before)
        sequence.tokens.extend(tokens)
        sequence.phases.set(len(sequence), then or before)
        sequence.sampled.extend(bytes(len(tokens)))
        sequence.limit = self._limit(limit)
        sequence.sampling = sampling or sequence.sampling
        sequence.stream = stream or sequence.stream
        if stop_tokens is not None:
            sequence.stop_tokens = frozenset(stop_tokens)
        if min_length is not None:
            sequence.min_length = min_length
        sequence.ledger.injected += len(tokens)
        forced_tail = sequence.num_computed < len(sequence) and not sequence.sampled[-1]
        if forced_tail or len(sequence) < sequence.limit or sequence.scores is not None:
            sequence.active = True
        else:
            self.pause(sequence)

    def score(self, sequence: Sequence, start: int, top: int = 0) -> Scores:
        """Asks for the log-probabilities of the tokens from ``start`` on; steps that compute them fill what is returned.

        After ``add`` or ``extend`` it costs no forward pass; what has KV already from position ``start - 1`` on is computed
        again. A paused sequence samples nothing meanwhile. Forks are not scored along.

        Args:
            start: the first token to be scored; the last is the sequence's last as it is now.
            top: how many of the most likely tokens to give for each.

        Raises:
            ValueError: no such tokens, or scores that were asked for before are not complete.
        """
        self._check_live(sequence)
        if not 1 <= start < len(sequence):
            raise ValueError(f"start={start} is not allowed: score takes 1 .. {len(sequence) - 1}, for there are "
                             f"{len(sequence)} tokens and the first has nothing before it.")
        if not 0 <= top <= self.runner.vocab_size:
            raise ValueError(f"top={top} is not allowed: score gives 0 .. {self.runner.vocab_size} tokens, the vocabulary.")
        if sequence.scores is not None:
            raise ValueError(f"{sequence!r} is still to be scored from {sequence.scores.start} on: step first, or crop it.")
        sequence.forget_ahead()
        if not sequence.active:
            sequence.active, sequence.limit = True, len(sequence)
        sequence.scores = Scores(start, len(sequence), top)
        return sequence.scores

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
        sequence.forget_ahead()
        sequence.dismiss_followers()
        if sequence.leader is not None:
            sequence.shared_length = min(sequence.shared_length, length)
        del sequence.tokens[length:]
        del sequence.sampled[length:]
        sequence.crop_scores(length)
        sequence.phases.crop(length)
        sequence.holding.crop(length)
        sequence.num_lost = min(sequence.num_lost, length)
        sequence.num_entered = min(sequence.num_entered, length)
        self.pause(sequence)

    def release(self, sequence: Sequence) -> None:
        """The sequence is done; its pages go back. Releasing twice is allowed."""
        if sequence.released:
            return
        sequence.forget_ahead()
        sequence.dismiss_followers()
        sequence.unfollow()
        sequence.holding.release()
        sequence.active, sequence.released = False, True
        del self._live[sequence.id]

    def pause(self, sequence: Sequence) -> None:
        """Stops sampling until the next ``extend``; KV stays."""
        self._check_live(sequence)
        sequence.forget_ahead()
        sequence.dismiss_followers()
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
        if handed_out := outcome.hand_out(self._live.values()):
            self.last_step = []
            return handed_out
        began = time.perf_counter()
        chunks = self.scheduler.schedule(self._live.values())
        self.last_step = chunks
        if not chunks:
            return []
        try:
            sampled, scored = self._run(chunks)
        except NonFiniteLogitsError:
            drafted = [chunk for chunk in chunks if chunk.sequence.drafts]
            if not drafted:
                raise
            for chunk in drafted:  # they may stand behind a draft that nobody would have drawn
                chunk.draft([])
            sampled, scored = self._run(chunks)
        outcome.note(chunks, scored)
        events = outcome.commit(chunks, self.pool.num_used)
        if sampled is not None:
            events += outcome.accept(chunks, sampled)
        seconds = time.perf_counter() - began
        outcome.account(chunks, seconds)
        if self.drafter is not None and all(chunk.end - chunk.start == 1 for chunk in chunks):
            self.drafter.times.observe(len(chunks), sum(chunk.end for chunk in chunks),
                                       sum(len(chunk.sequence.drafts) for chunk in chunks), seconds)
        return events

    def _run(self, chunks: list[Chunk]) -> tuple[Sampled | None, list[Scored]]:
        try:
            return self.runner.step(chunks)
        except NonFiniteLogitsError:
            raise
        except Exception as error:
            changes = self._states.changes()
            if not changes:
                raise
            raise ModelChangedError(changes, len(self._live)) from error

    # -- checks -----------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Raises AssertionError unless page counts, lengths and follower links all add up."""
        self.pool.check_integrity(s.pages for s in self._live.values())
        for s in self._live.values():
            assert len(s.sampled) == len(s.tokens), s
            assert 0 <= s.num_computed <= len(s), s
            assert len(s.pages) >= self.pool.pages_for(s.num_computed + len(s.ahead)), s
            assert s.active or not s.ahead, s
            assert s.scores is None or s.scores.next < s.scores.end <= len(s), s
            assert s.leader is None or (s in s.leader.followers and s.leader.active), s
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
