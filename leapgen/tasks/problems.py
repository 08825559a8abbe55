"""Files of problems with known answers: JSON or JSON Lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leapgen import answers
from leapgen.tasks.base import Problem

QUESTION_FIELDS = ("problem", "question", "prompt")


def load_problems(file: str | os.PathLike[str]) -> list[Problem]:
    """Reads a JSON list, or one JSON object a line; uncompressed.

    Each needs ``answer`` and one of ``problem``, ``question`` or ``prompt``; ``id`` (its place, from 0) and ``grader`` are
    optional. These are the fields of the files published with arXiv 2505.07787. A file says its grader once in
    ``{"grader": ..., "problems": [...]}``, or in a first line ``{"grader": ...}``.

    Raises:
        ValueError: something is missing or malformed; names file and line (of a JSON list: the entry).
        OSError: the file cannot be read.
    """
    problems: list[Problem] = []
    grader = "exact"
    for entry, where in read_entries(Path(file)):
        if is_heading(entry):
            grader = _known(entry["grader"], where)
        else:
            problems.append(read_problem(entry, where, len(problems), grader))
    return checked(problems, str(file))


def checked(problems: list[Problem], source: str) -> list[Problem]:
    """The problems, if there are any and no two have one id.

    Raises:
        ValueError: says which.
    """
    if not problems:
        raise ValueError(f"{source} has no problems.")
    seen: dict[str, int] = {}
    for i, problem in enumerate(problems):
        if seen.setdefault(problem.id, i) != i:
            raise ValueError(f"{source}: entries {seen[problem.id] + 1} and {i + 1} have the same id {problem.id!r}.")
    return problems


def is_heading(entry: Any) -> bool:
    """Whether an entry of a file holds no problem, but says the grader of those that follow."""
    return isinstance(entry, Mapping) and entry.keys() == {"grader"}


def read_entries(file: Path) -> Iterator[tuple[Any, str]]:
    """Each entry as JSON has it, headings among them, and where it stands.

    Raises:
        ValueError, OSError: as of ``load_problems``.
    """
    text = file.read_text(encoding="utf-8")
    whole = _whole(text, str(file))
    if whole is not None:
        entries, heading = whole
        if heading:
            yield heading, str(file)
        yield from ((entry, f"{file}, entry {i}") for i, entry in enumerate(entries, 1))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line), f"{file}, line {number}"
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number}: not JSON: {error.msg}.") from error


def _whole(text: str, where: str) -> tuple[list[Any], dict[str, Any]] | None:
    """The entries of a text that is one list, or one object with ``problems``, and its heading; None if it is lines."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("["):
            raise ValueError(f"{where}, line {error.lineno}: not JSON: {error.msg}.") from error
        return None
    if isinstance(value, Mapping):
        return entries_of(value, where) if "problems" in value else None
    return (value, {}) if isinstance(value, list) else None


def entries_of(document: Mapping[str, Any], where: str) -> tuple[list[Any], dict[str, Any]]:
    """The entries of ``{"grader": ..., "problems": [...]}``, and the heading of a file of lines that says the same.

    Raises:
        ValueError: it holds something else.
    """
    entries, heading = document.get("problems"), {key: document[key] for key in document.keys() - {"problems"}}
    if not isinstance(entries, list) or heading.keys() - {"grader"}:
        raise ValueError(f"{where}: an object with 'problems', a list, and perhaps 'grader' was expected, not one with "
                         f"{', '.join(map(repr, document))}.")
    return entries, heading


def read_problem(fields: Any, where: str, place: int, grader: str) -> Problem:
    """A problem from the fields of an entry.

    Args:
        where: names the entry in errors.
        place: its number in the file, from 0: the id if it has none.
        grader: if it names none.

    Raises:
        ValueError: something is missing or malformed.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where}: an object with a question and an answer was expected, not {type(fields).__name__}.")
    question = next((fields[name] for name in QUESTION_FIELDS if fields.get(name)), None)
    if not isinstance(question, str):
        raise ValueError(f"{where}: no text in the field {' or '.join(map(repr, QUESTION_FIELDS))}.")
    answer = fields.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or not str(answer).strip():
        raise ValueError(f"{where}: no text or number in the field 'answer'.")
    return Problem(str(fields.get("id", place)), question, str(answer), _known(fields.get("grader", grader), where))


def _known(name: Any, where: str) -> str:
    """The name of a grader, if there is one of that name."""
    if not isinstance(name, str):
        raise ValueError(f"{where}: no name in the field 'grader'.")
    try:
        return answers.grader(name).name
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
