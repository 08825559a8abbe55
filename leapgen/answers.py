"""What an answer is: how it is read from a path's own words, and when two of them are one."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATED = re.compile(r"(?:^|\n|\*)\s*(?:final\s+)?answer\s*(?:\*\*)?\s*(?::|is)\s*(?:\*\*)?\s*(.+)", re.IGNORECASE)

_COMMAND = r"\\[A-Za-z]+(?![A-Za-z])"
_TOKEN = rf"[0-9A-Za-z]|{_COMMAND}(?!\s*\{{)"  # what TeX takes for an argument that has no braces
_ARGUMENT = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_SYMBOL = rf"[A-Za-z]|{_COMMAND}(?:\{{[^{{}}]*\}})?"
_FONT = r"text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox"
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+")
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[!()\[\]]|\\?\$", ""),
    (r"\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    (r"\{,\}", ","),
    ("\N{MINUS SIGN}", "-"),
    (r"\\%", "%"),
    (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
    (rf"(\\(?:frac|sqrt))(?![A-Za-z])\s*({_TOKEN})", r"\1{\2}"),
    (rf"(\\frac\s*{_ARGUMENT})\s*({_TOKEN})", r"\1{\2}"),
    (rf"([\^_])\s*([0-9](?![0-9])|[A-Za-z]|{_COMMAND}(?!\s*\{{))", r"\1{\2}"),
    (r"([0-9])\s+([0-9]+)\s*/\s*([0-9]+)", r"\1\\frac{\2}{\3}"),  # a mixed number, before its space is gone
    (r"\\(?:text|mathrm|mbox)\{([^{}\\0-9]*)\}", r"\1"),
)]
_SLASH = re.compile(rf"(?:^|(?<=[(\[{{,;=+-]))((?:[0-9]|{_SYMBOL})+)/([0-9]+|{_SYMBOL})(?=[)\]}},;=+-]|$)")


def extract_answer(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``; without one, of the last ``Answer: ...`` line; else None."""
    return next(_boxed(text), next(_stated(text), "")) or None


def all_answers(text: str) -> list[str]:
    """Every box's content, and what every ``Answer: ...`` line states."""
    return [*_boxed(text), *filter(None, _stated(text))]


def _boxed(text: str) -> Iterator[str]:
    """The last one first."""
    for start in reversed([match.end() for match in _BOXED.finditer(text)]):
        content = _balanced(text, start)
        if content is not None and content.strip():
            yield content.strip()


def _stated(text: str) -> Iterator[str]:
    """The last one first."""
    for stated in reversed(_STATED.findall(text)):
        if not _BOXED.search(stated):  # a box that was never closed is no answer
            yield stated.strip("*$ \t").rstrip(".").strip("*$ \t")


def normalize_answer(answer: str) -> str:
    r"""One spelling for answers that differ only in typesetting: ``042``, ``$42$`` and ``42.`` are ``42``.

    Fonts, spaces, dollars and the braces TeX can do without do not count; ``1/2``, ``\frac12`` and ``\dfrac{1}{2}`` are
    one, and so are ``\text{(C)}``, ``(C)``, ``C`` and ``c``. Nothing is computed: 0.5, 1/2 and 2/4 stay apart, units stay.
    """
    before = None
    while answer != before:  # a wrapper may hold another
        before, answer = answer, _rewritten(answer)
    return answer


def _rewritten(text: str) -> str:
    text = re.sub(rf"({_COMMAND})|([^\\]+)", lambda part: part[1] or part[2].casefold(), text)  # \Delta is not \delta
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(".")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    text = re.sub(r"\s", "", text)
    if _THOUSANDS.fullmatch(text):  # 1, 200 are two numbers
        text = text.replace(",", ", ")
    text = _SLASH.sub(r"\\frac{\1}{\2}", text)
    wrapper = re.match(rf"\\(?:{_FONT}|boxed|fbox)\{{", text)
    if wrapper and _balanced(text, wrapper.end()) == text[wrapper.end() : -1]:
        text = text[wrapper.end() : -1]
    if re.fullmatch(r"\([a-z]\)", text):  # a choice; an interval has more in it
        text = text[1]
    if re.fullmatch(r"[+-]?[0-9]+", text):
        digits = text.lstrip("+-").lstrip("0") or "0"
        text = "-" + digits if text.startswith("-") and digits != "0" else digits
    return text


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
