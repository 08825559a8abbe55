"""What ends a stretch of sampling, besides its limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Endings:
    """The end tokens and thinking markers of a model, as far as a run heeds them."""

    end_tokens: frozenset[int]  # the model's end of sequence and the user's stop tokens
    think_start: str
    think_end: str  # "" where the model has no thinking marker
    think_end_token: int | None

    @property
    def reasoning(self) -> frozenset[int]:
        """The stop tokens of reasoning."""
        return self.end_tokens | ({self.think_end_token} if self.think_end_token is not None else set())
