"""A run in less than a screen: the vote, who gave which answer, what changed at the blocks, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from leapgen.answers import normalize_answer
from leapgen.record.run import LeapOutput, PathOutput

ANSWERS = 4  # rows of the tally
STAGES = 5  # rows of what changed
QUESTION = 150  # characters


def brief(output: LeapOutput, console: Console) -> None:
    """Prints the short report of a run: at most 20 lines, whatever the number of paths and blocks."""
    console.print(Text(one_line(output.question, QUESTION), style="bold"))
    console.print(Text(headline(output), style="dim"))
    console.print(vote(output))
    if output.paths:
        console.print(_tally(output))
    if output.blocks:
        console.print(_stages(output))
    console.print(costs(output))


def overview(outputs: Sequence[LeapOutput], files: Sequence[Path], console: Console) -> None:
    """Prints a row for each question of a run of several."""
    table = _table("file", "majority", "votes", "question")
    table.columns[0].style, table.columns[1].style = "dim", "bold green"
    table.expand, table.columns[3].ratio = True, 1
    for output, file in zip(outputs, files, strict=True):
        votes = max(map(len, answer_groups(output)), default=0)
        table.add_row(file.name, Text(short(output.majority()) if output.finished else "not finished"),
                      f"{votes}/{len(output.voters)}", Text(one_line(output.question, 200)))
    console.print(table)


def headline(output: LeapOutput) -> str:
    ended = sum(path.state.get("stage") == "finished" for path in output.paths)
    state = "" if output.finished else f", not finished: {counted(ended, 'path')} ended"
    return (f"{counted(len(output.paths), 'path')}, {counted(len(output.blocks), 'block')}, seed {output.seed}"
            f"{', ' + output.model if output.model else ''}{state}")


def vote(output: LeapOutput) -> Text:
    return Text.assemble(("majority: ", "bold"), (short(output.majority()), "bold green"),
                         ("   shortest majority: ", "bold"), (short(output.shortest_majority()), "bold green"))


def costs(output: LeapOutput) -> Text:
    """What it cost in tokens and seconds."""
    ledger = output.ledger
    return Text(f"{ledger.decoded} tokens decoded, {ledger.prefilled} prefilled, {ledger.recomputed} recomputed, "
                f"{ledger.reused} reused by forks; {ledger.total_seconds:.1f} s", style="dim")


def answer_groups(output: LeapOutput) -> list[list[PathOutput]]:
    """The paths by their answer, as votes are counted; most votes first. Those without one are left out."""
    return sorted(output.answer_groups(), key=len, reverse=True)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def one_line(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def short(answer: str | None, limit: int = 32) -> str:
    return "–" if answer is None else one_line(answer, limit)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _tally(output: LeapOutput) -> Table:
    table = _table("votes", "answer", "paths")
    table.columns[0].justify, table.columns[1].style = "right", "green"
    groups = answer_groups(output)
    for group in groups[:ANSWERS]:
        table.add_row(str(len(group)), Text(short(group[0].answer, 40)), _ranges([path.index for path in group]))
    if len(groups) > ANSWERS:
        table.add_row(str(sum(map(len, groups[ANSWERS:]))), Text(f"{len(groups) - ANSWERS} more answers", "dim"), "")
    silent = [path.index for path in output.voters if path.answer is None]
    others = [path.index for path in output.paths if not path.votes]
    for paths, what in ((silent, "no answer"), (others, "for the others alone, no vote")):
        if paths:
            table.add_row(str(len(paths)), Text(what, "dim"), _ranges(paths))
    return table


def _stages(output: LeapOutput) -> Table:
    """How many paths held an answer at each block and at the end, and what that was for most."""
    held = [path.claims(len(output.blocks)) for path in output.paths]
    spelled = [[claim if claim is None else normalize_answer(claim) for claim in claims] for claims in held]
    table = _table("", "with an answer", "new", "changed", "most say")
    for column in table.columns[1:4]:
        column.justify = "right"
    stages = len(output.blocks) + 1
    skipped = range(2, stages - STAGES + 3) if stages > STAGES else range(0)
    for stage in range(stages):
        if stage in skipped:
            if stage == skipped[0]:
                table.add_row(f"... {len(skipped)} more")
            continue
        now = [claims[stage] for claims in spelled]
        before = [claims[stage - 1] if stage else None for claims in spelled]
        new = sum(b is None and a is not None for b, a in zip(before, now, strict=True))
        changed = sum(b is not None and a is not None and a != b for b, a in zip(before, now, strict=True))
        most = max((claim for claim in now if claim is not None), key=now.count, default=None)
        shown = next((claims[stage] for claims, same in zip(held, now, strict=True) if same == most), None)
        table.add_row("at the end" if stage == len(output.blocks) else f"at block {stage + 1}",
                      f"{sum(claim is not None for claim in now)} of {len(now)}", str(new) if stage else "",
                      str(changed) if stage else "",
                      Text(f"{short(shown, 24)} ({now.count(most)})" if most is not None else "–"))
    return table


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3, 7, 9-11``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
