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
