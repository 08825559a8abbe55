"""What a study keeps of a unit: answers, whether they are right, votes, tokens by kind, seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leapgen.evaluation.units import Unit
from leapgen.record.run import KINDS

SPENT = tuple(kind for kind in KINDS if kind not in ("prompt", "beginning"))  # what a path adds to what it is given
AHA = ("re-check", "re-evaluate", "re-examine", "re-think", "recheck", "reevaluate", "reexamine", "reevaluation", "rethink",
       "check again", "think again", "try again", "let's correct it", "verify", "wait", "yet")


@dataclass(frozen=True)
class PathRecord:
    """One path.

    Args:
        tokens: by kind, as the model's own tokenizer counts.
        votes: its answer counts; False for a path that was there for the others alone.
        counted: by kind, as the study's ``count_with`` counts; empty without one.
        aha: how often a word of the study's ``aha`` stands in its own reasoning and answer.
    """

    answer: str | None
    right: bool
    finish_reason: str
    tokens: dict[str, int]
    aha: int = 0
    votes: bool = True
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def own(self) -> int:
        """Tokens of its reasoning."""
        return self.tokens.get("own", 0)

    @property
    def spent(self) -> int:
        """All tokens after the prompt and a given beginning."""
        return sum(self.tokens.get(kind, 0) for kind in SPENT)

    @property
    def counted_spent(self) -> int:
        """The same as the study's ``count_with`` counts."""
        return sum(self.counted.get(kind, 0) for kind in SPENT)


@dataclass(frozen=True)
class Record:
    """One unit. Without paths, there was nothing to run for it.

    Args:
        majority: the answer most paths gave; ``shortest_majority``: weighted by shortness (arXiv 2502.12215).
        prepared: what followed from earlier arms, such as a budget.
        probes: what the protocol measured on the way.
        ledger: counts of the run's ``Ledger``; ``seconds`` are its seconds by phase.
    """

    arm: str
    problem: str
    group: int
    seed: int
    paths: list[PathRecord] = field(default_factory=list)
    majority: str | None = None
    majority_right: bool = False
    shortest_majority: str | None = None
    shortest_majority_right: bool = False
    blocks: int = 0
    prepared: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def unit(self) -> Unit:
        return Unit(self.arm, self.problem, self.group)

    @property
    def voters(self) -> list[PathRecord]:
        """Paths whose answers count, in votes and in Pass@1."""
        return [path for path in self.paths if path.votes]

    @property
    def right(self) -> list[bool]:
        """Whether each of the voters is right."""
        return [path.right for path in self.voters]

    @property
    def discarded(self) -> int:
        """Tokens that were sampled and then cut, or dropped with a summary."""
        return self.ledger.get("discarded", 0)

    @property
    def spent(self) -> int:
        """What the paths together cost: their tokens after the prompt, and those discarded."""
        return sum(path.spent for path in self.paths) + self.discarded

    @property
    def counted(self) -> float:
        """The same as the study's ``count_with`` counts. Of what was discarded there is no text: it is in proportion."""
        kept = sum(path.spent for path in self.paths)
        return self.spent * sum(path.counted_spent for path in self.paths) / kept if kept else 0.0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Takes what ``to_dict`` gave.

        Raises:
            TypeError, KeyError: it is something else.
        """
        return cls(**{**data, "paths": [PathRecord(**path) for path in data["paths"]]})
