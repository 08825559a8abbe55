"""The page of a study: as a file, and in a real browser."""

import re

import pages
import pytest

from leapgen.evaluation.report import study_page, write_page
from leapgen.evaluation.study import Study
from leapgen.evaluation.table import summarize, write_report
from leapgen.terminal.cli import main

LEAP = "leap:router=random"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return pages.study(tmp_path_factory.mktemp("studies") / "study")


@pytest.fixture(scope="module")
def page(study):
    picture = study.folder / "gain.png"
    picture.write_bytes(bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000"
                                      "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"))
    values = {"Pass@1": {"mean": 81, "low": 80, "high": 82, "paper": 84.4}, "tokens": {}}
    figure = {"title": "The gain", "source": "Fig. 11", "picture": picture, "notes": ["A note."], "paper": "14B on AIME24",
              "columns": [{"name": "Pass@1", "unit": "%"}, {"name": "tokens", "unit": "tokens"}],
              "rows": [{"key": "8", "label": "8 good", "values": values}]}
    return write_page(study, write_report(study), [figure], runs=5)


def test_the_page_does_not_depend_on_who_did_the_units_and_when(study, tmp_path):
    """Would catch: seconds, hosts or an order of arrival in a report that is to be the same from one process or many."""
    pages.study(tmp_path / "study", seconds=99.0)
    slower = Study.open(tmp_path / "study")
    assert study_page(study, summarize(study)) == study_page(slower, summarize(slower))


def test_a_report_has_its_page_with_as_many_runs_as_asked_for(tmp_path, capsys):
    """Would catch: a page that is only written on request; one that grows with the study until no browser opens it."""
    study = pages.study(tmp_path / "study")
    for options, runs in (([], 11), (["--runs", "3"], 3), (["--runs", "0"], 0)):
        assert main(["eval", "--report", str(study.folder), *options]) == 0
        html = (study.folder / "report" / "index.html").read_text()
        assert len(re.findall('id="run-', html)) == runs and ("--runs N takes" in html) is (runs < 11)
    assert "index.html" in capsys.readouterr().err
    assert main(["eval", "--report", str(study.folder), "--runs", "-1"]) == 1 and "--runs -1" in capsys.readouterr().err


def test_arms_figures_and_problems_are_there(chromium, page):
    """Would catch: an arm, a number or a problem that is lost on the way; what was asked left unsaid."""
    chromium.open(page)
    assert chromium.text("h1") == "primes · tiny" and "11 of 12 units are done" in chromium.text(".warning")
    facts = chromium.run("""[...document.querySelectorAll(".facts div")]
        .map((one) => [...one.children].map((part) => part.textContent))""")
    assert {"task": "primes", "paths a group": "4", "groups": "2"}.items() <= dict(facts).items()
    assert chromium.texts(".arms tbody th") == ["independentmax_blocks 0explain False", f"{LEAP}router random"]
    assert [text[:5] for text in chromium.texts(".arms td.pass_at_1 .numbers")] == ["50.0 ", "50.0 "]
    assert chromium.texts(".arms td.gain") == ["–", "0.0 0.0 to 0.0"]
    assert chromium.texts(".arms td.spread_between_groups") == ["0.0", "0.0"]
    assert chromium.texts(".arms td.tokens .numbers") == ["43", "187"]
    assert chromium.run("document.querySelector('figure img').naturalWidth") == 1
    assert chromium.texts(".numbers-of tbody td") == ["81 [80, 82]", "84.4", "–"]
    assert chromium.texts(".problem .id") == ["p/0", "p/1", "p/2"]
    assert chromium.complaints() == [] and chromium.requests() == []


def test_dots_are_the_paths(chromium, page):
    """Would catch: a dot too many or too few, or of the wrong kind; the vote's mark on another group."""
    chromium.open(page)
    shown = chromium.run("""[...document.querySelectorAll(".unit")].map((unit) => {
        const count = (kind) => unit.querySelector(`.dots .${kind}`).getAttribute("d").split("M").length - 1;
        return [count("right"), count("wrong"), count("silent"), unit.querySelector(".mark").textContent]; })""")
    assert shown == [[2, 1, 1, "✓"]] * 11


def test_a_click_on_a_group_opens_its_paths_and_the_way_back(chromium, page):
    """Would catch: links to another run than they stand beside; a study that is gone after a look at a run."""
    chromium.open(page)
    assert len(chromium.texts("a.unit")) == 5 and "5 of 11 runs" in chromium.text("#left-out")
    chromium.click(".problem:nth-child(2) td:nth-of-type(2) a.unit")
    chromium.wait("document.querySelector('.grid')")
    assert chromium.run("location.hash") == "#p%2F1/leap%3Arouter%3Drandom/0/0"
    assert chromium.text("h1") == "How many primes are below 91?" and "✓ right" in chromium.text(".vote")
    chromium.run("document.querySelector('select[aria-label=arm]').value = 'independent', "
                 "document.querySelector('select[aria-label=arm]').dispatchEvent(new Event('change'))")
    chromium.wait("document.querySelector('main').textContent.includes('on their own')")
    assert chromium.text("h1") == "How many primes are below 91?"
    chromium.click("nav a")
    chromium.wait("document.querySelector('.arms')")
    assert chromium.complaints() == [] and chromium.requests() == []


def test_a_link_opens_a_problem_an_arm_a_group_and_a_path(chromium, page):
    """Would catch: an id with a slash in it that is taken for two; a run that is not in the page left unexplained."""
    chromium.open(page, "p%2F1/leap%3Arouter%3Drandom/0/3/1")
    chromium.wait("document.querySelector('.grid')")
    assert chromium.run("document.querySelector('[aria-selected]').getAttribute('aria-label')").startswith("Path 3, block 1")
    chromium.open(page, "p%2F2/leap%3Arouter%3Drandom/1")
    assert "is not in this page" in chromium.text("main")


def test_problems_can_be_ordered_and_filtered(chromium, page):
    """Would catch: an order by another arm's numbers; a filter that hides what it should show."""
    chromium.open(page)
    chromium.run("""(() => { const field = document.querySelector("[aria-label='Filter problems']");
        field.value = "below 92"; field.dispatchEvent(new Event("input")); })()""")
    assert chromium.texts(".problem .id") == ["p/2"]


def test_hostile_problems_and_settings_do_nothing(chromium, tmp_path):
    """Would catch: a problem file that runs a script in the page of whoever looks at its study."""
    problem = pages.Problem(pages.HOSTILE, pages.HOSTILE, pages.HOSTILE)
    study = Study.create(tmp_path / "study", pages.Task(pages.HOSTILE, [problem]), pages.arms(["leap"]),
                         pages.StudySettings(pages.HOSTILE, n=4))
    study.parts.append("worker", 0, study.keep(study.units[0], {}, pages.run(question=pages.HOSTILE)))
    chromium.open(write_page(study, write_report(study), [{"title": pages.HOSTILE}]))
    assert pages.HOSTILE in chromium.text(".problem")
    assert chromium.run("document.querySelector('main img, main script')") is None
    chromium.click("a.unit")
    chromium.wait("document.querySelector('.grid')")
    assert chromium.complaints() == [] and chromium.requests() == []
