"""Problems with known answers: read from JSON or JSON Lines, and graded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leapgen import answers

QUESTION_FIELDS = ("problem", "question", "prompt")


@dataclass(frozen=True)
class Problem:
    """A question and the answer it should get.

    Args:
        id: tells it from the others of its task.
        grader: who says whether an answer is the expected one: ``leapgen.answers.grader`` has the names.
        details: what the task keeps beside it, such as ``choices``, the texts by letter; not compared.
    """

    id: str
    question: str
    answer: str
    grader: str = "exact"
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def is_solved_by(self, answer: str | None) -> bool:
        """Whether an answer is the expected one to this problem's grader."""
        return answer is not None and answers.grader(self.grader, self.details.get("choices")).same(self.answer, answer)


def load_problems(file: str | os.PathLike[str]) -> list[Problem]:
    """Reads a JSON list, or one JSON object a line; uncompressed.

    Each needs ``answer`` and one of ``problem``, ``question`` or ``prompt``; ``id`` (its place, from 0) and ``grader`` are
    optional. These are the fields of the files published with arXiv 2505.07787.

    Raises:
        ValueError: something is missing or malformed; names file and line (of a JSON list: the entry).
        OSError: the file cannot be read.
    """
    problems = [_problem(fields, where, i) for i, (fields, where) in enumerate(_entries(Path(file)))]
    if not problems:
        raise ValueError(f"{file} has no problems.")
    seen: dict[str, int] = {}
    for i, problem in enumerate(problems):
        if seen.setdefault(problem.id, i) != i:
            raise ValueError(f"{file}: entries {seen[problem.id] + 1} and {i + 1} have the same id {problem.id!r}.")
    return problems


def _entries(file: Path) -> Iterator[tuple[Any, str]]:
    text = file.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {error.lineno}: not JSON: {error.msg}.") from error
        yield from ((entry, f"{file}, entry {i}") for i, entry in enumerate(entries, 1))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line), f"{file}, line {number}"
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number}: not JSON: {error.msg}.") from error


def _problem(fields: Any, where: str, place: int) -> Problem:
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where}: an object with a question and an answer was expected, not {type(fields).__name__}.")
    question = next((fields[name] for name in QUESTION_FIELDS if fields.get(name)), None)
    if not isinstance(question, str):
        raise ValueError(f"{where}: no text in the field {' or '.join(map(repr, QUESTION_FIELDS))}.")
    answer = fields.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or not str(answer).strip():
        raise ValueError(f"{where}: no text or number in the field 'answer'.")
    return Problem(str(fields.get("id", place)), question, str(answer), _known(fields.get("grader", "exact"), where))


def _known(name: Any, where: str) -> str:
    """The name of a grader, if there is one of that name."""
    if not isinstance(name, str):
        raise ValueError(f"{where}: no name in the field 'grader'.")
    try:
        return answers.grader(name).name
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
