"""Going on with a saved run: with what it was made with, or not at all."""

from __future__ import annotations

import json
import os

import pytest
import tiny
import tiny_tokenizer
import torch
from leap_run import LEAP, QUESTION, SAMPLING, generator

from leapgen import EngineConfig, LeapConfig, LeapGenerator, LeapOutput, PromptSet, SamplingConfig, stopping
from leapgen.config import config_from
from leapgen.options import RENAMED


@pytest.fixture(scope="module")
def whole():
    return generator().generate(QUESTION, n=3, leap=LEAP, sampling=SAMPLING, seed=3)


def part_of(leap, config=LEAP, sampling=SAMPLING, tokens=50) -> LeapOutput:
    """A run that was stopped, as a file has it."""
    output = leap.generate(QUESTION, n=3, leap=config, sampling=sampling, seed=3, until=stopping.token_limit(tokens))
    assert not output.finished
    return LeapOutput.from_dict(json.loads(json.dumps(output.to_dict())))


def tokens(output):
    return [path.token_ids for path in output.paths]


def levenshtein(a, b):
    return float(len(a) == len(b))


@pytest.mark.parametrize("config", [{"similarity": levenshtein}, {"router": lambda *arguments: []}], ids=["named", "lambda"])
def test_a_callable_of_the_users_is_asked_for_again(config):
    """Would catch: a user's ``levenshtein`` replaced by the built-in one of that name, without a word."""
    config = LEAP.replace(**config)
    leap = generator()
    part = part_of(leap, config)
    with pytest.raises(ValueError, match=rf"{'similarity' if callable(config.similarity) else 'router'} \(.*leap=\.\.\."):
        leap.resume(part)
    whole = leap.generate(QUESTION, n=3, leap=config, sampling=SAMPLING, seed=3)
    assert tokens(leap.resume(part, leap=config)) == tokens(whole)


def test_a_logits_processor_is_asked_for_again():
    leap, sampling = generator(), SAMPLING.replace(logits_processors=(lambda ids, scores: scores,))
    part = part_of(leap, sampling=sampling)
    with pytest.raises(ValueError, match=r"logits_processors \(.*sampling=\.\.\."):
        leap.resume(part)
    assert leap.resume(part, sampling=sampling).finished


def test_another_model_dtype_or_context_is_refused_by_name(whole):
    """Would catch: a run that goes on with other weights, in another dtype or with less context, to other tokens."""
    part = part_of(generator())
    others = {"dtype": generator(dtype=torch.bfloat16), "weights": generator(hidden_size=64), "positions": generator(
        engine=EngineConfig(page_size=4, kv_cache_bytes=1 << 25, max_step_tokens=64, context_length=1024))}
    for said, leap in others.items():
        with pytest.raises(ValueError, match=f"made with other values of.*{said}"):
            leap.resume(part)
        assert leap.resume(part, check=False).finished
    assert tokens(generator().resume(part)) == tokens(whole)


def test_trained_weights_are_other_weights():
    """Would catch: a digest that looks at names and shapes only."""
    leap = generator()
    part = part_of(leap)
    with torch.no_grad():
        for parameter in leap.model.parameters():
            parameter += 1e-3
    with pytest.raises(ValueError, match="weights"):
        leap.resume(part)


def test_engine_settings_that_change_no_token_are_free(whole):
    """Would catch: a run that can only go on in the same memory."""
    part = part_of(generator())
    leap = generator(engine=EngineConfig(page_size=16, kv_cache_bytes=1 << 24, max_step_tokens=32))
    assert tokens(leap.resume(part)) == tokens(whole)


def test_the_prompts_of_the_run_are_used():
    """Would catch: triggers and comments of another prompt set in the second half of a run."""
    mine = PromptSet(triggers=("Now then.",), nudge="Hm.")
    leap = LeapGenerator(tiny.build("llama", torch.float32, vocab_size=tiny_tokenizer.VOCAB), tiny_tokenizer.byte_level(),
                         prompts=mine, engine=EngineConfig(page_size=4, kv_cache_bytes=1 << 25, max_step_tokens=64))
    resumed = generator().resume(part_of(leap))
    assert tokens(resumed) == tokens(leap.generate(QUESTION, n=3, leap=LEAP, sampling=SAMPLING, seed=3))
    assert any("Now then." in segment.text for segment in resumed.paths[0].segments)


