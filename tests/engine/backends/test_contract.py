"""The contract of a backend: whatever keeps it computes the same, and nothing else stands between engine and backend."""

from contextlib import contextmanager

import pytest
import tiny
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from leapgen_kernels import cpu, gpu
from test_attention import CASES, Case, Step

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, Stream, UnsupportedModelError
from leapgen.engine.backends import choice
from leapgen.engine.backends.base import Backend
from leapgen.engine.backends.choice import choose
from leapgen.engine.backends.cpu.backend import CPUBackend
from leapgen.engine.backends.cuda.backend import CUDABackend
from leapgen.engine.backends.reference import ReferenceBackend
from leapgen.engine.memory.kv import LayerSpec
from leapgen.engine.sampling.host import Sampled

SMALL = EngineConfig(page_size=4, kv_cache_bytes=1 << 22)
PROMPT = [3 + 5 * i % 150 for i in range(11)]
needs_cpu_kernels = pytest.mark.skipif(cpu.library() is None, reason="built without a C++ compiler")
needs_triton = pytest.mark.skipif(gpu.library() is None, reason="Triton is not installed")


# -- attend -----------------------------------------------------------------------------------------------------------


def assert_attends_as_reference(backend, case, device="cpu"):
    """Output and pool, after a step by each; a pool that no sequence has written is NaN."""
    expected, actual = Step(case, torch.float32, layer=3), Step(case, torch.float32, layer=3)
    output = expected.attend(ReferenceBackend())
    actual.store(computed_now=False)
    pools = actual.cache.keys, actual.cache.values
    for pool in pools:
        pool[3] = pool[3].to(device)
    options = {name: one.to(device) if isinstance(one, torch.Tensor) else one for name, one in actual.options.items()}
    found = backend.attend(3, *(t.to(device) for t in actual.handed_over), backend.prepare(actual.step), **options)
    torch.testing.assert_close(found[0].cpu(), output, rtol=5e-5, atol=5e-6)
    for mine, theirs in zip(pools, (expected.cache.keys, expected.cache.values), strict=True):
        torch.testing.assert_close(mine[3].cpu(), theirs[3], rtol=0, atol=0, equal_nan=True)


@needs_cpu_kernels
@settings(max_examples=60, phases=[Phase.explicit, Phase.generate])
@given(case=CASES)
def test_the_cpu_backend_attends_as_the_reference_does(case):
    """Would catch: a plan or an option that a backend reads otherwise; keys and values stored elsewhere."""
    assert_attends_as_reference(CPUBackend(), case)


@needs_triton
@settings(max_examples=5, phases=[Phase.explicit, Phase.generate])  # the interpreter takes milliseconds for each row
@given(starts=st.lists(st.integers(0, 60), min_size=1, max_size=3), tokens=st.integers(1, 3), seed=st.integers(0, 99),
       page_size=st.sampled_from([1, 4, 16]), group=st.integers(1, 3), window=st.none() | st.integers(1, 30),
       softcap=st.none() | st.floats(0.5, 30), sinks=st.booleans())
def test_the_cuda_backend_attends_as_the_reference_does(starts, tokens, seed, page_size, group, window, softcap, sinks):
    """Would catch: the same of the tile plan."""
    case = Case([(start, start + 1 + i % tokens) for i, start in enumerate(starts)], page_size=page_size, group=group,
                sliding_window=window, softcap=softcap, sinks=sinks, seed=seed)
    assert_attends_as_reference(CUDABackend(), case, "cuda" if torch.cuda.is_available() else "cpu")


# -- which one --------------------------------------------------------------------------------------------------------


def layers_of(*dtypes):
    return {i: LayerSpec(2, 4, 4, dtype, torch.device("cpu")) for i, dtype in enumerate(dtypes)}


@pytest.mark.parametrize(("on_cpu", "on_cuda", "dtypes", "kernels", "expected"), [
    ({torch.float32}, {torch.float32}, [torch.float32] * 2, True, CUDABackend),
    ({torch.float32}, set(), [torch.float32] * 2, True, CPUBackend),
    (set(), set(), [torch.float32] * 2, True, ReferenceBackend),
    ({torch.float32}, {torch.float32}, [torch.float32] * 2, False, ReferenceBackend),
    ({torch.float32}, {torch.float16}, [torch.float32, torch.float16], True, ReferenceBackend),
    ({torch.float32, torch.float16}, {torch.float16}, [torch.float32, torch.float16], True, CPUBackend),
], ids=["both", "cpu", "neither", "no kernels", "split", "split, one serves all"])
def test_the_first_backend_that_serves_every_layer_is_chosen(on_cpu, on_cuda, dtypes, kernels, expected, monkeypatch):
    """Would catch: a kernel that is handed a layer of a device or dtype it does not read."""
    monkeypatch.setattr(cpu, "serves", lambda tensor: tensor.dtype in on_cpu)
    monkeypatch.setattr(gpu, "serves", lambda tensor: tensor.dtype in on_cuda)
    assert type(choose(layers_of(*dtypes), EngineConfig(kernels=kernels))) is expected


