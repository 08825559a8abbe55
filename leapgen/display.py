"""Runs for people: what each path concluded, who told whom what and what changed, in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from leapgen.answers import extract_answer, normalize_answer
from leapgen.events import BlockEvent, FinishEvent, TokenEvent
from leapgen.output import LeapOutput, PathOutput

KIND_STYLES = {"beginning": "dim", "own": "", "trigger": "dim", "summary": "yellow", "comment": "cyan", "forced": "dim",
               "answer": "bold green"}


def claims(path: PathOutput, num_blocks: int) -> list[str | None]:
    """What the path held to be the answer at each block (in its words and summary up to there), and at the end."""
    stated: list[str | None] = []
    for block in range(num_blocks):
        before: list[str] = []
        for segment in path.segments:
            if segment.kind == "comment" and segment.block is not None and segment.block >= block:
                break
            if segment.kind in ("beginning", "own", "answer", "summary"):
                before.append(segment.text)
        stated.append(extract_answer("".join(before)))
    return [*stated, path.answer]


def show(output: LeapOutput, console: Console | None = None, *, paths: Iterable[int] | None = None) -> None:
    """Prints a run: its blocks, its paths' conclusions and the vote; for ``paths``, also their whole text."""
    console = console or Console()
    console.print(Panel(Text(output.question), title=f"{len(output.paths)} paths, {len(output.blocks)} blocks, "
                        f"seed {output.seed}", title_align="left"))
    for block in output.blocks:
        console.print(_block_panel(output, block.index))
    console.print(_conclusions(output))
    console.print(_votes(output))
    console.print(_costs(output))
    for index in paths or ():
        console.print(_path_panel(output.paths[index]))


def _block_panel(output: LeapOutput, index: int) -> Panel:
    block = output.blocks[index]
    table = Table(box=None, show_header=True, header_style="bold", pad_edge=False, expand=True)
    table.add_column("path", justify="right", width=4)
    table.add_column("summary it wrote", ratio=1, overflow="fold")
    table.add_column("read from (similarity)", width=24)
    for path in sorted({*block.summaries, *block.routes}):
        summary = block.summaries.get(path)
        text = Text(_one_line(summary.text) if summary and summary.text else "(nothing)", style="yellow")
        if summary and not summary.closed:
            text.append(" [cut short]", style="dim")
        read = ", ".join(f"{r.peer}" + (f" ({r.similarity:.2f})" if r.similarity is not None else "")
                         for r in block.routes.get(path, []))
        table.add_row(str(path), text, Text(read or "nobody", style="cyan"))
    return Panel(table, title=f"block {index + 1}", title_align="left")


def _conclusions(output: LeapOutput) -> Panel:
    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    table.add_column("path", justify="right", width=4)
    for block in output.blocks:
        table.add_column(f"at block {block.index + 1}", overflow="fold", ratio=2)
    table.add_column("answer", style="bold green", overflow="fold", ratio=2)
    table.add_column("ended by")
    table.add_column("what changed", overflow="fold", ratio=3)
    for path in output.paths:
        held = claims(path, len(output.blocks))
        table.add_row(str(path.index), *[Text(_short(claim)) for claim in held[:-1]], Text(_short(held[-1])),
                      path.finish_reason or "", Text(_change(output, path, held)))
    return Panel(table, title="conclusions", title_align="left")


def _change(output: LeapOutput, path: PathOutput, held: list[str | None]) -> str:
    """The moves between what a path held before and after each block, and whose summaries spoke for the new answer."""
    moves = []
    for block, (before, after) in zip(output.blocks, pairwise(held), strict=True):
        if after is None or (before is not None and normalize_answer(before) == normalize_answer(after)):
            continue
        sources = [str(route.peer) for route in block.routes.get(path.index, [])
                   if re.search(rf"(?<!\w){re.escape(after.strip())}(?!\w)", block.summaries[route.peer].text)]
        move = f"{'another' if before else 'an'} answer after block {block.index + 1}"
        moves.append(move + (f", as path {' and '.join(sources)} had told it" if sources else ""))
    return "; ".join(moves)


def _votes(output: LeapOutput) -> Text:
    counts: dict[str, int] = {}
    for path in output.paths:
        if path.answer is not None:
            counts[path.answer] = counts.get(path.answer, 0) + 1
    tally = ", ".join(f"{_short(answer)} × {count}" for answer, count in sorted(counts.items(), key=lambda i: -i[1]))
    return Text.assemble(("majority: ", "bold"), (_short(output.majority()), "bold green"),
                         ("   shortest majority: ", "bold"), (_short(output.shortest_majority()), "bold green"),
                         (f"   ({tally or 'no path gave an answer'})", "dim"))


def _costs(output: LeapOutput) -> Text:
    ledger, kinds = output.ledger, output.tokens_by_kind()
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in ledger.seconds.items())
    return Text(f"{ledger.decoded} tokens decoded, {ledger.prefilled} prefilled ({ledger.prompt} of them the prompt, once), "
                f"{ledger.recomputed} recomputed, {ledger.reused} reused by forks; "
                f"own {kinds['own']}, summary {kinds['summary']}, comment {kinds['comment']}, answer {kinds['answer']}; "
                f"{ledger.total_seconds:.1f} s ({phases})", style="dim")


def _path_panel(path: PathOutput) -> Panel:
    text = Text()
    for segment in path.segments:
        if segment.kind != "prompt":
            text.append(segment.text, style=KIND_STYLES[segment.kind])
    legend = Text.assemble(*[part for kind, style in KIND_STYLES.items() for part in ((kind, style), " ")])
    return Panel(Group(text, Text(), legend), title=f"path {path.index}", title_align="left")


def _one_line(text: str, limit: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _short(answer: str | None, limit: int = 32) -> str:
    return "–" if answer is None else _one_line(answer, limit)


class RunProgress:
    """A progress bar fed with a run's events."""

    def __init__(self, console: Console, total_paths: int, tokens_each: int) -> None:
        self._progress = Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                                  TextColumn("own tokens"), TimeElapsedColumn(), console=console, transient=True)
        self._task = self._progress.add_task("reasoning", total=total_paths * tokens_each)
        self._own: dict[tuple[int, int], int] = {}
        self._each, self._blocks, self._paths, self._ended = tokens_each, 0, total_paths, 0

    @contextmanager
    def running(self) -> Iterator[RunProgress]:
        with self._progress:
            yield self

    def update(self, event: object) -> None:
        if isinstance(event, TokenEvent):
            path = (event.question, event.path)
            if event.kind == "own":
                self._own[path] = self._own.get(path, 0) + 1
                self._progress.update(self._task, advance=1)
            phase = {"own": "reasoning", "summary": "summarizing", "answer": "answering"}[event.kind]
            self._progress.update(self._task, description=f"{phase}, {self._blocks} blocks held, "
                                  f"{self._ended}/{self._paths} paths ended")
        elif isinstance(event, BlockEvent):
            self._blocks += 1
        elif isinstance(event, FinishEvent):
            self._ended += 1
            own = self._own.get((event.question, event.path.index), 0)
            self._progress.update(self._task, advance=self._each - own)