def test_a_file_is_a_run_and_nothing_else_is(whole, tmp_path):
    """Would catch: ``'str' object has no attribute 'paths'``."""
    part_of(generator()).save(tmp_path / "run.json")
    assert tokens(generator().resume(tmp_path / "run.json")) == tokens(whole)
    assert tokens(generator().resume(str(tmp_path / "run.json"))) == tokens(whole)
    with pytest.raises(TypeError, match="LeapOutput or the file of one"):
        generator().resume(None)
    with pytest.raises(FileNotFoundError):
        generator().resume(tmp_path / "none.json")


def as_format(output: LeapOutput, version: int) -> dict:
    """A run as earlier versions wrote it."""
    old = output.to_dict() | {"leapgen": version}
    for path in old["paths"]:
        for segment, before in zip(path["segments"][1:], path["segments"], strict=False):
            if before["kind"] == "summary" and segment["kind"] == "closing":
                segment["kind"] = "forced"
    if version == 3:
        return json.loads(json.dumps(old))
    state = old.pop("state")
    shared = {message["sender"]: message for message in state["shared"]}
    for path in old["paths"]:
        path["state"]["skips_blocks"] = path["index"] in state["skipping"]
        path["state"]["opened_summary"] = path["state"].pop("paused_at") is not None
        path["state"]["shared_summary"] = summary_of(shared.get(path["index"]))
        for segment in path["segments"]:
            del segment["sources"]
    for block in old["blocks"]:
        block["summaries"] = {path: summary_of(message) for path, message in block["summaries"].items()}
    for name, new in RENAMED.items():
        old["leap"][name] = old["leap"].pop(new)
    del old["made_with"]["protocol"]
    if version == 1:
        del old["made_with"]
    return json.loads(json.dumps(old))


def summary_of(message: dict | None) -> dict | None:
    return message and {name: message[name] for name in ("text", "num_tokens", "closed")}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_runs_of_earlier_formats_are_read_and_resumed(version):
    """Would catch: last month's runs lost, or resumed without what their paths share or with answers of another length."""
    leap = generator(thinking=True)
    config = LEAP.replace(finished_share=True, self_summarize=True, forced_answer_tokens=5, written_answer_tokens=7)
    expected = leap.generate(QUESTION, n=3, leap=config, sampling=SAMPLING, seed=3)
    read = LeapOutput.from_dict(as_format(expected, version))
    assert tokens(read) == tokens(expected)
    assert [path.said for path in read.paths] == [path.said for path in expected.paths]
    part = part_of(leap, config, SAMPLING, tokens=75)
    assert part.blocks and not part.finished
    old = LeapOutput.from_dict(as_format(part, version))
    assert config_from(LeapConfig, old.leap, "leap") == config
    assert tokens(leap.resume(old)) == tokens(expected)


def test_a_folder_is_noted_by_its_whole_path_and_a_bundled_model_by_its_name(tmp_path, monkeypatch):
    """Would catch: a run that can be resumed only from where it was started."""
    leap = generator()
    leap.model.save_pretrained(tmp_path / "model")
    leap.tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    short = {"n": 1, "leap": False, "max_new_tokens": 2}
    assert LeapGenerator.from_pretrained("model").generate("Hm?", **short).model == os.fspath(tmp_path / "model")
    assert LeapGenerator.from_pretrained("maze").generate("Hm?", **short).model == "maze"


def test_settings_are_kept_as_they_were():
    """Would catch: a field that a saved run forgets."""
    leap = generator()
    config, sampling = LEAP.replace(blocks=(0, 1), stop_strings=("é", "b"), max_blocks=2), SAMPLING.replace(min_p=0.01)
    part = part_of(leap, config, sampling, tokens=5)
    assert config_from(LeapConfig, part.leap, "leap") == config
    assert config_from(SamplingConfig, part.sampling, "sampling") == sampling