@needs_cpu_kernels
@pytest.mark.parametrize("name", ["attend", "linear"])
def test_kernels_are_held_against_the_model(name, monkeypatch):
    """Would catch: a kernel that is wrong on this machine, taken on trust."""
    kernel = getattr(cpu, name)

    def wrong(*args, **kwargs):
        output = kernel(*args, **kwargs)
        return output * 1.05 if name == "attend" else [one * 1.05 for one in output]

    monkeypatch.setattr(cpu, name, wrong)
    model = tiny.build("llama", torch.float32)
    with pytest.raises(UnsupportedModelError, match=r"differ from its own by .*kernels=False"):
        Engine(model, SMALL)
    Engine(model, SMALL.replace(kernels=False))


# -- the only door ----------------------------------------------------------------------------------------------------


class StandIn(Backend):
    """Counts what it is asked, and has the reference do it; what nobody else does is told from its marks."""

    default_draft_tokens = 3
    draws, replays = False, False
    made: list

    def __init__(self, config):
        super().__init__(config)
        self._reference, self.calls, self.entered = ReferenceBackend(config), [], False
        self.made.append(self)

    def serves(self, layers):
        return len(layers) == 2

    def prepare(self, step):
        self.calls.append("prepare")
        prepared = self._reference.prepare(step)
        prepared.backend = self
        return prepared

    def attend(self, layer, query, key, value, prepared, **options):
        assert self.entered
        self.calls.append(f"attend {layer}")
        return self._reference.attend(layer, query, key, value, prepared, **options)

    @contextmanager
    def computing(self, model):
        self.entered = True
        yield
        self.entered = False

    def sample(self, logits, lengths, sequences):
        assert logits.shape == (len(lengths), tiny.VOCAB) and len(sequences) == len(lengths)
        self.calls.append("sample")
        return Sampled([7] * len(lengths), [None] * len(lengths), [None] * len(lengths)) if self.draws else None

    def capture(self, paged, cache):
        self.calls.append("capture")
        return Replaying() if self.replays else None


class Replaying:
    """Serves every step of single tokens."""

    def serves(self, chunks):
        return all(chunk.end - chunk.start == 1 for chunk in chunks)

    def step(self, chunks):
        rows = sum(len(chunk.samples) for chunk in chunks)
        return Sampled([9] * rows, [None] * rows, [None] * rows)


@pytest.fixture
def stand_in(monkeypatch):
    """A class of its own, in the place of all others but the reference."""
    kind = type("StandIn", (StandIn,), {"made": []})
    monkeypatch.setattr(choice, "BACKENDS", (kind, ReferenceBackend))
    return kind


def generated(engine):
    sequences = [engine.add(PROMPT, SamplingConfig(), stream=Stream(2, i), limit=len(PROMPT) + 6) for i in range(2)]
    steps = 0
    while engine.has_work:
        engine.step()
        steps += bool(engine.last_step)
    return [sequence.tokens for sequence in sequences], steps


def test_a_backend_takes_the_place_of_another(stand_in):
    """Would catch: an engine that asks kernels past the contract, or a step that is prepared more than once."""
    model = tiny.build("llama")
    expected, _ = generated(Engine(model, SMALL.replace(kernels=False)))
    engine = Engine(model, SMALL)
    assert engine.runner.backend is stand_in.made[-1]
    calls = engine.runner.backend.calls
    assert calls[-1] == "capture" and "sample" not in calls and calls.count("prepare") == 3  # the check's steps
    calls.clear()
    tokens, steps = generated(engine)
    assert tokens == expected
    assert calls == ["prepare", "attend 0", "attend 1", "sample"] * steps
    assert engine.drafter.most == 3


def test_a_backend_that_does_not_serve_the_model_is_passed_over(stand_in):
    """Would catch: the first of the list taken whatever it says."""
    engine = Engine(tiny.build("llama", num_hidden_layers=1), SMALL)
    assert isinstance(engine.runner.backend, ReferenceBackend)
    assert [one.calls for one in stand_in.made] == [[]] and engine.drafter is None


def test_what_a_backend_draws_is_taken(stand_in):
    """Would catch: rows that are drawn once more in plain torch."""
    stand_in.draws = True
    tokens, _ = generated(Engine(tiny.build("llama"), SMALL))
    assert tokens == [[*PROMPT, *[7] * 6]] * 2


def test_steps_that_a_backend_has_captured_are_replayed(stand_in):
    """Would catch: a captured step that runs as it is, or one that is replayed and is none of those captured."""
    stand_in.replays, stand_in.draws = True, True
    engine = Engine(tiny.build("llama"), SMALL.replace(draft_tokens=0))
    tokens, _ = generated(engine)
    assert tokens == [[*PROMPT, 7, *[9] * 5]] * 2
    assert engine.runner.backend.calls.count("prepare") == 3 + 1  # the check's steps, and the prefill
