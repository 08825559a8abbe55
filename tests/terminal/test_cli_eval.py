"""``leapgen eval`` on a tiny model: a study from the command line, its report, and how it ends."""

from __future__ import annotations

import json
import signal

import pytest
from cli_run import SMALL, at_step, send

from leapgen.evaluation.study import Study
from leapgen.terminal.cli import main
from leapgen.terminal.loading import local_device


@pytest.fixture
def problems(tmp_path):
    file = tmp_path / "problems.json"
    file.write_text(json.dumps([{"id": f"p{i}", "problem": f"{i} + {i}?", "answer": str(2 * i)} for i in range(3)]))
    return file


def evaluate(model_folder, problems, folder, *options):
    small = [word for word in SMALL if word != "--no-explain"]
    return main(["eval", "--problems", str(problems), "--model", str(model_folder), "--n", "2", "--output", str(folder),
                 "--no-explain", *small, *options])


def test_a_study_is_run_reported_and_reported_again(model_folder, problems, tmp_path, capsys):
    """Would catch: a report that differs from the one at the end, or a second start that does everything again."""
    assert evaluate(model_folder, problems, tmp_path / "s", "--arms", "leap,independent", "own", "--groups", "2") == 0
    printed = capsys.readouterr()
    assert "loading" in printed.err and "3 problems, 2 groups of 2 paths" in printed.out
    assert [line.split()[0] for line in printed.out.split("\n")[3:6]] == ["leap", "independent", "own"]
    assert (tmp_path / "s" / "report" / "report.txt").read_text() == printed.out
    report = (tmp_path / "s" / "report" / "report.json").read_bytes()
    assert main(["eval", "--report", str(tmp_path / "s")]) == 0
    assert evaluate(model_folder, problems, tmp_path / "s", "--arms", "leap,independent,own", "--groups", "2") == 0
    printed = capsys.readouterr()
    assert "loading" not in printed.err and (tmp_path / "s" / "report" / "report.json").read_bytes() == report
    times = json.loads((tmp_path / "s" / "report" / "seconds.json").read_text())
    assert times["leap"]["all"] > 0 and b"seconds" not in report


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_it_says_how_to_go_on_and_does(model_folder, problems, tmp_path, monkeypatch, capsys, number,
                                                           status):
    """Would catch: claims that lock the others out, another exit status than other commands', a report of a part as if
    it were the whole."""
    undo = at_step(monkeypatch, 150, send(number))
    assert evaluate(model_folder, problems, tmp_path / "s", "--at-once", "1") == status
    undo()
    error = capsys.readouterr().err
    assert f"stopped by {signal.Signals(number).name}" in error and "the same command goes on" in error
    study = Study.open(tmp_path / "s")
    assert 0 < len(study.missing()) < 6 and not list((tmp_path / "s" / "claims").iterdir())
    assert main(["eval", "--report", str(tmp_path / "s")]) == 0
    printed = capsys.readouterr()
    assert "NOT COMPLETE" in printed.out
    assert f"{len(study.missing())} of 6 units are missing" in " ".join(printed.err.split())
    assert evaluate(model_folder, problems, tmp_path / "s", "-q") == 0
    assert capsys.readouterr() == ("", "") and not study.missing()


@pytest.mark.parametrize(("options", "said"), [
    (["--arms", "laep"], "no arm 'laep' (did you mean leap"),
    (["--at-once", "0"], "--at-once 0 is not allowed: it must be at least 1"),
    (["--groups", "0"], "--groups 0 is not allowed"),
    (["--models", "student"], "--models student: KEY=NAME was expected"),
    (["--arms", "leap:model=student"], "needs a model 'student'"),
    (["--dtype", "float8"], "--dtype float8 is not allowed"),
])
def test_what_is_not_allowed_is_said_before_any_work(model_folder, problems, tmp_path, capsys, options, said):
    """Would catch: a model loaded for minutes before a misspelled arm is refused, or a folder left behind."""
    assert evaluate(model_folder, problems, tmp_path / "s", *options) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert said in error and "loading" not in error and not (tmp_path / "s").exists()


def test_what_is_missing_is_said(tmp_path, capsys):
    """Would catch: argparse's usage for somebody who only wanted a report, and a report of nothing without a word."""
    assert main(["eval", "--problems", "maze"]) == 1
    assert "--model and --output are missing" in capsys.readouterr().err
    assert main(["eval", "--report", str(tmp_path)]) == 1
    assert "holds no study" in " ".join(capsys.readouterr().err.split())


def test_a_unit_that_does_not_fit_is_named(model_folder, problems, tmp_path, capsys):
    """Would catch: a study that dies with a traceback, or goes on without one of its problems."""
    problems.write_text(json.dumps([{"problem": "long " * 3000, "answer": "1"}]))
    assert evaluate(model_folder, problems, tmp_path / "s") == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "arm leap, problem 0, group 0:" in error and "the same command goes on with the rest" in error


def test_cuda_is_this_process_s_device_under_torchrun(monkeypatch):
    """Would catch: eight processes of a machine on its first GPU."""
    assert local_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [local_device(name) for name in ("cuda", "cpu", "cuda:1", None)] == ["cuda:3", "cpu", "cuda:1", None]
