"""Graders: who says whether an answer is the expected one, and which answers are one vote."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from leapgen.answers.mathematics import MathGrader
from leapgen.answers.spelling import normalize_answer
from leapgen.answers.votes import grouped

_WRAPPED = re.compile(r"(?:\\(?:text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox|boxed|fbox)\s*\{|[*$_\s{]|\\[(\[])+")
_LABELLED = re.compile(r"(?:(?:the\s+)?(?:(?:final|correct)\s+)?answer\s*(?:is|:)\s*:?\s*)?(?:(?:option|choice)\s+)?[*$\s]*",
                       re.IGNORECASE)
_LETTER = re.compile(
    r"(?:\((?P<enclosed>[A-Ja-j])\)"
    r"|(?P<ended>[A-Ja-j])(?=[*_}$]*(?:[.):]+[*_}$]*(?:\s|$)|\s*$)|[*_}$]+\s)"
    r"|(?P<explained>[A-J])(?=\s*[,;(]|\s+(?:because|since|as|is|-|–|—)\s))(?P<rest>.*)", re.DOTALL)
_ANOTHER = re.compile(r"[)\].:]?\s*(?:(?:or|and|&|/|,)\s*\(?[A-Ja-j]\b|\([A-Ja-j]\))")


class Grader(Protocol):
    """Says which answers are one. Safe in any thread."""

    @property
    def name(self) -> str: ...

    def same(self, expected: str, answer: str) -> bool:
        """Whether an answer is the expected one. Never raises, ends in bounded time, and says the same every time."""
        ...

    def groups(self, answers: Sequence[str]) -> list[list[int]]:
        """Places of answers that are one, in order of first appearance."""
        ...


class ExactGrader:
    """Answers are one if ``normalize_answer`` spells them the same. Nothing is computed."""

    name = "exact"

    def same(self, expected: str, answer: str) -> bool:
        return normalize_answer(expected) == normalize_answer(answer)

    def groups(self, answers: Sequence[str]) -> list[list[int]]:
        return grouped(answers, normalize_answer)


class ChoiceGrader:
    r"""Answers are one if they name one choice, A to J; otherwise by spelling.

    A choice is named by its letter: ``C``, ``(c)``, ``C.``, ``ANSWER: C``, ``\boxed{\text{(C)}}``, ``the answer is (C)``,
    ``C) its text``. Where the texts are known, the text of one choice alone names it too, unless it reads as a letter.

    Args:
        choices: the texts by letter.
    """

    name = "choice"

    def __init__(self, choices: Mapping[str, str] | None = None) -> None:
        spelled: dict[str, list[str]] = {}
        for letter, text in (choices or {}).items():
            spelled.setdefault(normalize_answer(text), []).append(letter.casefold())
        self._letters = {text: letters[0] for text, letters in spelled.items() if len(letters) == 1}

    def same(self, expected: str, answer: str) -> bool:
        return self._choice(expected) == self._choice(answer)

    def groups(self, answers: Sequence[str]) -> list[list[int]]:
        return grouped(answers, self._choice)

    def _choice(self, answer: str) -> str:
        """The letter, or what the answer is spelled like."""
        spelled = normalize_answer(answer)
        return _letter(answer) or self._letters.get(spelled) or spelled


def _letter(answer: str) -> str | None:
    """The letter of the choice that an answer names, in lower case; None if it names none, or several."""
    text = answer[:1000].strip()
    labelled = _LABELLED.match(text)
    start = labelled.end() if labelled else 0
    wrapped = _WRAPPED.match(text, start)
    match = _LETTER.match(text, wrapped.end() if wrapped else start)
    if match is None or _ANOTHER.match(match["rest"]):
        return None
    return str(match["enclosed"] or match["ended"] or match["explained"]).casefold()


_GRADERS: dict[str, type[ExactGrader] | type[MathGrader] | type[ChoiceGrader]] = {
    "exact": ExactGrader, "math": MathGrader, "choice": ChoiceGrader}


def grader(name: str, choices: Mapping[str, str] | None = None) -> Grader:
    """The grader of that name: ``exact``, ``math`` or ``choice``.

    Args:
        choices: the texts by letter, for ``choice``; the others do not ask.

    Raises:
        ValueError: another name; says the nearest.
        ModuleNotFoundError: ``math`` without math-verify; says how to install it.
    """
    if name == "choice" and choices:
        return ChoiceGrader(choices)
    return _made(name)


@functools.cache
def _made(name: str) -> Grader:
    """One of each: ``math`` keeps its verdicts and its process."""
    if name not in _GRADERS:
        close = difflib.get_close_matches(name, _GRADERS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"there is no grader {name!r}: graders are {', '.join(map(repr, _GRADERS))}.{hint}")
    return _GRADERS[name]()
