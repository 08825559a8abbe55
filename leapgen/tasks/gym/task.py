"""Tasks of reasoning-gym by name, graded by its own scores."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

from leapgen.answers.votes import grouped
from leapgen.tasks.base import Problem, Task
from leapgen.tasks.gym.process import GymProcess

# Datasets whose scorers hand the answer to Python's eval, or to sympy's parser, which evaluates, too.
EVALUATED = ("binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
             "simple_integration", "spiral_matrix", "string_insertion")
FUNCTIONS = ("Abs", "sqrt", "exp", "log", "ln", "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh",
             "cosh", "tanh", "erf")
SIZE = 500  # the gym's own default: some datasets make other problems where there are more of them
_SIGNS = re.compile(r"[\w\s+\-*/^%()\[\]{},.:'\"|=<>]*", re.ASCII)
_CALLED = re.compile(r"([A-Za-z_]\w*|[\w\])}'\"])\s*\(")
_ATTRIBUTE = re.compile(r"__|\.\s*[A-Za-z_]")
_NUMBER = re.compile(r"-?[0-9.]{1,30}(/[0-9]{1,30})?")
_TYPESET = re.compile(r"\$+(.*)\$+|\\(?:text|textbf|mathrm|mathbf|mbox)\{([^{}]*)\}", re.DOTALL)


@dataclass(frozen=True)
class GymTask(Task):
    """Problems of one of reasoning-gym's datasets. Only its full score counts as right: a wrong answer in form gets some."""

    gym: GymProcess | None = None
    evaluated: bool = False
    held: Callable[[str, str], bool] | None = None  # what the gym's own answer and another must also be to each other

    def __post_init__(self) -> None:
        pass  # no grader but the gym knows what is right

    def grade(self, problem: Problem, answer: str | None) -> bool:
        if answer is None or self.gym is None:
            return False
        answer = plain(answer)
        if self.evaluated and answer != problem.answer and not is_expression(answer):
            return False
        if self.held and not self.held(problem.answer, answer):
            return False
        return self.gym.score(problem.details["index"], answer) >= 1

    def groups(self, problem: Problem, answers: Sequence[str]) -> list[list[int]]:
        """Answers are one if their words are: the gym's scores tell right from wrong, not one answer from another."""
        return grouped(answers, lambda answer: " ".join(plain(answer).split()))


def plain(answer: str) -> str:
    r"""An answer without its typesetting, as the gym compares letter by letter: ``$17$`` and ``\text{17}`` are ``17``."""
    answer = answer.strip()
    while dressed := _TYPESET.fullmatch(answer):
        answer = (dressed[1] or dressed[2] or "").strip()
    return answer


def is_expression(answer: str) -> bool:
    """Whether it can be evaluated safely: numbers, names, signs and lists, no attribute, and no call but of mathematics."""
    return bool(_SIGNS.fullmatch(answer)) and not _ATTRIBUTE.search(answer) and all(
        called[1] in FUNCTIONS for called in _CALLED.finditer(answer))


def is_close(expected: str, answer: str) -> bool:
    """Whether two numbers are equal within the gym's tolerance."""
    if not _NUMBER.fullmatch(answer):
        return False
    try:
        return abs(Fraction(expected) - Fraction(answer)) <= 1e-4
    except (ValueError, ZeroDivisionError):
        return False


def same_numbers(expected: str, answer: str) -> bool:
    """Whether two expressions are made of the same whole numbers."""
    return sorted(re.findall(r"[0-9]+", expected)) == sorted(re.findall(r"[0-9]+", answer))


# Datasets whose scorers give wrong answers a full score: any prefix of the right number, any answer at all, other numbers
# than those given.
LENIENT: Mapping[str, Callable[[str, str], bool]] = {
    "coin_flip": is_close, "game_of_life_halting": operator.eq, "puzzle24": same_numbers}


def gym_task(name: str, gym: str, settings: Mapping[str, Any], numbers: range, seed: int) -> GymTask:
    """Problems of a dataset by their numbers: those of ``reasoning_gym.create_dataset(gym, seed=seed, ...)``.

    Args:
        settings: fields of the dataset's config.

    Raises:
        ValueError: an unknown dataset or field, or a value that is not allowed.
        ModuleNotFoundError: reasoning-gym is not installed.
    """
    if find_spec("reasoning_gym") is None:
        raise ModuleNotFoundError(f"{name}: reasoning-gym is not installed: pip install \"leapgen[gym]\"")
    given = sorted(settings.keys() & {"seed", "size"})
    if given:
        raise ValueError(f"{name}: {' and '.join(given)} cannot be set here: seed=, problems= and first= say it.")
    process = GymProcess(name=name, gym=gym, settings=dict(settings), seed=seed, size=max(SIZE, numbers.stop))
    source = {"reasoning-gym": process.open(), "dataset": gym, "settings": dict(settings), "seed": seed,
              "first": numbers.start}
    problems = []
    for number in numbers:
        question, answer = process.make(number)
        problems.append(Problem(f"{gym}/{seed}/{number}", question, answer, "gym", {"index": number}))
    return GymTask(name, problems, source, process, gym in EVALUATED, LENIENT.get(gym))
