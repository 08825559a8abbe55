"""Which sequences run in the next forward pass, with how many tokens, and who gives way when pages run out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from leapgen.engine.memory.pages import PagePool
from leapgen.engine.memory.sizing import PoolTooSmallError
from leapgen.engine.sequence import Sequence
from leapgen.engine.speculation import Drafter

SCORED = 256  # rows of logits for scores in a step: 154 MB where the vocabulary is 150,000 tokens, in float32


@dataclass
class Chunk:
    """Tokens ``start .. end - 1`` of a sequence and its drafts behind them, computed in one forward pass."""

    sequence: Sequence
    start: int
    end: int
    samples: list[tuple[int, Sequence]]  # (length, who): who samples from the logits of token length - 1
    scores: list[tuple[int, Sequence]] = field(default_factory=list)  # likewise: whose token ``length`` they score

    @property
    def tokens(self) -> list[int]:
        return [*self.sequence.tokens[self.start : self.end], *self.sequence.drafts]

    def draft(self, tokens: list[int]) -> None:
        """Drafts to go with a chunk that samples, in place of those it had."""
        sequence = self.sequence
        self.samples = [*((self.end + i, sequence) for i in range(len(tokens) + 1)),
                        *(one for one in self.samples if one[1] is not sequence)]
        sequence.drafts = tokens


class Scheduler:
    """First come, first served: an older sequence may take pages from younger or paused ones, never the reverse.

    The oldest runnable sequence can therefore always run, so a run ends however small the pool is, as long as it
    holds one sequence.
    """

    def __init__(self, pool: PagePool, max_step_tokens: int, max_batch_size: int, drafter: Drafter | None = None) -> None:
        self.pool = pool
        self.max_step_tokens = max_step_tokens
        self.max_batch_size = max_batch_size
        self.max_scored = SCORED
        self.num_preemptions = 0
        self._drafter = drafter

    def schedule(self, sequences: Iterable[Sequence]) -> list[Chunk]:
        """Plans one step over the live sequences (oldest first) and gives each chunk the pages it writes.

        Raises:
            PoolTooSmallError: something is runnable and nothing fits.
        """
        live = list(sequences)
        for sequence in live:
            sequence.drafts = []
        runnable = [s for s in live if s.runnable]
        decodes = sum(s.num_uncomputed == 1 for s in runnable)
        prefill_budget = max(self.max_step_tokens - min(decodes, self.max_batch_size), 1)
        scored_budget = self.max_scored
        chunks: list[Chunk] = []
        planned: set[int] = set()
        preempted: set[int] = set()
        for sequence in runnable:
            if len(chunks) == self.max_batch_size:
                break
            if sequence.id in preempted:
                continue
            if not sequence.pages and not self._admit(sequence, live, alone=not chunks, reserve=len(chunks)):
                continue
            start = sequence.next_position
            count = len(sequence) - start
            if count > 1:
                count = min(count, prefill_budget)
            scores = self._scores(sequence, start, start + count)
            if len(scores) > scored_budget:  # up to the first position whose rows are too many, which has a step to itself
                count = max(scores[scored_budget][0] - 1 - start, scored_budget == self.max_scored)
                scores = [one for one in scores if one[0] <= start + count]
            if count == 0:
                continue
            if not self._reserve(sequence, start, start + count, live, planned, preempted):
                continue
            if len(sequence) - start > 1:
                prefill_budget -= count
            scored_budget = max(scored_budget - len(scores), 0)
            planned.add(sequence.id)
            chunks.append(Chunk(sequence, start, start + count, self._samples(sequence, start, start + count), scores))
        if runnable and not chunks:
            oldest = runnable[0]
            raise PoolTooSmallError(
                f"the KV pool of {self.pool.num_pages} pages of {self.pool.page_size} tokens cannot hold a sequence of "
                f"{len(oldest)} tokens; raise kv_cache_bytes or kv_cache_fraction.", oldest)
        if chunks and self._drafter is not None:
            self._draft(chunks, self._drafter)
        return chunks

    def _draft(self, chunks: list[Chunk], drafter: Drafter) -> None:
        """Drafts for sequences that decode, as far as tokens and pages are left over: no sequence is preempted for them."""
        budget = self.max_step_tokens - sum(chunk.end - chunk.start for chunk in chunks)
        drafter.begin(len(chunks), sum(chunk.end for chunk in chunks))
        for chunk in chunks:
            sequence, end = chunk.sequence, chunk.end
            if chunk.samples != [(end, sequence)] or end - chunk.start > 1 or sequence.sampling.logits_processors:
                continue  # processors may keep something of what they have seen
            tokens = drafter.draft(sequence, min(sequence.limit - end - 1, budget))
            while tokens and not self._reserved(sequence, end, end + len(tokens)):
                tokens.pop()
            if tokens:
                chunk.draft(tokens)
                budget -= len(tokens)

    @staticmethod
    def _samples(sequence: Sequence, start: int, end: int) -> list[tuple[int, Sequence]]:
        samples = [(end, sequence)] if end == len(sequence) and sequence.wants_sample else []
        for follower in sequence.followers:
            length = follower.shared_length
            if start < length <= end and len(follower) == length and follower.wants_sample:
                samples.append((length, follower))
        return samples

    @staticmethod
    def _scores(sequence: Sequence, start: int, end: int) -> list[tuple[int, Sequence]]:
        """By length. A follower whose scores begin before ``start`` computes these positions again itself."""
        rows = [(length, who) for who, shared in [(sequence, end), *((f, f.shared_length) for f in sequence.followers)]
                if who.scores is not None and who.scores.next > start
                for length in range(who.scores.next, min(end, shared, who.scores.end - 1) + 1)]
        return sorted(rows, key=lambda row: row[0])

    def _admit(self, sequence: Sequence, live: list[Sequence], alone: bool, reserve: int) -> bool:
        """Admits a sequence without pages if all the pages it needs are free, so that it is not preempted again at once."""
        donor, length = self._longest_prefix(sequence, live)
        needed = self.pool.pages_for(len(sequence) + 1) - length // self.pool.page_size
        if not alone and needed + reserve > self.pool.num_free + self._held_by_paused(live):
            return False
        if donor is not None:
            sequence.holding.share(donor.holding, length)
            sequence.ledger.reused += length
        return True

    @staticmethod
    def _held_by_paused(live: list[Sequence]) -> int:
        return sum(s.holding.num_exclusive for s in live if not s.active)

    def _longest_prefix(self, sequence: Sequence, live: list[Sequence]) -> tuple[Sequence | None, int]:
        """The relative that shares the longest computed prefix, and its length: what need not be recomputed."""
        best, best_length = None, 0
        for other in live:
            if other is sequence or other.family != sequence.family or not other.pages:
                continue
            low, high = best_length, min(other.num_computed, sequence.wanted_from)
            if high <= low or other.tokens[: low + 1] != sequence.tokens[: low + 1]:
                continue
            while low < high:  # longest common prefix by bisection; slices compare in C
                middle = (low + high + 1) // 2
                if other.tokens[:middle] == sequence.tokens[:middle]:
                    low = middle
                else:
                    high = middle - 1
            best, best_length = other, low
        return best, best_length

    def _reserve(self, sequence: Sequence, start: int, end: int, live: list[Sequence], planned: set[int],
                 preempted: set[int]) -> bool:
        """Reserves positions start .. end - 1 for the sequence, preempting others while pages are missing."""
        while not self._reserved(sequence, start, end):
            victim = self._victim(sequence, live, planned)
            if victim is None:
                return False
            preempted.add(victim.id)
            self._preempt(victim)
        return True

    @staticmethod
    def _reserved(sequence: Sequence, start: int, end: int) -> bool:
        holding, before = sequence.holding, sequence.holding.num_copied
        reserved = holding.reserve(start, end)
        sequence.ledger.pages_copied += holding.num_copied - before
        return reserved

    @staticmethod
    def _victim(sequence: Sequence, live: list[Sequence], planned: set[int]) -> Sequence | None:
        """The sequence to preempt: first those whose pages nobody else holds, of these the paused, of these the youngest."""
        candidates = [s for s in live if s.pages and s is not sequence and s.id not in planned
                      and (not s.active or s.leader is not None or s.id > sequence.id)]
        return max(candidates, default=None, key=lambda s: (s.holding.num_exclusive > 0, not s.active, s.id))

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        sequence.ledger.preemptions += 1
        sequence.num_lost = max(sequence.num_lost, sequence.num_computed)
        sequence.holding.release()
