"""Training data for LeaP-T: a teacher runs LeaP over problems; responses are graded and filtered."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from leapgen.config import LeapConfig, plain_values
from leapgen.generator import LeapGenerator
from leapgen.protocol.text import decode
from leapgen.record.run import LeapOutput, PathOutput
from leapgen.tasks.base import Problem

Grade = Callable[[Problem, str | None], bool]
Graded = dict[str, list[dict[str, Any]]]  # responses, kept and dropped
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Synthesis:
    """What ``synthesize`` made: how many responses were kept, and how many were dropped, by reason."""

    kept: int
    dropped: Counter[str]

    def __str__(self) -> str:
        total = self.kept + sum(self.dropped.values())
        reasons = "".join(f", {count} {reason}" for reason, count in self.dropped.most_common())
        return f"{self.kept} of {total} responses kept{reasons}"


def synthesize(generator: LeapGenerator, problems: Sequence[Problem], file: str | os.PathLike[str], n: int = 32, *,
               leap: LeapConfig | bool = True, seed: int = 0, at_once: int = 1, grade: Grade = Problem.is_solved_by,
               progress: Callable[[int], None] | None = None, **options: Any) -> Synthesis:
    """Runs the teacher over the problems and writes the responses worth learning from as JSON Lines.

    A response is kept if its answer is right and every summary in it was closed within ``leap.summary_tokens`` (section 4).
    One line is one response: ``id``, ``path``, ``messages`` (the question and everything after the prompt), ``text``,
    ``token_ids``, ``provenance`` (kinds and lengths of the runs of ``token_ids``), ``answer``. The prompt is the plain one,
    which LeaP-T models get; what the teacher was told of the tags is left out. ``file`` with ``.dropped.jsonl`` in place of
    its suffix says why the others were dropped. Until all problems are done, they are kept in ``.partial.jsonl``: called
    again, it goes on there, and comes to the same file as without an interruption.

    Args:
        n: responses to each problem.
        leap: the protocol's settings, as for ``generate``; False makes data without peers.
        at_once: problems in flight together.
        grade: whether an answer solves a problem; a task's ``grade`` where it has its own.
        progress: called with the number of problems that are done.
        options: fields of LeapConfig and SamplingConfig, as for ``generate``.

    Raises:
        ValueError: the file to go on from was made with other settings; or no response is worth keeping.
    """
    file = Path(file)
    partial = file.with_suffix(".partial.jsonl")
    configs = generator.settings(leap, None, options)
    settings = {"settings": {"model": generator.model.config.name_or_path, "problems": [p.id for p in problems],
                             "graders": [p.grader for p in problems], "n": n, "seed": seed,
                             **plain_values(configs[0]), **plain_values(configs[1])}}
    done = _read_partial(partial, settings)
    with partial.open("a", encoding="utf-8") as out:
        if not done:
            out.truncate(0)
            _append(out, settings)
        missing = [problem for problem in problems if problem.id not in done]
        for i in range(0, len(missing), at_once):
            some = missing[i : i + at_once]
            outputs = generator.generate([problem.question for problem in some], n, leap=leap, seed=seed, **options)
            for problem, output in zip(some, outputs, strict=True):
                done[problem.id] = graded(problem, output, generator, grade)
                _append(out, {"id": problem.id, **done[problem.id]})
            if progress:
                progress(len(done))
    kept = [response for problem in problems for response in done[problem.id]["kept"]]
    dropped = [response for problem in problems for response in done[problem.id]["dropped"]]
    made = Synthesis(len(kept), Counter(response["reason"] for response in dropped))
    _write(file.with_suffix(".dropped.jsonl"), dropped)
    if not kept:
        raise ValueError(f"no response is worth keeping: {made}. See {file.with_suffix('.dropped.jsonl')}; easier problems, "
                         "a stronger teacher or a larger budget would help.")
    _write(file, kept)
    partial.unlink()
    return made


def graded(problem: Problem, output: LeapOutput, generator: LeapGenerator, grade: Grade) -> Graded:
    """The responses of one run, in ``kept`` as ``synthesize`` writes them, and in ``dropped`` with the reason."""
    kept, dropped = [], []
    for path in output.paths:
        reason = why_dropped(problem, path, output, grade)
        if reason:
            dropped.append({"id": problem.id, "path": path.index, "reason": reason, "answer": path.answer})
        else:
            kept.append(response(problem, path, generator))
    return {"kept": kept, "dropped": dropped}


def why_dropped(problem: Problem, path: PathOutput, output: LeapOutput, grade: Grade) -> str | None:
    """Section 4's rules; None if the response is worth keeping."""
    if path.answer is None:
        return "without an answer"
    if not grade(problem, path.answer):
        return "with a wrong answer"
    if not all(block.summaries[path.index].closed for block in output.blocks if path.index in block.summaries
               and any(s.kind == "summary" and s.block == block.index for s in path.segments)):
        return "with a summary that was too long"
    return None


def response(problem: Problem, path: PathOutput, generator: LeapGenerator) -> dict[str, Any]:
    """One line of the data: see ``synthesize``."""
    prompt = generator.prompt_token_ids(problem.question, LeapConfig.leap_t())
    shown = path.segments[0].token_ids
    start = generator.vocabulary.token(generator.vocabulary.thinking_markers()[0])
    # The plain prompt leaves it to the model to open its thinking.
    opening = [start] if start is not None and start in shown and start not in prompt else []
    runs = [("prompt", len(prompt)), *([("own", 1)] if opening else []),
            *((kind, len(list(run))) for kind, run in groupby(path.provenance[len(shown):]))]
    tokens = [*prompt, *opening, *path.token_ids[len(shown):]]
    return {"id": problem.id, "path": path.index, "answer": path.answer,
            "messages": [{"role": "user", "content": problem.question}, {"role": "assistant", "content": path.text}],
            "text": decode(generator.tokenizer, tokens), "token_ids": tokens, "provenance": runs}


def _append(out: TextIO, entry: dict[str, Any]) -> None:
    out.write(json.dumps(entry, ensure_ascii=False) + "\n")
    out.flush()
    os.fsync(out.fileno())


def _write(file: Path, entries: list[dict[str, Any]]) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    os.replace(temporary, file)


def _read_partial(file: Path, settings: dict[str, Any]) -> dict[str, Graded]:
    """What an interrupted run had done, by problem id. A last line that was cut off is dropped from the file."""
    if not file.exists():
        return {}
    lines = list(_whole_lines(file))
    if not lines:
        return {}
    if lines[0] != json.loads(json.dumps(settings)):
        before, now = lines[0].get("settings", {}), settings["settings"]
        names = [name for name in now if before.get(name) != json.loads(json.dumps(now[name]))]
        raise ValueError(f"{file} was begun with another {', '.join(names)}. Go on as it was begun, or delete it.")
    return {entry.pop("id"): entry for entry in lines[1:]}


def _whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    whole = 0
    with file.open("rb+") as opened:
        for line in opened:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except json.JSONDecodeError:
                entry = None
            if entry is None:
                log.warning("%s: a line was cut off; what it held is computed again.", file)
                break
            whole += len(line)
            yield entry
        opened.truncate(whole)
