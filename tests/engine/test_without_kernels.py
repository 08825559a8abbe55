"""Where the compiled kernels are not wanted or not there, plain torch does everything."""

import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import leapgen_kernels
import pytest
import tiny
import torch
from leapgen_kernels import cpu

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, Stream

PROMPT = [3 + 5 * i % 150 for i in range(20)]
SMALL = EngineConfig(page_size=4, kv_cache_bytes=1 << 22)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_false_is_plain_torch_everywhere(dtype, monkeypatch):
    """Would catch: a sampler that is compiled whatever the configuration says."""
    def compiled(*_):
        raise AssertionError("compiled code was called")

    for kernels in (cpu._ATTEND, cpu._LINEAR, cpu._GATED, cpu._CANDIDATES):
        for known in list(kernels):
            monkeypatch.setitem(kernels, known, compiled)
    engine = Engine(tiny.build("llama", dtype), SMALL.replace(kernels=False, compile=True))
    sequences = [engine.add(PROMPT, SamplingConfig(top_k=20), stream=Stream(1, i), limit=26) for i in range(3)]
    while engine.has_work:
        engine.step()
    assert [len(sequence) for sequence in sequences] == [26] * 3


# -- kernels that are wanted and not there: in a process of their own, as they are looked for at import ------------

RUN = """
import logging
import sys

import tiny
import torch

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine

logging.basicConfig(force=True, stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
torch.set_num_threads(1)
for dtype, kernels in ((torch.float32, True), (torch.float32, False), (torch.float64, True)):
    print(dtype, kernels)
    engine = Engine(tiny.build("llama", dtype), EngineConfig(page_size=4, kv_cache_bytes=1 << 22, kernels=kernels))
    sequence = engine.add([3, 4, 5], SamplingConfig.greedy(), limit=9)
    while engine.has_work:
        engine.step()
    print("tokens", sequence.tokens)
"""


@pytest.mark.parametrize(("library", "reason"), [
    (None, "they were not built"), ("no library", r"they cannot be loaded \(.*_cpu")], ids=["not built", "damaged"])
def test_missing_kernels_are_said_once_and_replaced(library, reason, tmp_path):
    """Would catch: an import that fails where libgomp is missing; a tenth of the speed with no word on why; a warning at
    every step, or for those who asked for plain torch or for a dtype that no kernel serves."""
    package = tmp_path / "leapgen_kernels"
    shutil.copytree(Path(leapgen_kernels.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if library is not None:
        (package / f"_cpu{EXTENSION_SUFFIXES[0]}").write_text(library)
    # -S: an editable install would find the library that the copy leaves out
    paths = [tmp_path, Path(tiny.__file__).parent, *filter(None, sys.path)]
    found = subprocess.run([sys.executable, "-S", "-c", RUN], capture_output=True, text=True, timeout=120, cwd=tmp_path,
                           env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))})
    assert found.returncode == 0, found.stderr
    wanted, unwanted, other = found.stdout.split("torch.float")[1:]
    assert wanted.count("WARNING") == 1
    assert re.search(rf"WARNING leapgen\.engine\.[\w.]+ the C\+\+ kernels are not used: {reason}.*pip install -e", wanted)
    assert "WARNING" not in unwanted + other
    assert all("tokens" in part for part in (wanted, unwanted, other))
