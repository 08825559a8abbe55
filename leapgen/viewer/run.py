"""What the page shows of one run: plain values, text by segment."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leapgen.answers import ExactGrader

Grouping = Callable[[Sequence[str]], list[list[int]]]
QUOTED = re.compile(r'Peer \d+: "([^"]*)"')  # a quoted message holds no double quote
BY_SCHEDULE = ("computed", "reused", "recomputed", "drafted", "accepted", "preemptions", "pages_copied", "pages_peak")


def run_view(saved: Mapping[str, Any], claims: Sequence[Sequence[str | None]], majority: str | None, *,
             groups: Grouping = ExactGrader().groups, right: Callable[[str], bool | None] = lambda answer: None,
             expected: str | None = None, reproducible: bool = False) -> dict[str, Any]:
    """What the page shows of a run.

    Args:
        saved: a run as ``LeapOutput.to_dict`` gives it.
        claims: of each path, the answer that it held at each block, and its last one.
        majority: the answer that won the vote.
        groups: places of answers that are one; by their spelling unless said otherwise.
        right: whether an answer is right; None where that is not known.
        expected: the right answer, to be shown.
        reproducible: seconds, and counts that depend on what else was computed beside the run, are left out.
    """
    votes = [path["votes"] for path in saved["paths"]]
    answers, number = _answers(claims, votes, groups)
    ledger = {name: value for name, value in saved["ledger"].items()
              if not (reproducible and (name == "seconds" or name in BY_SCHEDULE))}
    return {
        "question": saved["question"], "model": saved["model"], "finished": saved["finished"],
        "seed": str(saved["seed"]),  # a browser's numbers are exact up to 2**53
        "expected": expected, "majority": None if majority is None else number[majority],
        "answers": [{"text": text, "right": right(text)} for text in answers],
        "paths": [_path(path, held, number) for path, held in zip(saved["paths"], claims, strict=True)],
        "blocks": [_block(block) for block in saved["blocks"]],
        "ledger": ledger,
        "settings": {name: saved[name] for name in ("leap", "sampling", "made_with")},
    }


def _answers(claims: Sequence[Sequence[str | None]], votes: Sequence[bool],
             groups: Grouping) -> tuple[list[str], dict[str, int]]:
    """Answers that differ, those with most votes first, and the number of each spelling."""
    voted = [held[-1] for held, counts in zip(claims, votes, strict=True) if counts]
    spellings = list(dict.fromkeys(claim for claim in (*voted, *(claim for held in claims for claim in held)) if claim))
    same = [[spellings[place] for place in group] for group in groups(spellings)]
    same.sort(key=lambda group: -sum(claim in group for claim in voted))
    return [group[0] for group in same], {claim: i for i, group in enumerate(same) for claim in group}


def _path(path: Mapping[str, Any], held: Sequence[str | None], number: Mapping[str, int]) -> dict[str, Any]:
    tokens: dict[str, int] = defaultdict(int)
    for segment in path["segments"]:
        tokens[segment["kind"]] += len(segment["token_ids"])
    return {
        "ended": path["finish_reason"], "votes": path["votes"], "tokens": dict(tokens),
        "claims": [number[claim] if claim else None for claim in held],
        "segments": [_segment(segment) for segment in path["segments"] if segment["kind"] != "prompt"],
    }


def _segment(segment: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"kind": segment["kind"], "text": segment["text"], "tokens": len(segment["token_ids"])}
    if segment["block"] is not None:
        shown["block"] = segment["block"]
    if segment["sources"]:
        shown["sources"] = _sources(segment["text"], segment["sources"])
    return shown


def _sources(text: str, sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whose words a comment holds, and where in its text: in the quotes of each peer. Other forms have no place."""
    quoted = list(QUOTED.finditer(text))
    places = [match.span(1) for match in quoted] if len(quoted) == len(sources) else [None] * len(sources)
    return [{"sender": source["sender"], "block": source["block"], "place": place}
            for source, place in zip(sources, places, strict=True)]


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "said": {path: {"text": message["text"], "block": message["block"], "tokens": message["num_tokens"],
                        "closed": message["closed"]} for path, message in block["summaries"].items()},
        "routes": {path: [[route["peer"], _number(route["similarity"])] for route in routes]
                   for path, routes in block["routes"].items()},
    }


def _number(value: float | None) -> float | None:
    """JSON has no NaN; a similarity of the user's may be one."""
    return value if value is not None and math.isfinite(value) else None
