"""``study.json``: what a study is, so that nobody adds to it what belongs to another."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from leapgen.config import LeapConfig, config_from, plain_values
from leapgen.evaluation.design import Arm, depths
from leapgen.evaluation.settings import StudySettings
from leapgen.protocol.prompts import PromptSet
from leapgen.tasks.base import Problem, Task

FILE = "study.json"
FORMAT = 1
SHOWN = 20  # differences
COMPARED = ("id", "question", "answer", "grader")  # of a problem; details are the task's own


def defined(task: Task, arms: Sequence[Arm], settings: StudySettings) -> dict[str, Any]:
    """What decides about a study's numbers, as JSON values.

    Raises:
        ValueError: no problem or no arm; two of them of one name; an arm whose model or earlier arm is not there.
    """
    for what, names in (("problem", [problem.id for problem in task.problems]), ("arm", [arm.name for arm in arms])):
        if not names:
            raise ValueError(f"a study needs {what}s, and there is none.")
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            raise ValueError(f"two {what}s of the study are called {twice[0]!r}.")
    depths(arms)
    for arm in arms:
        settings.leap.replace(**arm.leap)
        if arm.model and arm.model not in settings.models:
            raise ValueError(f"arm {arm.name} needs a model {arm.model!r}; the study has "
                             f"{', '.join(settings.models) or 'no'} further models.")
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    plain: dict[str, Any] = _plain({
        "leapgen": FORMAT, "task": task.name, "source": task.source, **values, "leap": plain_values(settings.leap),
        "prompts": plain_values(settings.prompts),
        "arms": {arm.name: {"leap": arm.leap, "sampling": arm.sampling, "protocol": arm.protocol, "model": arm.model,
                            "n": arm.n, "after": arm.after} for arm in arms},
        "problems": [{name: getattr(problem, name) for name in COMPARED}
                     for problem in task.problems]})
    return plain


def join(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Makes the folder the study's, or finds that it is.

    Raises:
        ValueError: it is another's; both are shown. OSError: it cannot be made.
    """
    file = folder / FILE
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a study needs a folder.")
    others = folder.is_dir() and any(not entry.name.startswith(f".{FILE}") for entry in folder.iterdir())
    if others and not file.exists():  # asked last: who begins a study puts its file there first
        raise ValueError(f"{folder} is a folder with something else in it. Choose another one for the study.")
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        _put(json.dumps(wanted, indent=1, ensure_ascii=False).encode(), file)
    other = [f"  {name}: {_shown(before)} there, {_shown(now)} asked for"
             for name, before, now in _differences(_read(folder), wanted)]
    if other:
        more = [f"  and {len(other) - SHOWN} others"] if len(other) > SHOWN else []
        raise ValueError("\n".join([f"{folder} holds a study of other settings:", *other[:SHOWN], *more,
                                    "Go on as it was begun, or choose another folder."]))


def read(folder: Path) -> tuple[Task, list[Arm], StudySettings]:
    """What a folder's study is, as far as a file holds it.

    Raises:
        ValueError: there is none; or one of a later version.
    """
    if not (folder / FILE).is_file():
        raise ValueError(f"{folder} holds no study: there is no {FILE} in it.")
    data = _read(folder)
    if data.get("leapgen") != FORMAT:
        raise ValueError(f"{folder / FILE} has format {data.get('leapgen')}, this version reads format {FORMAT}.")
    arms = [Arm(name, fields["leap"], fields["sampling"], model=fields["model"], n=fields["n"], after=tuple(fields["after"]))
            for name, fields in data["arms"].items()]
    known = {field.name for field in dataclasses.fields(StudySettings)}
    values = {name: value for name, value in data.items() if name in known}
    leap = {name: value for name, value in data["leap"].items() if not isinstance(value, dict)}  # callables are lost
    settings = StudySettings(**{**values, "leap": config_from(LeapConfig, leap, "leap"),
                                "prompts": PromptSet(**data["prompts"])})
    task = Task(data["task"], [Problem(**fields) for fields in data["problems"]], data.get("source", {}))
    return task, arms, settings


def _read(folder: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / FILE} is not a study's file: {error}") from error
    return data


def _put(data: bytes, file: Path) -> None:
    """Writes a file that nobody sees before it is whole; where several do at once, the first one's stays."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(temporary, file)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _plain(value: Any) -> Any:
    """The value as JSON would give it back; of a callable its name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if callable(value):
        function = getattr(value, "func", value)  # of a partial
        return getattr(function, "__qualname__", type(function).__name__)
    return value


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Names of values that differ, and both. Lists differ as a whole, but for as many problems."""
    if isinstance(before, Mapping) and isinstance(now, Mapping) and (before or now):
        for key in {**before, **now}:
            yield from _differences(before.get(key, ...), now.get(key, ...), f"{name}.{key}".lstrip("."))
        if not name and (one := [*before.get("arms", ())]) != (other := [*now.get("arms", ())]) and {*one} == {*other}:
            yield "order of arms", one, other
    elif before != now:
        if name == "problems" and len(before) == len(now):
            for place, pair in enumerate(zip(before, now, strict=True)):
                yield from _differences(*pair, f"{name}[{place}]")
        else:
            yield name, before, now


def _shown(value: Any) -> str:
    if value is ...:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= 200:
        return text
    return f"{len(value)} of them" if isinstance(value, list) else f"{text[:197]}..."
