"""What a forward pass means for the sequences of its chunks: tokens, their KV, who goes on, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Literal

from leapgen.engine.sampling.host import Sampled
from leapgen.engine.scheduler import Chunk
from leapgen.engine.scores import Scored
from leapgen.engine.sequence import Draw, Sequence


@dataclass(frozen=True)
class Event:
    """What a step did to one sequence.

    ``token`` is the sampled token, or None when the sequence's forced tokens are computed and its limit allows no
    sample; scores it was asked for are complete then. ``finish`` is ``"stop"`` (a stop token was sampled), ``"limit"``
    (the sequence has ``limit`` tokens), or None while it goes on. Log-probabilities are natural, under the model and under
    the sampling distribution.
    """

    sequence: Sequence
    token: int | None
    logprob: float | None = None
    sampling_logprob: float | None = None
    finish: Literal["stop", "limit"] | None = None


def hand_out(sequences: Iterable[Sequence]) -> list[Event]:
    """The next token of each sequence that an earlier step drew more of."""
    events = []
    for sequence in sequences:
        if sequence.ahead:
            sequence.holding.length += 1
            sequence.ledger.computed += 1
            sequence.ledger.accepted += 1
            events.append(_append(sequence, sequence.ahead.popleft()))
    return events


def note(chunks: Rows[Chunk], scored: Rows[Scored]) -> None:
    """Hands each sequence the scores it waits for."""
    rows = (sequence for chunk in chunks for _, sequence in chunk.scores)
    for sequence, one in zip(rows, scored, strict=True):
        assert sequence.scores is not None
        sequence.scores.append(one)
        if sequence.scores.done:
            sequence.scores = None


def commit(chunks: Rows[Chunk], pages_used: int) -> list[Event]:
    """Notes what has KV now; events of sequences that are not to sample."""
    events = []
    for chunk in chunks:
        sequence, start, end, ledger = chunk.sequence, chunk.start, chunk.end, chunk.sequence.ledger
        first = max(start, sequence.num_computed)  # before it: once more, for their logits
        again = max(min(sequence.num_lost, end) - first, 0)
        ledger.recomputed += again
        ledger.prefilled += sequence.sampled.count(0, first + again, end)
        ledger.computed += end - start
        ledger.pages_peak = max(ledger.pages_peak, pages_used)
        sequence.holding.length = max(sequence.num_computed, end)
        for who in (sequence, *sequence.serve()):
            if who.active and who.num_computed == len(who) and not who.wants_sample and who.scores is None:
                who.active = False
                events.append(Event(who, None, finish="limit"))
    return events


def accept(chunks: Rows[Chunk], sampled: Sampled) -> list[Event]:
    """Appends each sequence's first draw, and keeps those behind draft tokens for as long as the draft is what was drawn."""
    draws: dict[Sequence, list[Draw]] = {}
    rows = (sequence for chunk in chunks for _, sequence in chunk.samples)
    for sequence, token, logprob, sampling_logprob in zip(
            rows, sampled.tokens, sampled.logprobs, sampled.sampling_logprobs, strict=True):
        draws.setdefault(sequence, []).append(Draw(token, logprob, sampling_logprob))
    events = []
    for sequence, (first, *others) in draws.items():
        events.append(_append(sequence, first))
        newest = first
        for draft, draw in zip(sequence.drafts, others, strict=True):
            if newest.token != draft or draft in sequence.stop_tokens:
                break
            sequence.ahead.append(draw)
            newest = draw
        if sequence.drafts:
            sequence.ledger.drafted += len(sequence.drafts)
            sequence.holding.trim(len(sequence.ahead))
    return events


def _append(sequence: Sequence, draw: Draw) -> Event:
    sequence.tokens.append(draw.token)
    sequence.sampled.append(1)
    sequence.ledger.decoded += 1
    finish: Literal["stop", "limit"] | None = None
    if draw.token in sequence.stop_tokens:
        finish = "stop"
    elif len(sequence) >= sequence.limit:
        finish = "limit"
    sequence.active = finish is None
    return Event(sequence, *draw, finish)


def account(chunks: Rows[Chunk], seconds: float) -> None:
    """Shares a step's time out over what its tokens are for."""
    each = seconds / sum(chunk.end - chunk.start for chunk in chunks)
    for chunk in chunks:
        by_phase = chunk.sequence.ledger.seconds
        for phase, count in chunk.sequence.phases.counts(chunk.start, chunk.end):
            by_phase[phase] = by_phase.get(phase, 0.0) + each * count
