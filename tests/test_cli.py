"""The command line, on a tiny model saved to disk."""

import pytest
import tiny
import tiny_tokenizer
import torch
from leap_run import LEAP, QUESTION

from leapgen import LeapOutput
from leapgen.terminal.cli import main

SMALL = ["--interval", "12", "--max-new-tokens", "36", "--summary-tokens", "10", "--answer-tokens", "6",
         "--max-answer-tokens", "8", "--no-explain", "--temperature", "1.0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny.build("llama", torch.float32, vocab_size=tiny_tokenizer.VOCAB).save_pretrained(path)
    tiny_tokenizer.byte_level().save_pretrained(path)
    return path


def run(folder, save, *options):
    return main(["run", QUESTION, "--model", str(folder), "--n", "3", "--save", str(save), *SMALL, *options])


def test_run_prints_and_saves_the_exchange(folder, tmp_path, capsys):
    """Would catch: options that do not reach the run, a report without blocks or routes, a run that is not saved."""
    assert run(folder, tmp_path / "run.json", "--path", "1") == 0
    shown = capsys.readouterr().out
    output = LeapOutput.load(tmp_path / "run.json")
    assert output.finished and len(output.paths) == 3 and output.leap["interval"] == LEAP.interval
    assert len(output.blocks) >= 1
    for expected in ("block 1", "conclusions", "majority", "prefilled", "path 1"):
        assert expected in shown


def test_show_prints_the_same_again(folder, tmp_path, capsys):
    """Would catch: a saved run that lost what the report needs."""
    run(folder, tmp_path / "run.json")
    first = capsys.readouterr().out
    assert main(["show", str(tmp_path / "run.json")]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(("options", "message"), [
    (["--interval", "0"], "interval"), (["--router", "nearest"], "dispersed"), (["--top-k", "0"], "top_k"),
    (["--interval", "5000"], "smaller interval"), (["--save", "/no/such/folder/run.json"], "/no/such/folder"),
])
def test_refused_input_says_why_and_exits_1(folder, tmp_path, capsys, options, message):
    """Would catch: a traceback for a user's slip, or one that is only found after the run."""
    assert run(folder, tmp_path / "run.json", *options) == 1
    assert message in "".join(capsys.readouterr().err.split("\n"))
    assert not (tmp_path / "run.json").exists()


def test_missing_model_exits_1(tmp_path, capsys):
    """Would catch: a traceback of the hub client."""
    assert main(["run", QUESTION, "--model", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err


def test_show_refuses_other_files(tmp_path, capsys):
    """Would catch: a traceback for a file of another kind."""
    (tmp_path / "x.json").write_text("{}")
    assert main(["show", str(tmp_path / "x.json")]) == 1
    assert main(["show", str(tmp_path / "y.json")]) == 1
    assert "x.json" in capsys.readouterr().err.replace("\n", "")


def test_interrupted_run_is_saved_and_resumed(folder, tmp_path, capsys, monkeypatch):
    """Would catch: Ctrl-C that loses the run, or a resume that ends elsewhere than the whole run."""
    from leapgen.engine import Engine

    run(folder, tmp_path / "whole.json")
    step, count = Engine.step, iter(range(25))

    def interrupted_step(self):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupted_step)
    assert run(folder, tmp_path / "part.json") == 130
    monkeypatch.setattr(Engine, "step", step)
    part = LeapOutput.load(tmp_path / "part.json")
    assert not part.finished and any(path.count("own") for path in part.paths)
    assert main(["resume", str(tmp_path / "part.json")]) == 0
    resumed, whole = LeapOutput.load(tmp_path / "part.json"), LeapOutput.load(tmp_path / "whole.json")
    assert resumed.finished
    assert [path.token_ids for path in resumed.paths] == [path.token_ids for path in whole.paths]
