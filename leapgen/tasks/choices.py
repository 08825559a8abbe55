"""Multiple choice: texts with letters, in an order that is drawn for each problem."""

from __future__ import annotations

import random
from collections.abc import Sequence

from leapgen.tasks.base import Problem

LETTERS = "ABCDEFGHIJ"


def choice_problem(id: str, question: str, right: str, wrong: Sequence[str], seed: int) -> Problem:
    """A problem whose choices stand in an order that follows from the seed and the problem's id alone.

    The published file of GPQA has every right choice first. An order drawn from one stream for all problems, as elsewhere,
    would change with the problems before it.
    """
    texts = [right, *wrong]
    order = list(range(len(texts)))
    random.Random(f"choices/{seed}/{id}").shuffle(order)
    letters = LETTERS[:len(order)]
    choices = {letter: texts[i] for letter, i in zip(letters, order, strict=True)}
    listed = "\n".join(f"{letter}) {text}" for letter, text in choices.items())
    asked = (f"{question}\n\n{listed}\n\nOne choice is right. End with the line ANSWER: $LETTER, where $LETTER is its "
             f"letter: {', '.join(letters[:-1])} or {letters[-1]}.")
    return Problem(id, asked, letters[order.index(0)], "choice", {"choices": choices})
