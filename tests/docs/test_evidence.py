"""The tables of evidence say what the studies' reports say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "evidence"))

import tables  # noqa: E402


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_a_page_says_what_the_reports_say(page):
    """Would catch: a figure typed by hand, or one that a newer study has made false."""
    text = page.read_text("utf-8")
    assert tables.BLOCK.search(text), "the page has no table that is generated"
    assert tables.written(text) == text, "run: python examples/evidence/tables.py"


def test_a_changed_number_changes_the_page(tmp_path, monkeypatch):
    """Would catch: a block that the pattern does not find, and that so agrees with everything."""
    for file in tables.RESULTS.glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text("utf-8").replace("\"mean\": 0.", "\"mean\": 0.1"), "utf-8")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for page in tables.PAGES:
        assert tables.written(page.read_text("utf-8")) != page.read_text("utf-8")
