"""What a run starts from: questions on the command line, on standard input or in files, and what paths begin with."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leapgen.tasks.problems import QUESTION_FIELDS, entries_of, is_heading

Messages = list[Mapping[str, Any]]


@dataclass
class Inputs:
    """Prompts as ``LeapGenerator.stream`` takes them; ``several`` says whether they came as a list."""

    prompts: list[str | Messages]
    several: bool = False
    beginnings: list[str | None] = field(default_factory=list)

    def for_stream(self) -> dict[str, Any]:
        if self.several:
            return {"prompt": self.prompts, "beginning": self.beginnings}
        return {"prompt": self.prompts[0], "beginning": self.beginnings[0]}


def add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="?", metavar="QUESTION",
                        help="the question; - or nothing reads it from standard input")
    parser.add_argument("--input", type=Path, metavar="FILE",
                        help="many questions, one run each, side by side. .json or .jsonl: texts, chats, or objects with "
                             f"{', '.join(QUESTION_FIELDS)} or messages, and perhaps a beginning; other files: a question a "
                             "line. - reads standard input")
    parser.add_argument("--messages", type=Path, metavar="FILE",
                        help="a chat in JSON that ends with the user's question: [{\"role\": \"user\", \"content\": ...}]")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the question")
    parser.add_argument("--beginning", metavar="TEXT|@FILE", help="reasoning that all paths go on from")


def read_inputs(options: argparse.Namespace) -> Inputs:
    """Reads what the options of ``add_inputs`` name.

    Raises:
        ValueError: nothing or too much was given, or a file does not hold what it should; says which. OSError.
    """
    ways = {"a question": options.question, "--messages": options.messages, "--input": options.input}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} do not go together: give one of them.")
    beginning = _text_or_file(options.beginning, "--beginning")
    if options.input is not None:
        entries = [(entry, where) for entry, where in _entries(options.input) if not is_heading(entry)]
        if not entries:
            raise ValueError(f"--input {options.input}: it holds no question.")
        pairs = [_prompt(entry, where) for entry, where in entries]
        return Inputs([_with_system(prompt, options.system) for prompt, _ in pairs], True,
                      [own if own is not None else beginning for _, own in pairs])
    if options.messages is not None:
        prompt, own = _prompt(_json(_read(options.messages), str(options.messages)), str(options.messages))
        if isinstance(prompt, str):
            raise ValueError(f"--messages {options.messages}: a list of messages was expected.")
        beginning = own if beginning is None else beginning
    else:
        prompt = _question(options.question)
    return Inputs([_with_system(prompt, options.system)], False, [beginning])


def _question(given: str | None) -> str:
    if given is None and (sys.stdin is None or sys.stdin.isatty()):
        raise ValueError("there is no question: give one, or a file by --input or --messages.")
    text = _read(Path("-")) if given in (None, "-") else given
    if not text.strip():
        raise ValueError("the question is empty: give one, or a file by --input or --messages.")
    return text.strip() if given in (None, "-") else text


def _text_or_file(given: str | None, option: str) -> str | None:
    if given is None or not given.startswith("@"):
        return given
    return _read(Path(given[1:]), option).removesuffix("\n")


def _read(file: Path, option: str = "") -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} {file}: it is no text in UTF-8: {error}.".strip()) from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}.") from error


def _is_json(text: str) -> bool:
    """Whether it is a JSON list, object or string."""
    try:
        return isinstance(json.loads(text), (list, Mapping, str))
    except json.JSONDecodeError:
        return False


def _entries(file: Path) -> Iterator[tuple[Any, str]]:
    """Each question of a file as JSON has it, and where it stands. Standard input is JSON if it, or its first line, is."""
    text = _read(file, "--input")
    kind = file.suffix.lower()
    if str(file) == "-":
        first = text.strip().partition("\n")[0]
        kind = ".json" if first.startswith("[") and _is_json(text) else ".jsonl" if _is_json(first) else ""
    if kind == ".json":
        entries = _json(text, f"--input {file}")
        if isinstance(entries, Mapping) and "problems" in entries:
            entries, _ = entries_of(entries, f"--input {file}")
        if not isinstance(entries, list):
            raise ValueError(f"--input {file}: a list of questions was expected, not {type(entries).__name__}.")
        yield from ((entry, f"--input {file}, entry {i}") for i, entry in enumerate(entries, 1))
        return
    for number, line in enumerate(text.splitlines(), 1):
        where = f"--input {file}, line {number}"
        if line.strip():
            yield (_json(line, where) if kind in (".jsonl", ".ndjson") else line.strip()), where


def _prompt(entry: Any, where: str) -> tuple[str | Messages, str | None]:
    """A question or chat, and what its paths begin with."""
    beginning = None
    if isinstance(entry, Mapping):
        beginning = entry.get("beginning")
        found = [entry[name] for name in (*QUESTION_FIELDS, "messages") if entry.get(name)]
        if not found:
            raise ValueError(f"{where}: none of {', '.join((*QUESTION_FIELDS, 'messages'))} is there.")
        entry = found[0]
    chat = isinstance(entry, list) and entry and all(isinstance(message, Mapping) for message in entry)
    if not (chat or (isinstance(entry, str) and entry.strip())) or not isinstance(beginning, str | None):
        raise ValueError(f"{where}: a text or a list of chat messages was expected.")
    return entry, beginning


def _with_system(prompt: str | Messages, system: str | None) -> str | Messages:
    if system is None:
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if messages[0].get("role") == "system":
        raise ValueError("--system: the chat has a system message already.")
    return [{"role": "system", "content": system}, *messages]
