"""``leapgen show``: a saved run in detail: what each path concluded, who told whom what, and what changed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from leapgen.answers import normalize_answer
from leapgen.record.files import save_bytes
from leapgen.record.run import BlockRecord, LeapOutput, PathOutput
from leapgen.terminal.options import Commands
from leapgen.terminal.pager import paged
from leapgen.terminal.report import answer_groups, brief, headline, one_line, overview, short, vote
from leapgen.terminal.screen import Screen
from leapgen.terminal.signals import Signals

KIND_STYLES = {"beginning": "dim", "own": "", "trigger": "dim", "summary": "yellow", "closing": "dim",
               "comment": "cyan", "forced": "dim", "answer": "bold green"}
SUMMARY = 300  # characters of a summary, unless it is to be shown whole


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("show", help="show a saved run", description="Shows a saved run, finished or not.",
                                 parents=[common])
    parser.add_argument("file", type=Path, metavar="FILE",
                        help="what run, demo or resume saved; of a folder of runs, the questions and their answers")
    parser.add_argument("--path", type=int, action="append", default=[], metavar="N",
                        help="only this path's whole text, counted from 0; repeatable")
    parser.add_argument("--block", type=int, action="append", default=[], metavar="N",
                        help="only this block, every summary whole, counted from 1; repeatable")
    parser.add_argument("--brief", action="store_true", help="only the short report that stands at the end of a run")
    parser.add_argument("--full", action="store_true", help="summaries whole, not only how they begin")
    parser.add_argument("--html", type=Path, metavar="PAGE",
                        help="write one self-contained HTML page of the run, to be opened in a browser; nothing is printed")
    parser.add_argument("--no-pager", action="store_true",
                        help="print it all at once; otherwise what is longer than the screen goes through $PAGER")
    parser.set_defaults(command=show)


def show(options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    if options.html:
        return show_html(options, screen)
    if options.file.is_dir():
        files = run_files(options.file)
        with paged(screen.out, not options.no_pager) as console:
            overview([LeapOutput.load(file) for file in files], files, console)
        return 0
    output = LeapOutput.load(options.file)
    check_paths(options.path, len(output.paths))
    check_blocks(options.block, len(output.blocks))
    with paged(screen.out, not options.no_pager) as console:
        if options.brief:
            brief(output, console)
        elif not options.path and not options.block:
            detail(output, console, full=options.full)
        for number in options.block:
            console.print(_block_panel(output.blocks[number - 1], full=True))
        print_paths(output, options.path, console)
    if not output.finished:
        screen.say("not finished; ", (f"leapgen resume {options.file}", "bold"), " goes on from here")
    return 0


def show_html(options: argparse.Namespace, screen: Screen) -> int:
    if options.file.is_dir():
        raise ValueError(f"--html makes a page of one run, and {options.file} is a folder. Name one of its files.")
    if options.path or options.block:
        raise ValueError("--html has every path and block in it. Leave out --path and --block, or --html.")
    save_bytes(LeapOutput.load(options.file).to_html().encode(), options.html)
    screen.say("written to ", (str(options.html), "bold"))
    return 0


def run_files(folder: Path) -> list[Path]:
    """The runs in a folder, in the order of their questions.

    Raises:
        ValueError: there are none.
    """
    files = sorted((file for file in folder.glob("*.json") if file.stem.isdecimal()), key=lambda file: int(file.stem))
    if not files:
        raise ValueError(f"{folder} holds no saved runs (0.json, 1.json, ...).")
    return files


def check_paths(paths: Iterable[int], n: int) -> None:
    """Raises:
        ValueError: there is no such path.
    """
    for path in paths:
        if not 0 <= path < n:
            raise ValueError(f"--path {path}: the run has paths 0 .. {n - 1}.")


def check_blocks(blocks: Iterable[int], held: int) -> None:
    """Raises:
        ValueError: there is no such block.
    """
    for block in blocks:
        if not 1 <= block <= held:
            raise ValueError(f"--block {block}: the run has {f'blocks 1 .. {held}' if held else 'no blocks'}.")


def print_paths(output: LeapOutput, paths: Iterable[int], console: Console) -> None:
    for index in paths:
        console.print(_path_panel(output.paths[index]))


def detail(output: LeapOutput, console: Console, *, full: bool = False) -> None:
    """Prints a run: its blocks, its paths' conclusions, the vote and the costs."""
    console.print(Panel(Text(output.question), title=headline(output), title_align="left"))
    for block in output.blocks:
        console.print(_block_panel(block, full))
    console.print(_conclusions(output))
    tally = ", ".join(f"{short(group[0].answer)} × {len(group)}" for group in answer_groups(output))
    console.print(vote(output).append(f"   ({tally or 'no path gave an answer'})", "dim"))
    console.print(_costs(output))


def _block_panel(block: BlockRecord, full: bool) -> Panel:
    table = Table(box=None, show_header=True, header_style="bold", pad_edge=False, expand=True)
    table.add_column("path", justify="right", width=4)
    table.add_column("summary it wrote", ratio=1, overflow="fold")
    table.add_column("read from (similarity)", width=24)
    for path in sorted({*block.summaries, *block.routes}):
        summary = block.summaries.get(path)
        said = (summary.text.strip() if full else one_line(summary.text, SUMMARY)) if summary else ""
        text = Text(said or "(nothing)", style="yellow")
        if summary and not summary.closed:
            text.append(" [cut short]", style="dim")
        read = ", ".join(f"{r.peer}" + (f" ({r.similarity:.2f})" if r.similarity is not None else "")
                         for r in block.routes.get(path, []))
        table.add_row(str(path), text, Text(read or "nobody", style="cyan"))
    return Panel(table, title=f"block {block.index + 1}", title_align="left")


def _conclusions(output: LeapOutput) -> Panel:
    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    table.add_column("path", justify="right", width=4)
    for block in output.blocks:
        table.add_column(f"at block {block.index + 1}", overflow="fold", ratio=2)
    table.add_column("answer", style="bold green", overflow="fold", ratio=2)
    table.add_column("ended by")
    table.add_column("what changed", overflow="fold", ratio=3)
    for path in output.paths:
        held = path.claims(len(output.blocks))
        table.add_row(str(path.index), *[Text(short(claim)) for claim in held[:-1]], Text(short(held[-1])),
                      path.finish_reason or "", Text(_changes(held)))
    return Panel(table, title="conclusions", title_align="left")


def _changes(held: list[str | None]) -> str:
    """Where what a path held is not what it had held before."""
    moves = []
    for block, (before, after) in enumerate(pairwise(held), 1):
        if after is not None and (before is None or normalize_answer(before) != normalize_answer(after)):
            moves.append(f"{'another' if before else 'an'} answer after block {block}")
    return "; ".join(moves)


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
