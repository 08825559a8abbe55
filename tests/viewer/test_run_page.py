"""The page of one run in a real browser."""

import time

import pages
import pytest

GRID = ".grid [role=row]:not(:first-child)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("pages") / "run.html"
    output = pages.run()
    output.seed = 2**62 + 1  # a study's seeds are as large
    file.write_text(output.to_html(), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def quiet(chromium):
    """Whatever a test does, the console stays empty and nothing is asked for."""
    yield
    assert chromium.complaints() == [] and chromium.requests() == []


def selected(chromium):
    return chromium.run("document.querySelector('[aria-selected]').getAttribute('aria-label')")


def test_every_path_and_block_has_its_cell(chromium, page):
    """Would catch: a column or a row that is missing; claims at the wrong place; a vote that was miscounted."""
    chromium.open(page)
    assert chromium.texts(".grid .head")[:4] == ["0", "1", "2", "3"] and len(chromium.texts(GRID)) == 3
    cells = chromium.texts(".cell b")
    assert cells == ["B", "A", "B", "A", "A", "B", "A", "B", "A", "–", "B", "A"]
    assert chromium.text(".vote strong") == "25" and "25 × 2" in chromium.text(".key").replace("A ", "")
    assert f"seed {2**62 + 1}, tiny" in chromium.text(".question")
    assert "How many primes" in chromium.text("h1") and selected(chromium).startswith("Path 0, end")


def test_a_click_on_a_route_shows_what_the_peer_said(chromium, page):
    """Would catch: lines that are drawn over and cannot be clicked, or lead to the reader instead."""
    chromium.open(page, "3/2")
    routes = chromium.run("[...document.querySelectorAll('.route.in')].map((one) => one.dataset.route)")
    assert sorted(routes) == ["0/0/3", "1/0/3"]
    middle = chromium.run("""(() => { const line = document.querySelector("[data-route='1/0/3'] .hit");
        const box = line.ownerSVGElement.getBoundingClientRect(), at = line.getPointAtLength(line.getTotalLength() / 2);
        const top = document.elementFromPoint(box.x + at.x, box.y + at.y);
        top.dispatchEvent(new MouseEvent("click", { bubbles: true })); return top.getAttribute("class"); })()""")
    assert middle == "hit" and selected(chromium).startswith("Path 1, block 1")
    assert chromium.text(".own-words") == "summary 1 of 1.  \\boxed{25}"
    assert chromium.run("location.hash") == "#1/1"


def test_a_peer_s_words_are_attributed_and_lead_to_their_sender(chromium, page):
    """Would catch: words of a peer that look like the path's own; a name that leads to somebody else."""
    chromium.open(page, "0/1")
    quoted = chromium.run("""[...document.querySelectorAll(".part.comment q")]
        .map((q) => [q.previousSibling.textContent, q.textContent])""")
    assert quoted[0] == ["path 1, block 1", "summary 1 of 1.  \\boxed{25}"] and len(quoted) == 4
    chromium.click(".part.comment .sender")
    assert selected(chromium).startswith("Path 1, block 1")


def test_a_link_opens_its_path_and_block(chromium, page):
    """Would catch: a link that is sent and opens something else; one to nowhere that breaks the page."""
    for address, expected in (("2/1", "Path 2, block 1"), ("3", "Path 3, end"), ("99/99", "Path 0, end"),
                              ("-1/x", "Path 0, end"), ("%E0%A4%A", "Path 0, end")):
        chromium.open(page, address)
        assert selected(chromium).startswith(expected)
    assert chromium.text("#path-name") == "Path 0"


def test_kinds_can_be_left_out(chromium, page):
    """Would catch: a filter that hides other words than it says."""
    chromium.open(page, "0")
    assert {"own", "summary", "comment", "answer"} <= set(
        chromium.run("[...document.querySelectorAll('.part')].map((part) => part.classList[1])"))
    chromium.click(".chip.comment")
    assert chromium.texts(".part.comment") == [] and len(chromium.texts(".part.summary")) == 2
    chromium.click(".chip.comment")
    assert len(chromium.texts(".part.comment")) == 2


def test_search_counts_in_all_paths_and_goes_through_them(chromium, page):
    """Would catch: places that are skipped, or found twice; a search that stays in one path."""
    chromium.open(page, "0")
    chromium.keys("/", "SUMMARY 2 of 1")
    assert chromium.texts(".found") == ["1", "1", "1"]  # its own, and paths 0 and 3, which read it
    assert chromium.text("output") == "3 in 3 paths, 1 here" and chromium.text("mark.current") == "summary 2 of 1"
    from selenium.webdriver.common.keys import Keys

    paths = []
    for _ in range(3):
        chromium.keys(Keys.ENTER)
        paths.append(chromium.text("#path-name"))
    assert paths == ["Path 1", "Path 3", "Path 0"]
    chromium.keys(Keys.ESCAPE)
    assert chromium.texts("mark") == [] and chromium.texts(".found") == []


def test_keys_go_through_the_grid(chromium, page):
    """Would catch: a grid that only a mouse can use."""
    from selenium.webdriver.common.keys import Keys

    chromium.open(page, "0")
    chromium.keys("g", Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.END)
    assert selected(chromium).startswith("Path 3, block 2")
    assert chromium.run("document.activeElement.getAttribute('aria-label')") == selected(chromium)
    chromium.keys("[")
    assert chromium.text("#path-name") == "Path 2"
    chromium.keys("r")
    assert len(chromium.run("[...document.querySelectorAll('.route')]")) == 16


def test_hostile_text_is_shown_and_does_nothing(chromium, tmp_path):
    """Would catch: a summary, a question or an answer that becomes markup."""
    output = pages.run(say=pages.HOSTILE, question=pages.HOSTILE)
    output.paths[0].answer = pages.HOSTILE
    file = tmp_path / "hostile.html"
    file.write_text(output.to_html(), encoding="utf-8")
    chromium.open(file, "0/2")
    assert pages.HOSTILE in chromium.text(".own-words")
    assert chromium.run("document.querySelector('main img, main script')") is None
    assert pages.HOSTILE in chromium.text(".text") and chromium.text("h1") == pages.HOSTILE


def test_markup_that_got_in_all_the_same_would_not_run(chromium, page):
    """Would catch: a policy that lets inline scripts, handlers or requests through."""
    chromium.open(page)
    chromium.run("""(() => { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.ran = 1'>"
        + "<svg onload='window.ran = 1'></svg><a href='javascript:window.ran = 1'>x</a>");
        const script = document.createElement("script"); script.textContent = "window.ran = 1"; document.body.append(script);
        document.querySelector("a[href^=javascript]").click(); })()""")
    time.sleep(0.2)
    assert chromium.run("window.ran") is None
    assert len(chromium.complaints()) >= 3  # each was refused, and that is what the console says
    chromium.requests()


def test_dark_differs_from_light_and_a_switch_overrides_the_system(chromium, page):
    """Would catch: dark text on a dark page; a switch without effect."""
    def colours():
        return chromium.run("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")

    chromium.emulate(prefers_color_scheme="light")
    chromium.open(page)
    light = colours()
    chromium.emulate(prefers_color_scheme="dark")
    dark = colours()
    assert light[0] != dark[0] and light[1] != dark[1]
    chromium.click("#theme")
    assert colours() == light and "light" in chromium.text("#theme")
    chromium.click("#theme")
    chromium.emulate(prefers_color_scheme="light")
    assert colours() == dark
    chromium.click("#theme")
    assert colours() == light and "system" in chromium.text("#theme")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(chromium, page, scheme):
    """Would catch: text with less contrast than WCAG's AA asks for."""
    chromium.emulate(prefers_color_scheme=scheme)
    chromium.open(page, "0/2")
    chromium.keys("r")
    found = chromium.run("""(() => {
        const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        const mixed = (colours) => { canvas.clearRect(0, 0, 1, 1);
          for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
          .reduce((total, c, i) => total + c * [0.2126, 0.7152, 0.0722][i], 0);
        const weak = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
          const element = walker.currentNode.parentElement;
          if (!walker.currentNode.data.trim() || element.closest("script, style, noscript, svg, [aria-hidden]")
            || !element.checkVisibility()) continue;
          const behind = [];
          for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
          const back = mixed(["white", ...behind]), front = mixed([`rgb(${back})`, getComputedStyle(element).color]);
          const [a, b] = [light(back), light(front)].sort((x, y) => y - x);
          if ((a + 0.05) / (b + 0.05) < 4.5) weak.push([element.className, walker.currentNode.data.slice(0, 30)]);
        }
        return weak; })()""")
    chromium.emulate(prefers_color_scheme="light")
    assert found == []


def test_everything_that_can_be_used_has_a_name(chromium, page):
    """Would catch: a button or field that a screen reader cannot say; an id that stands twice."""
    chromium.open(page)
    assert chromium.run("""[...document.querySelectorAll("button, input, select, a, [role=img], [role=gridcell][tabindex]")]
        .filter((one) => !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length)).length""") == 0
    ids = chromium.run("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))


def test_a_narrow_screen_is_wide_enough(chromium, page):
    """Would catch: a page that has to be moved sideways on a telephone."""
    chromium.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    chromium.open(page, "1/1")
    width = chromium.run("document.documentElement.scrollWidth")
    chromium.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 400


def test_a_run_as_large_as_the_paper_s_opens_within_two_seconds(chromium, page, tmp_path):
    """Would catch: work at opening for every token, or for every path instead of the one that is read."""
    file = tmp_path / "large.html"
    file.write_text(pages.run(n=32, blocks=3, tokens=4096).to_html(), encoding="utf-8")
    chromium.open(page)  # the browser's own start is not counted
    started = time.monotonic()
    chromium.open(file)
    chromium.wait("document.querySelectorAll('.part').length > 5")
    assert time.monotonic() - started < 2
    for act in ("location.hash = '#31/2'", "document.querySelector('.chip.own').click()",
                "(() => { const field = document.querySelector('#search'); field.value = 'odd';"
                " field.dispatchEvent(new Event('input')); })()"):
        assert chromium.run(f"""(() => {{ const began = performance.now(); {act};
            document.body.offsetHeight; return performance.now() - began; }})()""") < 1000
    assert len(chromium.texts(".grid .head")) == 33
