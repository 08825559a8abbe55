"""The bundled maze model: it loads, damage is told by name, and peers really help it, which placebos do not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from leapgen import EngineConfig, LeapConfig, LeapGenerator, LeapOutput
from leapgen.evaluation.placebos import OwnSummary, Strangers
from leapgen.models import FOLDER, bundled_model, bundled_models, model_path
from leapgen.protocol.chat import prompt_tokens
from leapgen.protocol.leap import Leap
from leapgen.protocol.prompts import PromptSet
from leapgen.tasks.maze import MAZE_SETTINGS, MAZE_SHAPE, Maze, make_maze
from leapgen.tasks.maze.tokenizer import THINK_START, build_tokenizer
from leapgen.terminal.cli import main

LEAP = LeapConfig(**MAZE_SETTINGS)
ALONE = LEAP.replace(max_blocks=0, explain=False)
MAZES = [make_maze(f"test/{i}", MAZE_SHAPE) for i in range(12)]


@lru_cache
def generator() -> LeapGenerator:
    return LeapGenerator.from_pretrained("maze", dtype=torch.float32, engine=EngineConfig(kv_cache_bytes=1 << 30))


def solved(leap: LeapConfig, protocol=Leap, mazes: Sequence[Maze] = MAZES, **options) -> tuple[float, list]:
    """Pass@1 over the mazes, 8 paths each."""
    outputs = generator().generate([maze.question for maze in mazes], n=8, leap=leap, seed=7, protocol=protocol, **options)
    return pass_at_1(mazes, outputs), outputs


def pass_at_1(mazes: Sequence[Maze], outputs: Sequence[LeapOutput]) -> float:
    return float(np.mean([[maze.is_solved_by(path.answer) for path in output.paths]
                          for maze, output in zip(mazes, outputs, strict=True)]))


def test_leap_beats_independent_paths_and_placebos_do_not():
    """Guards against a protocol that loses, garbles or misroutes what peers say: the gain would be gone."""
    alone, _ = solved(ALONE)
    together, outputs = solved(LEAP)
    bank = {tuple(output.paths[0].segments[0].token_ids): [[s.text for s in block.summaries.values() if s.text]
                                                           for block in output.blocks] for output in outputs}
    own, _ = solved(LEAP, OwnSummary)
    strangers, _ = solved(LEAP, partial(Strangers, bank=bank))
    assert 0.2 < alone < 0.7
    assert together > alone + 0.15
    assert own < alone + (together - alone) / 2 and strangers < alone + (together - alone) / 2
    summaries = [summary for output in outputs for block in output.blocks for summary in block.summaries.values()]
    assert np.mean([summary.closed for summary in summaries]) > 0.95


def test_a_bad_beginning_costs_and_peers_cut_the_gap_in_half():
    """Guards against beginnings that are lost on the way, and against paths that cannot leave where all of them began."""
    def sampled(leap: LeapConfig, **options) -> tuple[float, list]:
        room = leap.replace(interval=48, max_new_tokens=384)
        return solved(room, temperature=0.6, top_p=0.95, **options)  # as the paper samples

    begun = [(maze, output, path.segments[1].token_ids[:40]) for maze, output in zip(MAZES, sampled(ALONE)[1], strict=True)
             for path in [path for path in output.paths if not maze.is_solved_by(path.answer)][:1]]
    mazes, outputs, beginnings = zip(*begun, strict=True)
    assert len(mazes) >= 8
    free_alone, (free, _) = pass_at_1(mazes, outputs), sampled(LEAP, mazes=mazes)
    (bad_alone, _), (bad, _) = (sampled(leap, mazes=mazes, beginning=list(beginnings)) for leap in (ALONE, LEAP))
    assert free_alone - bad_alone > 0.05
    assert free - bad < (free_alone - bad_alone) / 2
    assert bad > free_alone + 0.15


@pytest.mark.parametrize("name", ["maze", "maze-leap-t"])
def test_the_demo_shows_both_runs_and_draws_them(name, tmp_path, capsys):
    picture = ["--picture", str(tmp_path / "maze.png")] if find_spec("matplotlib") else []
    assert main(["demo", "--model", name, "--n", "4", "--save", str(tmp_path / "run.json"), *picture]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "on their own" in shown and "with peers (LeaP)" in shown and shown.count("★ exit") == 2
    assert LeapOutput.load(tmp_path / "run.json").leap["explain"] == (name == "maze"), "LeaP-T models get the plain prompt"
    assert not picture or (tmp_path / "maze.png").stat().st_size > 10_000


def test_a_picture_with_nowhere_to_go_is_refused_before_any_work(tmp_path, capsys):
    assert main(["demo", "--save", str(tmp_path / "run.json"), "--picture", str(tmp_path / "none" / "maze.png")]) != 0
    assert "--picture" in capsys.readouterr().err and not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("name", ["maze", "maze-leap-t"])
def test_it_is_small_and_whole(name):
    assert name in bundled_models()
    folder = bundled_model(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4 << 20
    assert (folder / "README.md").exists()


def test_missing_and_damaged_files_are_named(tmp_path):
    shutil.copytree(FOLDER / "maze", tmp_path / "maze")
    assert bundled_model("maze", tmp_path) == tmp_path / "maze"
    weights = tmp_path / "maze" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:1000] + b"\0" + content[1001:])
    if content[1000] == 0:
        weights.write_bytes(content[:1000] + b"\1" + content[1001:])
    with pytest.raises(ValueError, match=r"damaged.*model\.safetensors"):
        bundled_model("maze", tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        bundled_model("maze", tmp_path)
    assert bundled_model("no_such_model", tmp_path) is None and bundled_model("../maze", tmp_path) is None


def test_a_folder_of_results_hides_no_model_of_its_name(tmp_path, monkeypatch):
    """Would catch: ``leapgen eval --model maze --output maze``, which works once and then loads its own results."""
    (tmp_path / "maze").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_path("maze") == str(FOLDER / "maze")
    (tmp_path / "maze" / "config.json").write_text("{}")
    assert model_path("maze") == "maze"


@pytest.mark.parametrize("name", ["maze", "maze-leap-t"])
def test_its_tokenizer_is_the_one_its_training_would_build_today(name):
    """Would catch: a sentence of the protocol changed, which the model would get in bytes it was not trained to read."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / name)
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == json.loads(build_tokenizer().backend_tokenizer.to_str())
    prompts = PromptSet()
    assert max(len(tokenizer.encode(text)) for text in (prompts.nudge, *prompts.triggers, prompts.no_comments)) == 1
    assert len(prompt_tokens(tokenizer, "At", LeapConfig(), prompts, THINK_START)) < 20


@pytest.mark.parametrize("name", ["maze", "maze-leap-t"])
def test_the_checksums_cover_what_transformers_loads(name):
    noted = json.loads((FOLDER / name / "checksums.json").read_text())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(noted)


def test_training_from_nothing_makes_a_model_and_an_interrupted_one_the_same(tmp_path):
    script = Path(__file__).parents[2] / "examples" / "train_maze.py"
    sizes = ["--steps", "2", "--batch-tokens", "400", "--small-steps", "3", "--save-steps", "1", "--hidden", "16",
             "--layers", "2", "--head-dim", "16"]
    weights = []
    for _ in range(2):
        subprocess.run([sys.executable, script, "--output", tmp_path, *sizes], check=True, capture_output=True)
        weights.append((tmp_path / "model" / "model.safetensors").read_bytes())
        shutil.rmtree(tmp_path / "checkpoint-2")  # as if it had been stopped after the first step
    assert (tmp_path / "checkpoint-1").exists() and weights[0] == weights[1]
    output = LeapGenerator.from_pretrained(tmp_path / "model").generate("Find the way", n=2, leap=False, max_new_tokens=4)
    assert [len(path.token_ids) > 0 for path in output.paths] == [True, True]
