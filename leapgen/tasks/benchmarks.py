"""Published benchmarks by name: from a file on the disk, else from the Hugging Face hub at a fixed revision."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from leapgen.tasks.base import Problem, Task
from leapgen.tasks.choices import choice_problem
from leapgen.tasks.problems import checked, is_heading, read_entries, read_problem

Row = Mapping[str, Any]
DATA = "LEAPGEN_DATA"  # the environment's name for a folder of files
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Hub:
    """A data set on the hub.

    Args:
        revision: a commit; None where none was verified: the newest one is taken, and noted in the task's ``source``.
        gated: one has to sign in and accept its terms.
    """

    id: str
    split: str
    config: str | None = None
    revision: str | None = None
    gated: bool = False


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark's rows are found and what they become.

    Args:
        files: stems of its files on the disk, the first found is taken.
        fields: what a row holds, in words for errors.
        problem: (row, where it stands, its number, seed) -> its problem; raises ValueError.
    """

    files: tuple[str, ...]
    fields: str
    problem: Callable[[Row, str, int, int], Problem]
    hub: Hub | None = None


def _mathematics(row: Row, where: str, number: int, seed: int) -> Problem:
    return read_problem({"id": row.get("unique_id", number), **row}, where, number, "math")


def _gpqa(row: Row, where: str, number: int, seed: int) -> Problem:
    """The hub's columns, or the published file's: a problem, its options by letter, and the right one's letter."""
    options = row.get("options")
    if isinstance(options, Mapping) and row.get("answer") in options:
        right = options[row["answer"]]
        wrong = [text for letter, text in options.items() if letter != row["answer"]]
    else:
        right, *wrong = [row.get(field) for field in ("correct answer", *(f"incorrect answer {i}" for i in (1, 2, 3)))]
    return _choice(row, ("question", "problem"), right, wrong, where, row.get("record id", number), seed)


def _zebralogic(row: Row, where: str, number: int, seed: int) -> Problem:
    """Of the hub's ``mc_mode``. Its fields are as public loaders of it have them; they were not checked against the hub."""
    right, choices = row.get("answer"), row.get("choices")
    if right == "___":
        raise ValueError(f"{where}: the answer is masked. allenai/ZebraLogicBench has none; WildEval/ZebraLogic has them.")
    if not isinstance(choices, Iterable) or isinstance(choices, str) or right not in list(choices):
        raise ValueError(f"{where}: no list in the field 'choices' that holds the field 'answer'.")
    question = "\n\n".join(str(row.get(field, "")).strip() for field in ("puzzle", "question"))
    return _choice({**row, "question": question}, ("question",), right, [text for text in choices if text != right], where,
                   row.get("id", number), seed)


def _choice(row: Row, fields: Iterable[str], right: Any, wrong: list[Any], where: str, id: Any, seed: int) -> Problem:
    question = next((row[field] for field in fields if row.get(field)), None)
    texts = [question, right, *wrong]
    if not all(isinstance(text, str) and text.strip() for text in texts) or len(wrong) < 1:
        raise ValueError(f"{where}: a question and the texts of its choices were expected.")
    question, right, *wrong = (text.strip() for text in texts)
    return choice_problem(str(id), question, right, wrong, seed)


