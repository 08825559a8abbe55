"""The unit of a study: one arm, one problem, one group of paths."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Unit:
    """One run of n paths: an arm's name, a problem's id, and which of the groups that differ by seed."""

    arm: str
    problem: str
    group: int

    @property
    def name(self) -> str:
        """A file name, the same everywhere, that no other unit has."""
        return f"{_safe(self.arm)}.{_safe(self.problem)}.{self.group}"

    def seed(self, study: int) -> int:
        """In 0 .. 2**63 - 1. Follows from the study's seed, problem and group: arms have random numbers in common."""
        digest = hashlib.sha256(f"{study}/{self.problem}/{self.group}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


def _safe(text: str) -> str:
    """The text where every file system has it as it is, else what it begins with and a digest."""
    plain = re.sub(r"[^a-z0-9_=-]", "_", text.lower())[:40]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
