"""Benchmark scripts run from end to end on a small model; what they measure there means nothing."""

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu_script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu

    yield gpu
    for name in ("gpu", "machine", "worker"):
        sys.modules.pop(name, None)


def test_gpu_benchmark_runs_every_part(gpu_script, tmp_path):
    """Would catch: a part that fails on the machine it is meant for, after minutes of others."""
    gpu_script.main(["--tiny", "--json", str(tmp_path / "gpu.json")])
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert set(gpu_script.PARTS) <= set(kept) and kept["machine"]["torch"] == torch.__version__
    assert kept["decode"]["step over floor"] > 0 and kept["shared"]["alone over shared"] > 0
    assert all(isinstance(seconds, float) for seconds in kept["transformers"]["seconds"].values())
    assert set(kept["sweep"]) == {"1", "2", "4"} and kept["fork"]["pages taken"] == 0
    assert kept["leap"]["tokens a path"] > 100


@pytest.mark.skipif(torch.cuda.is_available(), reason="has what it needs")
def test_gpu_benchmark_says_what_it_needs(gpu_script, capsys):
    """Would catch: a traceback from the middle of a model where there is no device."""
    with pytest.raises(SystemExit) as ended:
        gpu_script.main([])
    assert ended.value.code == 2 and "needs a CUDA device" in capsys.readouterr().err


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import worker

    yield worker
    sys.modules.pop("worker", None)


def test_texts_are_given_the_same_work_as_token_ids(worker):
    """Would catch: an engine that is handed texts and has less to do, or other peers' summaries to read."""
    def by_ids(prompts, copies, steps):
        return [[97 + (i + len(prompt)) % 26] * steps for i, prompt in enumerate(prompts)]

    def by_texts(prompts, copies, steps):
        return ["".join(map(chr, new)) for new in by_ids(prompts, copies, steps)]

    texts = {"trigger": "?!", "close": "<", "open": "[", "header": "#", "nudge": "]."}
    counts = {"rounds": 3, "interval": 4, "summary": 2, "top_k": 2}
    ids = {name: list(map(ord, text)) for name, text in texts.items()}
    paths, handed = worker.leap_by_prompts(by_ids, [65, 66], 3, ids | counts)
    of_texts, handed_texts = worker.leap_by_prompts(by_texts, "AB", 3, texts | counts)
    assert ["".join(map(chr, path)) for path in paths] == of_texts
    assert ["".join(map(chr, path)) for path in handed] == handed_texts
    assert {len(path) for path in of_texts} == {2 + 3 * 4 + 2 * (2 + 2 + 1 + 1 + 2 * (1 + 2) + 2)}
    assert len(handed_texts) == 3 * 5 and of_texts[0].count("#") == 4
