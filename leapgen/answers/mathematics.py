"""Answers compared as mathematics: exactly where they are plain numbers, by math-verify elsewhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from leapgen.answers.reading import Reading, Term, read
from leapgen.answers.spelling import normalize_answer
from leapgen.answers.votes import grouped
from leapgen.answers.worker import Pair, Worker

MAX_PAIRS = 48
CACHED = 100_000
Decide = Callable[[Term, Term], bool]


class MathGrader:
    r"""Answers are one if they are spelled the same or are the same mathematics: ``\frac{1}{2}`` and ``0.5``.

    Words, and whatever is not certain, are compared by spelling. Plain numbers are compared exactly; a decimal of six or
    more digits is also what rounds to it. Sets, lists, tuples, intervals, matrices and inequalities are compared part by
    part. A unit or a name (``x = 5``) may be left out, but not be another. ``25\%`` is 0.25 and, in competitions, 25.
    Everything else goes to math-verify in a process with a limit of processor time; what it does not settle is not the same.
    The relation is symmetric, not transitive.

    Raises:
        ModuleNotFoundError: math-verify is not installed; says how to install it.
    """

    name = "math"

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ModuleNotFoundError('the grader "math" needs math-verify: pip install "leapgen[eval]"')
        self._worker = Worker()
        self._known: dict[Pair, bool] = {}

    def same(self, expected: str, answer: str) -> bool:
        if normalize_answer(expected) == normalize_answer(answer):
            return True
        one, other = (read(text) for text in sorted((expected, answer)))
        if one is None or other is None:
            return False
        pairs: dict[Pair, None] = {}

        def asked(a: Term, b: Term) -> bool:
            verdict = _compared(a, b)
            if not isinstance(verdict, bool):
                pairs.update(dict.fromkeys(verdict))
            return verdict is not False

        if not _alike(one, other, asked):  # not even if all that is open were the same
            return False
        verdicts = self._verdicts(list(pairs))
        return _alike(one, other, lambda a, b: _decided(_compared(a, b), verdicts))

    def groups(self, answers: Sequence[str]) -> list[list[int]]:
        return grouped(answers, normalize_answer, self.same)

    def _verdicts(self, pairs: list[Pair]) -> dict[Pair, bool]:
        unknown = [pair for pair in pairs if pair not in self._known]
        if len(unknown) > MAX_PAIRS:
            return dict.fromkeys(pairs, False)
        if unknown:
            answered = self._worker.verdicts(unknown)
            if answered is None:
                return dict.fromkeys(pairs, False)
            if len(self._known) > CACHED:
                self._known.clear()
            self._known.update(zip(unknown, answered, strict=True))
        return {pair: self._known[pair] for pair in pairs}


def _alike(one: Reading, other: Reading, decide: Decide) -> bool:
    if isinstance(one, Term) or isinstance(other, Term):
        return isinstance(one, Term) and isinstance(other, Term) and decide(one, other)
    if one.kind != other.kind or len(one.items) != len(other.items):
        return False
    if one.ordered:
        return all([_alike(a, b, decide) for a, b in zip(one.items, other.items, strict=True)])
    return _matched([[_alike(a, b, decide) for b in other.items] for a in one.items])


def _matched(table: list[list[bool]]) -> bool:
    """Whether each row can have a column of its own."""
    rows: dict[int, int] = {}

    def placed(row: int, tried: set[int]) -> bool:
        for column, possible in enumerate(table[row]):
            if possible and column not in tried:
                tried.add(column)
                if column not in rows or placed(rows[column], tried):
                    rows[column] = row
                    return True
        return False

    return all(placed(row, set()) for row in range(len(table)))


def _compared(a: Term, b: Term) -> bool | list[Pair]:
    """The verdict on two terms, or pairs of which one must be equal."""
    places = max(a.places, b.places)
    units = {unit for term in (a, b) for unit in (term.unit, "%" * term.percent) if unit}
    if len(units) > 1:
        return False
    if a.equation and b.equation and (a.name != b.name or not a.name):
        return [_pair(a.equation, b.equation, places), _pair(a.equation, f"- ( {b.equation} )", places)]
    if not a.latex or not b.latex:
        return False
    if a.value is not None and b.value is not None:
        allowed = Fraction(1, 2 * 10**places) if places else 0
        values = [(a.value, b.value)]
        if a.percent != b.percent:
            values.append((a.value, 100 * b.value) if a.percent else (100 * a.value, b.value))
        return any(abs(x - y) <= allowed for x, y in values)
    pairs = [_pair(a.latex, b.latex, places)]
    if a.percent != b.percent:
        first, second = (text if term.percent else f"100 \\cdot ( {text} )" for term, text in ((a, a.latex), (b, b.latex)))
        pairs.append(_pair(first, second, places))
    return pairs


def _pair(one: str, other: str, places: int) -> Pair:
    return min(one, other), max(one, other), places


def _decided(verdict: bool | list[Pair], verdicts: Mapping[Pair, bool]) -> bool:
    return verdict if isinstance(verdict, bool) else any(verdicts[pair] for pair in verdict)
