"""When to stop a run before its paths have ended: ``generate(..., until=consensus(0.5))``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from leapgen.answers import normalize_answer


@dataclass(frozen=True)
class Progress:
    """How far a question is. A stop condition gets this after every step in which one of its paths moved.

    ``answers`` are those of the paths that have ended, None without one, and ``paths`` how many may still end with one; both
    leave out paths whose answer does not count. ``tokens`` are sampled ones, over all paths.
    """

    seconds: float
    tokens: int
    blocks: int
    answers: list[str | None]
    paths: int


Condition = Callable[[Progress], bool]


def consensus(share: float) -> Condition:
    """Once more than ``share`` of all paths, in (0, 1), have ended with one answer.

    Raises:
        ValueError: another share.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share!r} is not allowed: share must be in (0, 1), a fraction of the paths.")

    def reached(progress: Progress) -> bool:
        votes = Counter(normalize_answer(answer) for answer in progress.answers if answer is not None)
        return any(count > share * progress.paths for count in votes.values())

    return reached


def time_limit(seconds: float) -> Condition:
    """Once ``seconds`` have passed since the question's first step."""
    return lambda progress: progress.seconds >= seconds


def token_limit(tokens: int) -> Condition:
    """Once the paths together have sampled ``tokens`` tokens, summaries included."""
    return lambda progress: progress.tokens >= tokens


def any_of(*conditions: Condition) -> Condition:
    """Once one of the conditions holds."""
    return lambda progress: any(condition(progress) for condition in conditions)
