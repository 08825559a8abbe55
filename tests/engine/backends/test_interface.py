"""What C++ and Python agree on: a change on one side alone is found, and the library of another interface is refused."""

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from leapgen_kernels import cpu, interface
from leapgen_kernels.interface import PlanHeader, Segment

from leapgen.engine.backends.cpu.backend import CPUBackend
from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.step import Step

CSRC = Path(__file__).parents[3] / "kernels" / "csrc"
COMPILER = shutil.which("g++") or shutil.which("c++")

# By declaration: a piece of source, and what takes its place in a copy.
IN_PYTHON = {
    "kTile": ("TILE = 32", "TILE = 16"),
    "Gate": ("SILU = 1\n    GELU = 2", "GELU = 1\n    SILU = 2"),
    "StageKind": ("    LINEAR = 2\n    ATTEND = 3", "    ATTEND = 2\n    LINEAR = 3"),
    "Operation": ("    MEAN = 17\n", ""),
    "PlanHeader": ("    segments: int\n    layers: int", "    layers: int\n    segments: int"),
    "Access": ("    outer: int = 0\n    inner: int = 0", "    inner: int = 0\n    outer: int = 0"),
    "Instruction": ("    value: float", "    value: int"),
    "AttendStage": ("    window: int\n", ""),
    "GatedKernel": ("int64_t inner, int64_t columns", "int64_t columns, int64_t inner"),
}
IN_CPP = {
    "kTileDepth": ("kTileDepth = 32", "kTileDepth = 64"),
    "Operation": ("kAdd, kSubtract", "kSubtract, kAdd"),
    "Segment": ("start, end", "end, start"),
    "AttendStage": ("double scaling, softcap", "double softcap, scaling"),
    "Instruction": ("double value", "int64_t value"),
    "LinearKernel": ("int64_t x_stride,", ""),
    "Extent": ("SHARED(struct Access", "SHARED(struct Extent { int64_t start, end; })\nSHARED(struct Access"),
}


def text_of(library):
    library.leapgen_interface.restype = ctypes.c_char_p
    return library.leapgen_interface().decode()


@pytest.mark.skipif(cpu.library() is None, reason="built without a C++ compiler")
@pytest.mark.parametrize("name", IN_PYTHON)
def test_a_change_in_python_alone_is_found(name, tmp_path, monkeypatch):
    """Would catch: a code, a field or an argument that is changed in Python and not compared with the library's."""
    source, (piece, other) = Path(interface.__file__).read_text(), IN_PYTHON[name]
    assert source.count(piece) == 1
    changed = tmp_path / "changed.py"
    changed.write_text(source.replace(piece, other))
    spec = importlib.util.spec_from_file_location("changed", changed)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "changed", module)
    spec.loader.exec_module(module)
    assert interface.differences(text_of(cpu.library())) == []
    assert module.differences(text_of(cpu.library())) == [name]


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("name", [None, *IN_CPP])
def test_a_change_in_cpp_alone_is_found(name, tmp_path):
    """Would catch: a declaration of the header that does not reach the library's text, or is not compared with Python's."""
    for file in ("shared.h", "interface.h", "interface.cpp"):
        shutil.copy(CSRC / file, tmp_path)
    if name is not None:
        source, (piece, other) = (CSRC / "shared.h").read_text(), IN_CPP[name]
        assert piece in source
        (tmp_path / "shared.h").write_text(source.replace(piece, other, 1))
    subprocess.run([COMPILER, "-std=c++17", "-shared", "-fPIC", "-o", "interface.so", "interface.cpp"], cwd=tmp_path,
                   check=True)
    library = ctypes.CDLL(str(tmp_path / "interface.so"))
    assert interface.differences(text_of(library)) == ([] if name is None else [name])


@pytest.mark.skipif(cpu.library() is None, reason="built without a C++ compiler")
def test_a_library_of_another_interface_is_refused(monkeypatch):
    """Would catch: a library built from older sources that runs other instructions than the compiler has written."""
    monkeypatch.setattr(interface, "TILE", 16)
    with pytest.raises(ImportError, match=r"declares otherwise: kTile\).*build it again"):
        cpu._load.__wrapped__()


def test_a_packed_plan_is_laid_out_as_declared():
    """Would catch: a count or a segment's bound that the engine packs where the kernels read another."""
    spec = LayerSpec(1, 4, 4, torch.float32, torch.device("cpu"))
    cache = KVCache({3: spec, 8: spec}, num_pages=5, page_size=32)
    plan = CPUBackend().prepare(Step.build(cache, [[0, 1, 2], [0, 3]], [70, 60], [72, 61]))
    packed = plan.at(8).tolist()
    header = PlanHeader(*packed[: len(PlanHeader._fields)])
    assert header == PlanHeader(sequences=2, tokens=3, page_size=32, max_pages=3, segments=3, layers=2, next_layer=1)
    slots, query_starts, kv_lengths = [2 * 32 + 6, 2 * 32 + 7, 3 * 32 + 28], [0, 2, 3], [72, 61]
    segments = {Segment(level=0, first=0, last=2, start=0, end=32), Segment(level=1, first=0, last=1, start=32, end=72),
                Segment(level=1, first=1, last=2, start=32, end=61)}
    rest = packed[len(header) + 2 * header.layers :]
    assert rest[:8] == slots + query_starts + kv_lengths
    assert {Segment(*rest[8 + 5 * i : 13 + 5 * i]) for i in range(header.segments)} == segments
    assert rest[8 + 5 * header.segments :] == [0, 1, 2, 0, 3, 0]
