"""Spells answers that differ only in typesetting in one way."""

from __future__ import annotations

import re

from leapgen.answers.extraction import balanced

_COMMAND = r"\\[A-Za-z]+(?![A-Za-z])"
_TOKEN = rf"[0-9A-Za-z]|{_COMMAND}(?!\s*\{{)"  # what TeX takes for an argument that has no braces
_ARGUMENT = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_SYMBOL = rf"[A-Za-z]|{_COMMAND}(?:\{{[^{{}}]*\}})?"
_FONT = r"text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox"
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+")
_TYPESETTING = [(re.compile(pattern), replacement) for pattern, replacement in (
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
)]
_WORDS = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}\\0-9]*)\}")
_SLASH = re.compile(rf"(?:^|(?<=[(\[{{,;=+-]))((?:[0-9]|{_SYMBOL})+)/([0-9]+|{_SYMBOL})(?=[)\]}},;=+-]|$)")


def normalize_answer(answer: str) -> str:
    r"""One spelling for answers that differ only in typesetting: ``042``, ``$42$`` and ``42.`` are ``42``.

    Fonts, spaces, dollars and the braces TeX can do without do not count; ``1/2``, ``\frac12`` and ``\dfrac{1}{2}`` are
    one, and so are ``\text{(C)}``, ``(C)``, ``C`` and ``c``. Nothing is computed: 0.5, 1/2 and 2/4 stay apart, units stay.
    """
    before = None
    while answer != before:  # a wrapper may hold another
        before, answer = answer, _rewritten(answer)
    return answer


def typeset(text: str) -> str:
    r"""Without what only moves things on the page; arguments and scripts of one token get their braces."""
    for pattern, replacement in _TYPESETTING:
        text = pattern.sub(replacement, text)
    return text


def _rewritten(text: str) -> str:
    text = re.sub(rf"({_COMMAND})|([^\\]+)", lambda part: part[1] or part[2].casefold(), text)  # \Delta is not \delta
    text = _WORDS.sub(r"\1", typeset(text)).strip().rstrip(".")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    text = re.sub(r"\s", "", text)
    if _THOUSANDS.fullmatch(text):  # 1, 200 are two numbers
        text = text.replace(",", ", ")
    text = _SLASH.sub(r"\\frac{\1}{\2}", text)
    wrapper = re.match(rf"\\(?:{_FONT}|boxed|fbox)\{{", text)
    if wrapper and balanced(text, wrapper.end()) == text[wrapper.end() : -1]:
        text = text[wrapper.end() : -1]
    if re.fullmatch(r"\([a-z]\)", text):  # a choice; an interval has more in it
        text = text[1]
    if re.fullmatch(r"[+-]?[0-9]+", text):
        digits = text.lstrip("+-").lstrip("0") or "0"
        text = "-" + digits if text.startswith("-") and digits != "0" else digits
    return text

