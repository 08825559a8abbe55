"""What a question's paths cost: tokens counted one by one, and seconds by what they were spent on."""

from __future__ import annotations

from dataclasses import dataclass, field

PHASES = ("prompt", "reason", "summarize", "comment", "answer")


@dataclass
class Ledger:
    """What one question's paths cost, in tokens unless said otherwise.

    ``prefilled`` counts forced tokens (prompt, trigger, comment, ...) whose KV was computed, each once however many
    paths share it; ``recomputed`` counts positions computed again after a preemption; ``reused`` counts positions a
    fork took over instead of computing them; ``computed`` is everything that went through the model, except for drafts that
    were not drawn: these are ``drafted`` less ``accepted``.
    """

    decoded: int = 0
    prompt: int = 0
    injected: int = 0
    prefilled: int = 0
    computed: int = 0
    reused: int = 0
    recomputed: int = 0
    drafted: int = 0  # guessed ahead and put through the model
    accepted: int = 0  # of those, drawn
    discarded: int = 0  # sampled, then cut at a block or dropped with a summary
    forks: int = 0
    preemptions: int = 0
    pages_copied: int = 0  # copy-on-write, when a path first writes into a page it shares
    pages_peak: int = 0  # pages in use at most, over everything in flight
    seconds: dict[str, float] = field(default_factory=dict)  # by phase

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())
