"""Log-probabilities of forced tokens, as steps compute them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Scored(NamedTuple):
    """A token's natural log-probability under the model, and the most likely tokens in its place with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Scores:
    """What ``Engine.score`` was asked for: of a sequence's tokens ``start .. end - 1``, the first ones first.

    Attributes:
        logprobs: natural, under the model: of the logits as they came, whatever the sampling settings.
        tops: for each of them the ``top`` most likely tokens, the likeliest first, ties by id: (id, log-probability).
    """

    start: int
    end: int
    top: int = 0
    logprobs: list[float] = field(default_factory=list)
    tops: list[tuple[tuple[int, float], ...]] = field(default_factory=list)

    @property
    def next(self) -> int:
        """The first position that is still to be scored."""
        return self.start + len(self.logprobs)

    @property
    def done(self) -> bool:
        return self.next >= self.end

    def append(self, scored: Scored) -> None:
        self.logprobs.append(scored.logprob)
        self.tops.append(scored.top)

    def crop(self, length: int) -> None:
        """The sequence keeps its first ``length`` tokens only."""
        self.end = min(self.end, length)
        for values in (self.logprobs, self.tops):
            del values[max(length - self.start, 0) :]
