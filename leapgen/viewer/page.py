"""The page's one file: styles, script and data in one, under a policy that lets nothing else run or load."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

FOLDER = Path(__file__).parent
STYLES = ("base.css", "run.css", "study.css")
SCRIPTS = ("base.js", "answers.js", "grid.js", "text.js", "run.js", "study.js", "main.js")


def page(title: str, data: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """The HTML of a page.

    Args:
        data: what ``study.js`` draws; ``data["runs"]`` says of each run where it belongs: ``[problem, arm, group]``. A page
            without ``"study"`` shows its only run.
        runs: what ``run_view`` makes; each is compressed, and inflated only when it is opened.

    Raises:
        ValueError: a number that JSON does not have (NaN, infinity).
    """
    style = "".join((FOLDER / name).read_text(encoding="utf-8") for name in STYLES)
    scripts = "".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{scripts}}})();\n'
    packed = "\n".join(f'<script type="text/plain" id="run-{i}">{packed_json(run)}</script>' for i, run in enumerate(runs))
    policy = (f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:; "
              "base-uri 'none'; form-action 'none'")
    return Template((FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title), policy=policy, style=style, script=script, data=plain_json(data), runs=packed)


def plain_json(data: Any) -> str:
    """JSON that ends no script element and no line of JavaScript: ASCII, without ``<``."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def packed_json(data: Any) -> str:
    """The same bytes for the same data, whenever they are made."""
    raw = json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode("ascii")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
