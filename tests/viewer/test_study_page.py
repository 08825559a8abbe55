"""The page of a study: as a file, and in a real browser."""

import pages
import pytest

from leapgen.evaluation.report import study_page
from leapgen.evaluation.study import Study

LEAP = "leap:router=random"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return pages.study(tmp_path_factory.mktemp("studies") / "study")


@pytest.fixture(scope="module")
def page(study):
    file = study.folder / "index.html"
    picture = study.folder / "gain.png"
    picture.write_bytes(bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000"
                                      "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"))
    figure = {"title": "The gain", "source": "Fig. 11", "picture": picture, "notes": ["A note."], "paper": "14B on AIME24",
              "columns": [{"name": "Pass@1", "unit": "%"}, {"name": "tokens", "unit": "tokens"}],
              "rows": [{"key": "8", "label": "8 good", "values": {"Pass@1": {"mean": 81, "low": 80, "high": 82, "paper": 84.4},
                                                                  "tokens": {}}}]}
    file.write_text(study_page(study, pages.NUMBERS, [figure], runs=5), encoding="utf-8")
    return file


def test_the_page_does_not_depend_on_who_did_the_units_and_when(study, tmp_path):
    """Would catch: seconds, hosts or an order of arrival in a report that is to be the same from one process or many."""
    slower = pages.study(tmp_path / "study", seconds=99.0)
    opened = Study.open(tmp_path / "study")
    assert study_page(study, pages.NUMBERS) == study_page(slower, pages.NUMBERS) == study_page(opened, pages.NUMBERS)


def test_a_study_of_nothing_has_a_page(tmp_path):
    """Would catch: a report that fails until the first unit is done."""
    empty = Study.create(tmp_path / "study", pages.Task("primes", [pages.Problem("0", "How many?", "25")]), pages.arms(["leap"]),
                         pages.StudySettings("tiny"))
    assert "0 of 1 units are done" in study_page(empty, {})


def test_arms_figures_and_problems_are_there(chromium, page):
    """Would catch: an arm, a number or a problem that is lost on the way; what was asked left unsaid."""
    chromium.open(page)
    assert chromium.text("h1") == "primes · tiny" and "11 of 12 units are done" in chromium.text(".warning")
    assert {"task": "primes", "paths a group": "4", "groups": "2"}.items() <= dict(
        chromium.run("[...document.querySelectorAll('.facts div')].map((one) => [...one.children].map((part) => part.textContent))")
    ).items()
    assert chromium.texts(".arms tbody th") == ["independentmax_blocks 0explain False", f"{LEAP}router random"]
    assert [text.strip() for text in chromium.texts(".arms td.pass .numbers")] == ["40.0 30.0 to 50.0", "60.0 50.0 to 75.0"]
    assert chromium.texts(".arms td.gain") == ["–", "+20.0 +10.0 to +30.0"] and chromium.texts(".arms td.spread") == ["–", "2.0"]
    assert chromium.run("document.querySelector('figure img').naturalWidth") == 1
    assert chromium.texts(".numbers-of td") == ["81 [80, 82]", "84.4", "–"]
    assert chromium.texts(".problem .id") == ["p/0", "p/1", "p/2"]
    assert chromium.complaints() == [] and chromium.requests() == []


def test_dots_are_the_paths(chromium, page):
    """Would catch: a dot too many or too few, or of the wrong kind; the vote's mark on another group."""
    chromium.open(page)
    shown = chromium.run("""[...document.querySelectorAll(".unit")].map((unit) => [unit.querySelectorAll("circle.right").length,
        unit.querySelectorAll("circle.wrong").length, unit.querySelectorAll("line.silent").length, unit.querySelector(".mark").textContent])""")
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
    chromium.open(page, "p%2F2/leap%3Arouter%3Drandom/0/3/1")
    chromium.wait("document.querySelector('.grid')")
    assert chromium.run("document.querySelector('[aria-selected]').getAttribute('aria-label')").startswith("Path 3, block 1")
    chromium.open(page, "p%2F2/leap%3Arouter%3Drandom/1")
    assert "is not in this page" in chromium.text("main")


def test_problems_can_be_ordered_and_filtered(chromium, page):
    """Would catch: an order by another arm's numbers; a filter that hides what it should show."""
    chromium.open(page)
    chromium.run("""(() => { const field = document.querySelector(".problems").closest("section").querySelector("input[type=search]");
        field.value = "below 92"; field.dispatchEvent(new Event("input")); })()""")
    assert chromium.texts(".problem .id") == ["p/2"]


def test_hostile_problems_and_settings_do_nothing(chromium, tmp_path):
    """Would catch: a problem file that runs a script in the page of whoever looks at its study."""
    problem = pages.Problem(pages.HOSTILE, pages.HOSTILE, pages.HOSTILE)
    study = Study.create(tmp_path / "study", pages.Task(pages.HOSTILE, [problem]), pages.arms(["leap"]),
                         pages.StudySettings(pages.HOSTILE, n=4))
    study.parts.append("worker", 0, study.keep(study.units[0], {}, pages.run(question=pages.HOSTILE)))
    file = tmp_path / "index.html"
    file.write_text(study_page(study, {"leap": {}}, [{"title": pages.HOSTILE}]), encoding="utf-8")
    chromium.open(file)
    assert pages.HOSTILE in chromium.text(".problem") and chromium.run("document.querySelector('main img, main script')") is None
    chromium.click("a.unit")
    chromium.wait("document.querySelector('.grid')")
    assert chromium.complaints() == [] and chromium.requests() == []
