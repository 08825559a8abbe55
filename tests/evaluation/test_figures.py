"""Pictures of experiments: everything is labelled, nothing lies over anything, the paper's numbers are there."""

from __future__ import annotations

import random
import sys
from itertools import combinations

import pytest
from synthetic import everything, plan

from leapgen.evaluation.experiments import EXPERIMENTS, experiment
from leapgen.evaluation.experiments.output import result_of
from leapgen.evaluation.figures import STYLE, drawn, save_picture
from leapgen.evaluation.metrics import Estimate
from leapgen.evaluation.results import Column, Result, Row, Table

pytest.importorskip("matplotlib")


def result(name):
    chosen = experiment(name)
    options = {"beginnings": "both"} if name == "trap" else {}
    made = plan(chosen, models=["leap-t", "sft"], **options)
    rng = random.Random(name)
    return chosen, result_of(chosen, everything(chosen, made, lambda arm, problem, path: rng.random() < 0.6), made)


def picture(name):
    """The figure as it is saved, laid out."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    chosen, made = result(name)
    with rc_context(STYLE):
        figure = drawn(made, chosen.draw, chosen.size)
        FigureCanvasAgg(figure).draw()
    return made, figure


@pytest.fixture(scope="module", params=EXPERIMENTS)
def shown(request):
    return picture(request.param)


def test_axes_say_what_they_measure(shown):
    """Would catch: an axis without a name or unit."""
    _, figure = shown
    for axes in figure.axes:
        named = [axes.get_xlabel(), axes.get_ylabel()]
        assert any("%" in name or "tokens" in name or "points" in name or "moments" in name for name in named), named


def test_no_label_lies_over_another(shown):
    """Would catch: names of rows that run into each other, and of those at the edge that are cut off."""
    _, figure = shown
    canvas = figure.bbox
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            boxes = [label.get_window_extent() for place, label in ticks if label.get_text() and low <= place <= high]
            assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
            assert all(canvas.x0 - 1 <= box.x0 and box.x1 <= canvas.x1 + 1 for box in boxes)
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert canvas.x0 <= box.x0 and box.x1 <= canvas.x1 and box.y0 >= canvas.y0 - 1


def test_the_papers_numbers_are_drawn_and_named(shown):
    """Would catch: numbers of the paper in the table and not in the picture, or there without saying whose."""
    made, figure = shown
    known = [key for column in made.table.columns if column.unit in ("%", "points")
             for key in made.published.get(column.name, {}) if key in {row.key for row in made.table.rows}]
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert any("the paper" in text and made.whose in text for text in texts) == bool(known), (known, texts)


def test_means_and_intervals_stand_where_they_are():
    """Would catch: a fraction drawn as percent, an interval as its bounds."""
    table = Table((Column("Pass@1"),), [Row("1", "1", {"Pass@1": Estimate(0.5, 0.4, 0.7)}, 1.0),
                                        Row("2", "2", {"Pass@1": Estimate(0.6, 0.6, 0.6)}, 2.0)], (), "peers")
    made = Result("traffic", "Fig. 8", "title", table, {"Pass@1": {"2": 67.0}}, "R1-14B")
    (axes,) = drawn(made, experiment("traffic").draw, (6, 4)).axes
    line, *_ = [line for line in axes.lines if line.get_marker() == "o"]
    assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == [50, 60]
    (bars,) = axes.collections
    assert [[y for _, y in segment] for segment in bars.get_segments()] == [[pytest.approx(40), pytest.approx(70)], [60, 60]]
    (mark,) = [line for line in axes.lines if line.get_marker() == "D"]
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([2], [67])


def test_nothing_done_yet_makes_a_picture_too(tmp_path):
    """Would catch: a report of a study that has just begun failing in its picture."""
    for name, chosen in EXPERIMENTS.items():
        table = Table(chosen.summarize(everything(chosen, plan(chosen), groups=0), plan(chosen)).columns, [])
        save_picture(Result(name, "", "title", table), chosen.draw, chosen.size, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size


def test_without_matplotlib_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    chosen, made = result("traffic")
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        save_picture(made, chosen.draw, chosen.size, tmp_path / "a.png")
