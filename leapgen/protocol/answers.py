"""The answer a path gave, read from its own words."""

from __future__ import annotations

import re

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATED = re.compile(r"(?:^|\n|\*)\s*(?:final\s+)?answer\s*(?:\*\*)?\s*(?::|is)\s*(?:\*\*)?\s*(.+)", re.IGNORECASE)


def extract_answer(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``; without one, of the last ``Answer: ...`` line; else None."""
    for start in reversed([match.end() for match in _BOXED.finditer(text)]):
        content = _balanced(text, start)
        if content is not None and content.strip():
            return content.strip()
    for stated in reversed(_STATED.findall(text)):
        if not _BOXED.search(stated):  # a box that was never closed is no answer
            return stated.strip("*$ \t").rstrip(".").strip("*$ \t") or None
    return None


def _balanced(text: str, start: int) -> str | None:
    depth = 1
    for i in range(start, len(text)):
        if text[i] == "{" and text[i - 1] != "\\":
            depth += 1
        elif text[i] == "}" and text[i - 1] != "\\":
            depth -= 1
            if depth == 0:
                return text[start:i]
    return None
