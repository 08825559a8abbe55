"""``leapgen resume``: from any folder, with what the run was made with, back into its file."""

import json
import os
import shutil

import pytest
from cli_run import SMALL, at_step, run, send, tokens
from leap_run import QUESTION

from leapgen import LeapGenerator, LeapOutput
from leapgen.terminal import loading, progress
from leapgen.terminal.cli import main


@pytest.fixture
def part(model_folder, tmp_path, monkeypatch):
    """A run stopped by Ctrl-C."""
    def stopped(*options, name="part.json", folder=model_folder, **more):
        with monkeypatch.context() as patch:
            at_step(patch, 25, send(2))
            assert run(folder, tmp_path / name, *options, **more) == 130
        return tmp_path / name

    return stopped


def test_a_relative_folder_is_found_from_elsewhere(model_folder, part, tmp_path, monkeypatch):
    """Would catch: ``--model model`` noted as such, which nobody can load from another folder."""
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(model_folder, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    file = part(folder="model")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert os.path.isabs(LeapOutput.load(file).model)
    assert main(["resume", str(file)]) == 0
    assert LeapOutput.load(file).finished


def test_a_model_that_has_a_name_is_noted_and_resumed_by_it(model_folder, part, monkeypatch):
    """Would catch: the folder of a PyPI package noted for smollm2, from which transformers alone can load nothing."""
    def load_smollm2(dtype, engine, prompts):
        loaded.append(dtype)
        generator = LeapGenerator.from_pretrained(str(model_folder), dtype=dtype, engine=engine, prompts=prompts)
        generator.name = "smollm2"
        return generator

    loaded = []
    monkeypatch.setattr(loading, "load_smollm2", load_smollm2)
    file = part(folder="smollm2")
    assert LeapOutput.load(file).model == "smollm2"
    assert main(["resume", str(file)]) == 0
    assert loaded == ["float32", "float32"] and LeapOutput.load(file).finished


def test_a_bundled_model_is_noted_by_its_name(tmp_path):
    """Would catch: a path inside the installation, which is another one elsewhere."""
    assert run("maze", tmp_path / "run.json", question=("Find the way",)) == 0
    assert LeapOutput.load(tmp_path / "run.json").model == "maze"


def test_it_is_made_as_the_run_was(model_folder, part, tmp_path, monkeypatch, capsys):
    """Would catch: a bfloat16 run that goes on in float32; limits and sentences that have to be given again."""
    sentences = {"triggers": ["Halt."], "nudge": "Compare."}
    (tmp_path / "mine.json").write_text(json.dumps(sentences))
    options = ["--dtype", "bfloat16", "--max-step-tokens", "64", "--page-size", "4", "--device-map", "cpu",
               "--prompts", str(tmp_path / "mine.json")]
    assert run(model_folder, tmp_path / "whole.json", *options) == 0
    file = part(*options)
    (tmp_path / "mine.json").unlink()
    made, from_pretrained = [], LeapGenerator.from_pretrained

    def watched(*arguments, **given):
        made.append((given, from_pretrained(*arguments, **given)))
        return made[-1][1]

    monkeypatch.setattr(LeapGenerator, "from_pretrained", watched)
    assert main(["resume", str(file), "--max-batch-size", "5"]) == 0
    (given, generator), = made
    assert (given["dtype"], given["device_map"]) == ("bfloat16", "cpu")
    engine = generator.engine.config
    assert (engine.max_step_tokens, engine.page_size, engine.max_batch_size) == (64, 4, 5)
    resumed, whole = LeapOutput.load(file), LeapOutput.load(tmp_path / "whole.json")
    assert tokens(resumed) == tokens(whole) and resumed.made_with["prompts"]["nudge"] == "Compare."
    assert any("Halt. <summarize>" in segment.text for segment in resumed.paths[0].segments)


def test_another_model_is_refused_unless_told_so(model_folder, part, capsys):
    """Would catch: a run that goes on with other numbers than it began with, or no way to want just that."""
    file = part()
    before = file.read_bytes()
    assert main(["resume", str(file), "--dtype", "bfloat16"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "dtype" in error and "--no-check" in error and file.read_bytes() == before
    assert main(["resume", str(file), "--dtype", "bfloat16", "--no-check"]) == 0


def test_it_shows_progress_and_can_be_stopped_again(model_folder, part, tmp_path, capsys, monkeypatch):
    """Would catch: a resumed run without a bar or a checkpoint, which a second signal costs."""
    run(model_folder, tmp_path / "whole.json")
    file = part()
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0.0)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        at_step(patch, 20, send(1))
        assert main(["resume", str(file)]) == 129
    assert "1 block, 0/3 ended" in capsys.readouterr().err
    again = LeapOutput.load(file)
    assert not again.finished and len(again.blocks) == 2
    assert main(["resume", str(file)]) == 0
    assert tokens(LeapOutput.load(file)) == tokens(LeapOutput.load(tmp_path / "whole.json"))


def test_a_finished_run_and_one_without_a_model_are_told(model_folder, part, tmp_path, capsys):
    """Would catch: a finished run that is run again, or ``from_pretrained('')``."""
    run(model_folder, tmp_path / "whole.json")
    before = (tmp_path / "whole.json").read_bytes()
    assert main(["resume", str(tmp_path / "whole.json")]) == 0
    assert "nothing to resume" in capsys.readouterr().err and (tmp_path / "whole.json").read_bytes() == before
    file = part()
    output = LeapOutput.load(file)
    output.model = ""
    output.save(file)
    assert main(["resume", str(file)]) == 1
    assert "--model" in capsys.readouterr().err
    assert main(["resume", str(file), "--path", "7"]) == 1
    assert main(["resume", str(file), "--model", str(model_folder)]) == 0


def test_a_folder_of_runs_goes_on_where_each_of_them_stands(model_folder, part, tmp_path, capsys):
    """Would catch: finished questions run again, files mixed up, all but the first forgotten."""
    (tmp_path / "questions.txt").write_text(f"{QUESTION}\nAnd 3 + 4?\nOr 5?\n")
    options = ["run", "--input", str(tmp_path / "questions.txt"), "--model", str(model_folder), "--n", "2", *SMALL]
    assert main([*options, "--save", str(tmp_path / "whole")]) == 0
    whole = [LeapOutput.load(tmp_path / "whole" / f"{i}.json") for i in range(3)]
    folder = part("--input", str(tmp_path / "questions.txt"), "--n", "2", name="runs", question=())
    whole[1].save(folder / "1.json")
    capsys.readouterr()
    assert main(["resume", str(folder)]) == 0
    assert [tokens(LeapOutput.load(folder / f"{i}.json")) for i in range(3)] == [tokens(output) for output in whole]
    assert capsys.readouterr().out.count(".json") == 3