MATHEMATICS = partial(Benchmark, fields="'problem' and 'answer', perhaps 'id'", problem=_mathematics)
# Revisions as public code pins them (more than one project each); none could be compared with the hub itself.
BENCHMARKS = {
    "aime24": MATHEMATICS(("aime24", "aime2024", "aime_2024", "aime"),
                          hub=Hub("HuggingFaceH4/aime_2024", "train", revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a")),
    "aime25": MATHEMATICS(("aime25", "aime2025", "aime_2025"),
                          hub=Hub("math-ai/aime25", "test", revision="563bb8404243c5f09de6ec262f2db674fe5bce9b")),
    "aimo25": MATHEMATICS(("aimo25", "aimo2025", "aimo_2025", "aimo")),
    "math500": MATHEMATICS(("math500", "math_500", "math-500"),
                           hub=Hub("HuggingFaceH4/MATH-500", "test", revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be")),
    "gpqa-diamond": Benchmark(
        ("gpqa-diamond", "gpqa_diamond", "gpqa"),
        "'Question', 'Correct Answer' and 'Incorrect Answer 1' to '3' (or 'problem', 'options' by letter and 'answer')",
        _gpqa,
        Hub("Idavidrein/gpqa", "train", "gpqa_diamond", "633f5ee89ab8ad4522a9f850766b73f62147ffdd", gated=True)),
    "zebralogic": Benchmark(("zebralogic", "zebra_logic"), "'puzzle', 'question', 'choices' and 'answer'", _zebralogic,
                            Hub("WildEval/ZebraLogic", "test", "mc_mode")),
}


def benchmark_task(name: str, seed: int, data: Path | None) -> Task:
    """A benchmark with all its problems: from a file in ``data`` or ``$LEAPGEN_DATA``, else from the hub.

    Raises:
        ValueError: a row is malformed; names it.
        FileNotFoundError: it is neither here nor to be had; says what to do.
    """
    benchmark = BENCHMARKS[name]
    file = _file(benchmark, data)
    if file is not None:
        rows, source = _rows(file), {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    else:
        rows, source = _downloaded(name, benchmark, data)
    problems: list[Problem] = []
    for row, where in rows:
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: an object with {benchmark.fields} was expected, not {type(row).__name__}.")
        if not is_heading(row):
            row = {key.lower(): value for key, value in row.items()}
            problems.append(benchmark.problem(row, where, len(problems), seed))
    return Task(name, checked(problems, str(file or name)), source)


def _file(benchmark: Benchmark, data: Path | None) -> Path | None:
    folder = data or (Path(os.environ[DATA]) if os.environ.get(DATA) else None)
    if folder is None:
        return None
    if not folder.is_dir():
        raise NotADirectoryError(f"{'data' if data else '$' + DATA}={str(folder)!r} is no folder.")
    files = (folder / (stem + suffix) for stem in benchmark.files for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def _rows(file: Path) -> Iterator[tuple[Any, str]]:
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as opened:
            yield from ((row, f"{file}, row {i}") for i, row in enumerate(csv.DictReader(opened), 1))
    elif file.suffix == ".parquet":
        from pyarrow import parquet

        yield from ((row, f"{file}, row {i}") for i, row in enumerate(parquet.read_table(file).to_pylist(), 1))
    else:
        yield from read_entries(file)


def _downloaded(name: str, benchmark: Benchmark, data: Path | None) -> tuple[Iterator[tuple[Any, str]], dict[str, Any]]:
    hub = benchmark.hub
    if hub is None:
        raise FileNotFoundError(f"{name} is not on the hub. {_where_to_put(benchmark, data)}")
    if find_spec("datasets") is None:
        raise FileNotFoundError(f"{name} is not here. To have it downloaded: pip install \"leapgen[eval]\". "
                                f"{_where_to_put(benchmark, data)}")
    from datasets import load_dataset
    from huggingface_hub import HfApi

    try:
        revision = hub.revision or HfApi().dataset_info(hub.id).sha
        rows = load_dataset(hub.id, hub.config, split=hub.split, revision=revision)
    except Exception as error:  # of a network, a hub, a cache and a format
        terms = (f"It is gated: accept its terms at https://huggingface.co/datasets/{hub.id}, and set HF_TOKEN to a token "
                 "of that account. ") if hub.gated else ""
        raise FileNotFoundError(f"{name} could not be loaded from the hub ({hub.id}): {' '.join(str(error).split())} {terms}"
                                f"{_where_to_put(benchmark, data)}") from error
    source = {"hub": hub.id, "config": hub.config, "split": hub.split, "revision": revision}
    return ((row, f"{hub.id}, row {i}") for i, row in enumerate(rows, 1)), source


def _where_to_put(benchmark: Benchmark, data: Path | None) -> str:
    folder = data or os.environ.get(DATA) or f"a folder that data= or ${DATA} names"
    return (f"A file will do: put {benchmark.files[0]}.jsonl (or {', '.join(SUFFIXES[1:])}) with the fields "
            f"{benchmark.fields} into {folder}.")
