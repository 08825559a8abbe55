"""What the documentation points at is there: pages, headings, files, modules, tests; and one version everywhere."""

import pkgutil
import re

import pytest
from doc_pages import PAGES, ROOT, prose

import leapgen

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


def slugs(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page):
    """Would catch: a page that was renamed, a heading that was reworded, a picture that moved."""
    for link in LINK.findall(prose(page)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_module_that_is_named_exists(page):
    """Would catch: a module that moved while the text stayed."""
    for code in CODE.findall(prose(page)):
        if re.fullmatch(r"(leapgen|kernels|tests|docs|examples|benchmarks)/[\w./-]*", code):
            assert (ROOT / code).exists(), code
        elif re.fullmatch(r"leapgen(\.\w+)+", code):
            pkgutil.resolve_name(code)


def test_every_test_that_is_named_exists():
    """Would catch: a promise whose test was renamed or has gone."""
    sources = "".join(file.read_text() for file in ROOT.glob("tests/**/test_*.py"))
    there = set(re.findall(r"^ *def (test_\w+)|^(Test\w+) = |^class (Test\w+)", sources, flags=re.MULTILINE))
    named = {code for page in PAGES for code in CODE.findall(prose(page)) if re.fullmatch(r"test_\w+|Test[A-Z]\w+", code)}
    assert len(named) > 50 and named <= {name for names in there for name in names if name}


def test_each_promise_names_tests():
    """Would catch: a promise that nothing holds."""
    section = prose(ROOT / "docs" / "architecture.md").split("## What always holds")[1].split("\n## ")[0]
    promises = re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]
    assert len(promises) == 8 and all(re.search(r"`test_\w+`", promise) for promise in promises)


def test_one_version_everywhere():
    """Would catch: a citation or a changelog of another version. (setup.py has its own test, with the command line's.)"""
    stated = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    newest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    assert stated == newest == leapgen.__version__


def test_the_front_page_is_short():
    """Would catch: a front page that grows back into a manual."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
