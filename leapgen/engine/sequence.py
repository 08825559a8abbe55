"""A live sequence: its tokens, how many of them have KV, its pages and its random stream."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from leapgen.config import SamplingConfig
from leapgen.engine.sampling.random import Stream
from leapgen.record.ledger import Ledger


class Draw(NamedTuple):
    """A token and its natural log-probabilities under the model and under the distribution it was drawn from."""

    token: int
    logprob: float | None
    sampling_logprob: float | None


def no_pages() -> array[int]:
    """Pages are int64 in a row: a plan takes them over as they are, in a time that does not depend on how many."""
    return array("q")


@dataclass(eq=False)
class Sequence:
    """Made by ``Engine.add`` and ``Engine.fork``; read freely, change only through the engine's verbs.

    ``sampling``, ``stream``, ``stop_tokens`` and ``min_length`` may be set by the owner between two steps.
    """

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
    active: bool = True  # set by add and extend; cleared at the limit, at a stop token and by pause
    released: bool = False
    num_computed: int = 0  # tokens[:num_computed] have KV in pages
    num_lost: int = 0  # positions below this had KV that a preemption took; computing them is recomputing
    pages: array[int] = field(default_factory=no_pages)
    drafts: list[int] = field(default_factory=list)  # guessed to follow, computed in the step that is under way
    # Drawn by an earlier step behind drafts that proved right, their KV but the last one's in pages; what they depend on.
    ahead: deque[Draw] = field(default_factory=deque)
    ahead_by: tuple | None = None
    num_entered: int = 0  # tokens that the history of drafts has taken in
    # A fork of a sequence whose tail is still to be computed waits for it instead of computing the tail again.
    leader: Sequence | None = None
    shared_length: int = 0  # tokens in common with the leader
    followers: list[Sequence] = field(default_factory=list)
    owner: Any = None  # whatever the caller wants to find again from an event; a fork starts without one

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        state = "released" if self.released else "active" if self.active else "paused"
        return (f"Sequence({self.id}, path={self.stream.path}, {len(self)} tokens, {self.num_computed} computed, "
                f"{len(self.pages)} pages, {state})")

    @property
    def drawn_by(self) -> tuple:
        """What the owner may set that the next tokens depend on."""
        return self.sampling, self.stream, self.stop_tokens, self.min_length

    @property
    def wants_sample(self) -> bool:
        return self.active and len(self.tokens) < self.limit

    @property
    def runnable(self) -> bool:
        return self.active and self.leader is None

    @property
    def num_uncomputed(self) -> int:
        """Tokens the next forward pass has to compute; the last one again if its logits are wanted and gone."""
        return max(len(self.tokens) - self.num_computed, 1)
