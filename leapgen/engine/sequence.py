"""A live sequence: its tokens, what it holds on the devices, how its next tokens are drawn."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from leapgen.config import SamplingConfig
from leapgen.engine.memory.holding import Holding
from leapgen.engine.scores import Scores
from leapgen.engine.stream import Stream
from leapgen.record.ledger import Ledger


class Draw(NamedTuple):
    """A token and its natural log-probabilities under the model and under the distribution it was drawn from."""

    token: int
    logprob: float | None
    sampling_logprob: float | None


class Phases:
    """What a sequence's positions are for: labels of the caller's, stated when tokens are handed over."""

    def __init__(self, starts: list[int], names: list[str]) -> None:
        self._starts, self._names = starts, names

    def copy(self) -> Phases:
        return Phases(self._starts[:], self._names[:])

    def set(self, start: int, name: str) -> None:
        """Positions from ``start`` on, which no other label follows yet, get this one."""
        if self._starts and self._starts[-1] == start:
            self._names[-1] = name
        elif not self._names or self._names[-1] != name:
            self._starts.append(start)
            self._names.append(name)

    def newest(self) -> str:
        return self._names[-1]

    def crop(self, length: int) -> None:
        """Forgets labels that begin at ``length`` or later; the one before them goes on."""
        keep = max(bisect_right(self._starts, length - 1), 1)
        del self._starts[keep:]
        del self._names[keep:]

    def counts(self, start: int, end: int) -> Iterator[tuple[str, int]]:
        """How many of positions ``start .. end - 1`` have which label, the last first."""
        i = len(self._starts) - 1
        while end > start:
            first = max(self._starts[i], start) if i else start
            if first < end:
                yield self._names[i], end - first
                end = first
            i -= 1


@dataclass(eq=False)
class Sequence:
    """Made by ``Engine.add`` and ``Engine.fork``; read freely, change only through the engine's verbs."""

    id: int
    family: int  # id of the root this was forked from; relatives share prefixes
    tokens: list[int]
    sampled: bytearray  # 1 where a token was sampled, 0 where it was forced
    sampling: SamplingConfig
    stream: Stream
    limit: int  # decode until there are this many tokens
    stop_tokens: frozenset[int]
    min_length: int  # no stop token is sampled while there are fewer tokens
    ledger: Ledger
    holding: Holding
    phases: Phases
    owner: object = None  # whatever the caller wants to find again from an event
    active: bool = True  # set by add and extend; cleared at the limit, at a stop token and by pause
    released: bool = False
    num_lost: int = 0  # positions below this had KV that a preemption took; computing them is recomputing
    drafts: list[int] = field(default_factory=list)  # draft tokens that the present step computes behind the last token
    ahead: deque[Draw] = field(default_factory=deque)  # drawn behind accepted drafts; KV but for the last
    num_entered: int = 0  # tokens that the history of drafts has taken in
    scores: Scores | None = None  # those that steps are still to fill
    # A fork of a sequence whose tail is still to be computed waits for it instead of computing the tail again.
    leader: Sequence | None = None
    shared_length: int = 0  # tokens in common with the leader
    followers: list[Sequence] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        state = "released" if self.released else "active" if self.active else "paused"
        return (f"Sequence({self.id}, path={self.stream.path}, {len(self)} tokens, {self.num_computed} computed, "
                f"{len(self.pages)} pages, {state})")

    @property
    def num_computed(self) -> int:
        """``tokens[:num_computed]`` have KV."""
        return self.holding.length

    @property
    def pages(self) -> array[int]:
        return self.holding.pages

    @property
    def wants_sample(self) -> bool:
        return self.active and len(self.tokens) < self.limit

    @property
    def runnable(self) -> bool:
        return self.active and self.leader is None

    @property
    def wanted_from(self) -> int:
        """The first position whose logits are wanted: the last one's to sample by, earlier ones' to score by."""
        last = len(self.tokens) - 1
        return last if self.scores is None else min(last, self.scores.next - 1)

    @property
    def next_position(self) -> int:
        """Where the next forward pass begins: the first position without KV, or one whose logits are wanted and gone."""
        return min(self.holding.length, self.wanted_from)

    @property
    def num_uncomputed(self) -> int:
        """Tokens the next forward passes have to compute."""
        return len(self.tokens) - self.next_position

    # -- followers: forks made before their tokens were computed ----------------------------------------------------

    def follow(self, leader: Sequence, shared_length: int) -> None:
        """Waits for the leader to compute the tokens they have in common."""
        self.leader, self.shared_length = leader, shared_length
        leader.followers.append(self)

    def unfollow(self) -> None:
        if self.leader is not None:
            self.leader.followers.remove(self)
            self.leader = None

    def adopt(self) -> None:
        """Takes over what its leader has computed of the tokens in common, and follows no longer."""
        leader = self.leader
        assert leader is not None
        self.unfollow()
        length = min(leader.num_computed, self.shared_length)
        if length > self.num_computed:
            self.ledger.reused += length - self.num_computed
            self.holding.share(leader.holding, length)

    def serve(self) -> list[Sequence]:
        """Followers whose tokens in common are computed take them over; so do theirs. Returns all of them."""
        served = [follower for follower in self.followers if follower.shared_length <= self.num_computed]
        for follower in served[:]:
            follower.adopt()
            served += follower.serve()
        return served

    def dismiss_followers(self) -> None:
        """It will not compute what its followers wait for: the first that is active leads the others.

        What it waits for itself, that one waits for in its place.
        """
        followers = list(self.followers)
        for follower in followers:
            follower.adopt()
        waiting = [f for f in followers if f.num_computed < f.shared_length]
        heir = next((f for f in waiting if f.active), None)
        for follower in waiting:
            if heir is not None and follower is not heir:
                follower.follow(heir, min(follower.shared_length, heir.shared_length))
        if heir is not None and self.leader is not None:
            heir.follow(self.leader, min(heir.shared_length, self.shared_length))

    def crop_scores(self, length: int) -> None:
        """Gives up scores of tokens behind the first ``length``."""
        if self.scores is not None:
            self.scores.crop(length)
            self.scores = None if self.scores.done else self.scores

    def forget_ahead(self) -> None:
        """Forgets tokens drawn ahead: they are drawn anew, behind other tokens or under other settings."""
        if self.ahead:
            self.ahead.clear()
            self.holding.trim()
