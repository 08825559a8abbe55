"""Writes the tables of README and docs/evidence.md from the reports of studies: ``python examples/evidence/tables.py``.

A table stands between ``<!-- table NAME -->`` and ``<!-- end of table -->``. Its numbers are those of
``results/NAME.json``, which is the ``report/report.json`` of a study. ``--check`` writes nothing, and fails where a page
does not say what the numbers say.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapgen.evaluation.metrics import Estimate

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "evidence.md")
BLOCK = re.compile(r"(?<=<!-- table )([\w-]+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
WORDS = {
    "independent": "on their own",
    "official": "LeaP as the published code runs it",
    "leap:finished_share=no": "LeaP as in the paper, leapgen's default",
    "leap": "LeaP, and paths that are done go on sharing",
    "broadcast": "every path told any answer that was found",
    "own": "each path's own summary handed back",
    "strangers": "summaries from other problems",
    "scrambled": "peers' summaries, what carries meaning exchanged",
}


def words(arm: str) -> str:
    """What a reader calls an arm."""
    if arm.startswith("equal:"):
        return f"on their own, as many tokens as \"{WORDS[arm.removeprefix('equal:')]}\""
    return WORDS[arm]


def table(report: Mapping[str, Any]) -> str:
    """A report's arms as rows of Markdown: accuracy, vote, cost, and what is left at equal cost.

    Raises:
        ValueError: units are missing.
    """
    units, settings = report["units"], report["settings"]
    if units["done"] < units["all"]:
        raise ValueError(f"{units['done']} of {units['all']} units are done")
    counter, n = settings["count_with"], settings["n"]
    head = ["", "Pass@1", f"Cons@{n}", "tokens a path", *([f"in {counter}'s tokens"] if counter else []), "at equal tokens"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, arm in report["arms"].items():
        gain = (arm.get("gain_at_equal_tokens") or {}).get("pass_at_1")
        cells = [words(name), Estimate(**arm["pass_at_1"]).percent(), f"{100 * arm['cons_at_n']['mean']:.1f}",
                 f"{arm['tokens']['all']:.0f}", *([f"{arm['tokens_counted']['all']:.0f}"] if counter else []),
                 Estimate(**gain).percent("+") if gain else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with every table made again."""
    def made(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}\n{table(json.loads((RESULTS / f'{found[1]}.json').read_text('utf-8')))}\n\n"

    return BLOCK.sub(made, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page says something else")
    check = parser.parse_args().check
    stale = [page for page in PAGES if written(page.read_text("utf-8")) != page.read_text("utf-8")]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'is not what the numbers say' if check else 'written'}")
        if not check:
            page.write_text(written(page.read_text("utf-8")), "utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
