"""Reads an answer from a path's own words."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATED = re.compile(
    r"(?:^|\n|\*)\s*(?:final\s+)?answer\s*(?:\*\*)?\s*(?::|is)\s*(?:\*\*)?\s*(?P<line>.+)"
    r"|\b(?:(?:the|correct|final)\s+answer|correct\s+(?:choice|option))\s+is\s*:?\s*(?:(?:choice|option)\s+)?[*$\s]*"
    r"(?P<choice>\([A-J]\)|(?-i:[A-J])(?=\s*(?:[.,;:*$\n]|$)))", re.IGNORECASE)


def extract_answer(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``; without one, the last stated answer; else None.

    An answer is stated by a line ``Answer: ...``, or by a choice within a sentence: "so the answer is (C), because ...".
    """
    return next(_boxed(text), next(_stated(text), "")) or None


def all_answers(text: str) -> list[str]:
    """Every box's content, and every stated answer."""
    return [*_boxed(text), *filter(None, _stated(text))]


def _boxed(text: str) -> Iterator[str]:
    """The last one first."""
    for start in reversed([match.end() for match in _BOXED.finditer(text)]):
        content = balanced(text, start)
        if content is not None and content.strip():
            yield content.strip()


def _stated(text: str) -> Iterator[str]:
    """The last one first."""
    for match in reversed(list(_STATED.finditer(text))):
        stated = match["line"] or match["choice"]
        if not _BOXED.search(stated):  # a box that was never closed is no answer
            yield stated.strip("*$ \t").rstrip(".").strip("*$ \t")


def balanced(text: str, start: int) -> str | None:
    """What stands from ``start``, after an opening brace, to the brace that closes it; None if none does."""
    depth = 1
    for i in range(start, len(text)):
        if text[i] == "{" and text[i - 1] != "\\":
            depth += 1
        elif text[i] == "}" and text[i - 1] != "\\":
            depth -= 1
            if depth == 0:
                return text[start:i]
    return None
