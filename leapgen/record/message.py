"""Whose words these tokens are."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Message:
    """What one path says to the others at one block: its summary, in LeaP."""

    sender: int  # the path's index
    text: str  # "" if it wrote none
    block: int
    answer: str | None = None  # the last one that the sender had stated by then
    similarity: float | None = None  # to the own message of a path it is offered to; a router sees it
    num_tokens: int = 0
    closed: bool = True  # the model closed it itself, within the limit
    token_ids: list[int] = field(default_factory=list)  # as the sender sampled them
    start: int | None = None  # position of the first of them in the sender's context; None if they did not stay there


@dataclass(frozen=True)
class Source:
    """Tokens ``start .. end - 1`` of a segment are a sender's words of a block."""

    start: int
    end: int
    sender: int
    block: int
