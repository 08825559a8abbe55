"""``leapgen experiment``: figures of the paper from an empty folder, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from leapgen.evaluation.experiments import EXPERIMENTS
from leapgen.evaluation.paper import ENTRIES
from leapgen.terminal.cli import build_parser, main

MAZES = ["--model", "maze", "--problems", "maze"]
TINY = ["--problems-limit", "2", "--n", "3", "--groups", "1"]
MORE = {"trap": ["--answers", "2", "--max-new-tokens", "96", "--interval", "32"], "tolerance": ["--values", "0", "1"],
        "traffic": ["--values", "1", "2"],
        "granularity": ["--values", "48", "72"], "position": ["--values", "48"], "temperature": ["--values", "1"],
        "scaling": ["--values", "2", "3"], "moa": ["--layers", "2", "--agents", "2"]}
IN_THE_SUITE = ("trap", "types", "traffic")
EVERY = "LEAPGEN_EXPERIMENTS"  # set it to run all of them


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", [name if name in IN_THE_SUITE else pytest.param(name, marks=pytest.mark.skipif(
    not os.environ.get(EVERY), reason=f"minutes; {EVERY}=1 runs it")) for name in EXPERIMENTS])
def test_an_experiment_runs_from_an_empty_folder_and_goes_on(name, tmp_path, capsys):
    """Would catch: an experiment that needs what nothing makes; a second start that does everything again, or says else."""
    command = ["experiment", name, *MAZES, *TINY, *MORE.get(name, [])]
    assert main(command) == 0
    printed = capsys.readouterr()
    report = tmp_path / "experiments" / name / "report"
    numbers = (report / f"{name}.json").read_bytes()
    found = json.loads(numbers)
    assert found["title"] in printed.out and found["experiment"] == name and found["settings"]["model"] == "maze"
    assert found["units"]["done"] == found["units"]["all"] and "seconds" not in found
    assert found["title"] in (report / "index.html").read_text(encoding="utf-8")
    if (report / f"{name}.png").exists():
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "loading" not in printed.err and (report / f"{name}.json").read_bytes() == numbers


def test_a_real_run_fills_its_table(capsys):
    """Would catch: columns that stay empty on real records."""
    assert main(["experiment", "traffic", *MAZES, *TINY, "--values", "1"]) == 0
    found = json.loads(Path("experiments/traffic/report/traffic.json").read_text(encoding="utf-8"))
    assert [row["key"] for row in found["rows"]] == ["independent", "1"]
    assert all(value["low"] <= value["mean"] <= value["high"] for row in found["rows"] for value in row["values"].values())
    assert found["rows"][1]["values"]["Pass@1"]["paper"] == 67.4
    assert "67.4" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["trafic", *MAZES], "did you mean traffic"),
    (["traffic", *MAZES, "--good"], "experiment traffic has no --beginnings; it has --values"),
    (["votes", *MAZES, "--values", "1"], "it has no options of its own"),
    (["trap", *MAZES, "--fraction", "1.5"], "--fraction 1.5 is not allowed"),
    (["trap", *MAZES, "--answers", "0"], "--answers 0 is not allowed"),
    (["traffic", *MAZES, "--n", "1"], "needs at least 2 paths"),
    (["main", *MAZES, "--problems-limit", "1"], "needs at least 2 problems"),
    (["leap-t", "--model", "somebody/model", "--problems", "maze"], "name it by --leap-t"),
    (["traffic", *MAZES, "--sft", "x"], "has no --sft"),
    (["traffic", "--model", "maze"], "--problems is missing"),
    (["traffic", *MAZES, "--values", "0.5"], "--values 0.5 is not allowed"),
    (["temperature", *MAZES, "--values", "-1"], "--values -1.0 is not allowed"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_what_cannot_be_run_is_refused_before_any_work(words, said, tmp_path, capsys):
    """Would catch: an option that is silently without effect; a folder left behind by what was refused."""
    assert main(["experiment", *words]) == 1
    printed = capsys.readouterr().err
    assert said in " ".join(printed.split()) and "loading" not in printed
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_options_is_refused(tmp_path, capsys):
    """Would catch: beginnings of one length beside those of another in one table: the arms alone do not tell them."""
    command = ["experiment", "trap", *MAZES, "--output", "here", "--problems-limit", "1", "--n", "2", "--max-new-tokens",
               "8", "--interval", "4"]
    assert main(command) == 0
    assert main([*command, "--fraction", "0.5"]) == 1
    assert "fraction: 0.15 there, 0.5 asked for" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.where)
def test_every_figures_command_can_be_typed(entry):
    """Would catch: a page of commands that do not parse."""
    parsed = build_parser().parse_args(entry.command.split())
    assert entry.experiment is None or parsed.name in EXPERIMENTS
