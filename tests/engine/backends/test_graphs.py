"""Decode steps on static buffers: what a graph replays, run as it is where there is no GPU."""

import logging
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from leapgen_kernels import cpu, gpu

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, NonFiniteLogitsError, Stream, runner
from leapgen.engine.backends.cpu.backend import CPUBackend
from leapgen.engine.backends.cuda import graphs
from leapgen.engine.backends.reference import ReferenceBackend
from leapgen.engine.sampling import device as device_sampling
from leapgen.engine.sampling.host import TIE_SLACK, sample
from leapgen.engine.sampling.random import UniformBlocks, uniforms
from leapgen.engine.sharing import shared_segments

pytestmark = pytest.mark.skipif(gpu.library() is None, reason="Triton is not installed")

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


@pytest.fixture
def static_steps(monkeypatch):
    """Steps go through the GPU kernels; without a GPU, the interpreter's, and a graph is the step itself, run again."""
    if not CUDA:
        monkeypatch.setattr(cpu, "serves", lambda tensor: False)
        monkeypatch.setattr(gpu, "serves", lambda tensor: tensor.dtype in gpu.DTYPES)
        monkeypatch.setattr(graphs, "cuda_capture", lambda device: lambda step: step)


def engine_of(model, graphs=True, **changes):
    return Engine(model.to(DEVICE), EngineConfig(**{"page_size": 4, "kv_cache_bytes": 1 << 20, "max_batch_size": 4,
                                                    "compile": False, "graphs": graphs, **changes}))


def paths(engine, n=3, prompt=9, steps=5, sampling=None):
    """Forks of one prompt, each with a token of its own; tokens and log-probabilities."""
    first = engine.add([(3 + 7 * i) % 150 for i in range(prompt)], sampling or SamplingConfig(), limit=prompt)
    while engine.has_work:
        engine.step()
    family = [first, *(engine.fork(first, stream=Stream(5, i)) for i in range(1, n))]
    for i, one in enumerate(family):
        engine.extend(one, [20 + i], limit=prompt + 1 + steps - i)  # they end one after the other
    events = []
    while engine.has_work:
        events += engine.step()
    logprobs = [(e.sequence.id, len(events), e.logprob or 0, e.sampling_logprob or 0) for e in events]
    tokens = [one.tokens for one in family]
    for one in family:
        engine.release(one)
    engine.check_integrity()
    return tokens, [logprobs for _, *logprobs in sorted(logprobs)]


def assert_same(actual, expected, tolerance=1e-4):
    assert actual[0] == expected[0]
    for mine, theirs in zip(actual[1], expected[1], strict=True):
        assert mine == pytest.approx(theirs, abs=tolerance)


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_static_steps_say_what_eager_steps_say(name, static_steps):
    """Would catch: a buffer that is not filled or not sent, padding that reaches a page or a result, a stale page
    table, tile list or setting, a graph of another size, windows, sinks."""
    model = tiny.build(name, torch.float32, experts_implementation="eager")
    plain = paths(engine_of(model, graphs=False, kernels=False))
    engine = engine_of(model)
    if CUDA and name == "gpt_oss" and engine.runner.replays is None:
        pytest.skip("this transformers' experts wait for the device")
    assert engine.runner.replays.sizes == [1, 2, 4]
    served = []
    replays = engine.runner.replays._replays
    for size, replay in replays.items():
        replays[size] = lambda size=size, replay=replay: (served.append(size), replay())
    assert_same(paths(engine), plain)
    assert_same(paths(engine, n=2), paths(engine_of(model, graphs=False, kernels=False), n=2))  # a page table anew
    assert set(served) == {1, 2, 4}


def test_a_batch_wider_than_every_graph_runs_as_it_is(static_steps, monkeypatch):
    """Would catch: a batch for which there is no size."""
    monkeypatch.setattr(graphs, "batch_sizes", lambda most: [1])
    model = tiny.build("llama", torch.float32, num_hidden_layers=1)
    assert_same(paths(engine_of(model), n=2), paths(engine_of(model, graphs=False, kernels=False), n=2))


@pytest.mark.parametrize("sampling", [
    SamplingConfig.greedy(), SamplingConfig(temperature=1.0, top_k=None, top_p=0.9),
    SamplingConfig(repetition_penalty=1.3),
    SamplingConfig(temperature=1.1, top_k=6, top_p=1.0, min_p=0.1, logprobs=False),
], ids=["greedy", "no top-k", "penalty", "min-p"])
def test_settings_a_graph_does_not_draw_by_are_honoured(sampling, static_steps):
    """Would catch: a filter that the device does not know, left out."""
    model = tiny.build("llama", torch.float32, num_hidden_layers=1)
    plain = paths(engine_of(model, graphs=False, kernels=False), n=1, steps=3, sampling=sampling)
    assert_same(paths(engine_of(model), n=1, steps=3, sampling=sampling), plain)


def test_a_broken_model_is_named_and_nothing_has_changed(static_steps):
    """Would catch: NaN that a graph turns into a token."""
    model = tiny.build("llama", torch.float32, num_hidden_layers=1)
    engine = engine_of(model)
    sequence = engine.add([1, 2, 3], stream=Stream(0, 7), limit=30)
    engine.step()
    before = list(sequence.tokens)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match="path 7 at position 4"):
        engine.step()
    assert sequence.tokens == before and sequence.num_computed == 3


def test_a_model_that_cannot_be_captured_runs_as_it_is(static_steps, monkeypatch, caplog):
    """Would catch: a model whose code waits for the device, on which nothing can be generated."""
    def fail(device):
        def capture(step):
            raise RuntimeError("operation not permitted when stream is capturing")
        return capture

    monkeypatch.setattr(graphs, "cuda_capture", fail)
    model = tiny.build("llama", torch.float32, num_hidden_layers=1)
    with caplog.at_level(logging.WARNING):
        engine = engine_of(model)
    assert engine.runner.replays is None and "not permitted" in caplog.text
    assert len(paths(engine, n=1, steps=2)[0][0]) == 12


def replace(module):
    module.weight = torch.nn.Parameter(-module.weight.detach())


def move(module):
    module.weight.data = -module.weight.data


def hook(module):
    module.register_forward_hook(lambda module, args, output: -output)


@pytest.mark.parametrize(("path", "change"), [("lm_head", replace), *(
    ("model.layers.0.mlp.up_proj", change) for change in (replace, move, hook))])
def test_a_changed_model_is_captured_anew(path, change, static_steps):
    """Would catch: a graph that goes on with weights or code the model no longer has."""
    model = tiny.build("llama", torch.float32, num_hidden_layers=1)
    engine = engine_of(model)
    change(model.get_submodule(path))
    engine.runner.replays.step = None
    assert_same(paths(engine, n=1, steps=3), paths(engine_of(model, graphs=False, kernels=False), n=1, steps=3))
    assert engine.runner.replays is not None


def test_graphs_can_be_switched_off(static_steps):
    """Would catch: an option that does nothing."""
    assert engine_of(tiny.build("llama", torch.float32, num_hidden_layers=1), graphs=False).runner.replays is None


def test_layers_compiled_for_graphs_say_the_same(static_steps, monkeypatch):
    """Would catch: a plan or layer index baked into compiled code, and modules that stay replaced."""
    monkeypatch.setattr(graphs, "batch_sizes", lambda most: [1, 3])
    backend = "inductor" if CUDA else "aot_eager"
    compiling = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: compiling(call, backend=backend, **options))
    model = tiny.build("llama", torch.float32, num_hidden_layers=1)
    plain = paths(engine_of(model, graphs=False, kernels=False), n=2)
    engine = engine_of(model, compile=True)
    assert all(module._compiled_call_impl is None for module in model.modules())
    assert engine.runner.replays is not None
    assert_same(paths(engine, n=2), plain)


# -- the parts --------------------------------------------------------------------------------------------------------


def test_a_page_table_kept_from_step_to_step_is_the_one_built_anew():
    """Would catch: a row left as it was, sharing that ended, a shared page taken for a sequence's own."""
    rng = np.random.default_rng(0)
    entries, fresh, kept = np.full(6 * 64, -1, dtype=np.int32), 0, 0
    table = graphs.PageTable(entries, 4, 64)
    pages, lengths = [[]], [0]
    for _ in range(400):
        if rng.random() < 0.05 or not pages:  # the batch changes
            pages, lengths = [[fresh]], [1]
            fresh += 1
        row = int(rng.integers(len(pages)))
        kind = rng.random()
        if kind < 0.1 and len(pages) < 6:  # a fork: the tail is copied
            pages.insert(row + 1, [*pages[row][:-1], fresh])
            lengths.insert(row + 1, lengths[row])
            fresh += 1
        elif kind < 0.15 and len(pages) > 1:
            del pages[row], lengths[row]
        elif kind < 0.2 and len(pages[row]) > 1:  # a crop, and a page of its own
            keep = int(rng.integers(0, len(pages[row])))
            pages[row] = [*pages[row][:keep], fresh]
            lengths[row] = keep * 4 + 1
            fresh += 1
        for i, length in enumerate(lengths):  # each writes one more token
            if length == 4 * len(pages[i]):
                pages[i].append(fresh)
                fresh += 1
            lengths[i] += 1
        if max(map(len, pages)) > 60:
            pages, lengths = [], []
            continue
        before = table._segments
        actual, segments = table.fill(pages, np.array(lengths))
        kept += segments is before
        wide = np.zeros((len(pages), actual.shape[1]), dtype=np.int64)
        for i, own in enumerate(pages):
            wide[i, : len(own)] = own
        counted = np.arange(actual.shape[1]) < np.array([len(own) for own in pages])[:, None]
        assert np.array_equal(np.where(counted, actual, 0), wide)
        assert np.array_equal(segments, shared_segments(wide, np.array(lengths), 4))
        assert table.used == actual.size and np.shares_memory(actual, entries)
    assert kept > 200


def test_a_mirror_moves_what_it_is_asked_to():
    """Would catch: fields that overlap or are cut short, a dtype read as another."""
    mirror = graphs.Mirror(DEVICE, small=("int32", 3), wide=("float64", 2, 5), last=("int32", 8))
    mirror.host["small"][:] = [1, 2, 3]
    mirror.host["wide"][:] = np.arange(10).reshape(2, 5) / 7
    mirror.host["last"][:] = 9
    mirror.send(4)
    assert mirror.device["small"].tolist() == [1, 2, 3]
    assert np.array_equal(mirror.device["wide"].cpu().numpy(), np.arange(10).reshape(2, 5) / 7)
    assert mirror.device["last"].tolist() == [9] * 4 + [0] * 4
    mirror.device["wide"].add_(1)
    assert mirror.receive()["wide"][1, 4] == 9 / 7 + 1


@given(most=st.integers(1, 600))
def test_batch_sizes_reach_the_largest_batch_and_pad_little(most):
    """Would catch: a batch that no size serves, sizes out of order, a graph that is mostly padding."""
    sizes = graphs.batch_sizes(most)
    assert sizes[-1] == min(most, 512) and sizes == sorted(set(sizes)) and sizes[0] == 1
    assert all(after <= max(2 * before, 2) for before, after in pairwise(sizes))


@settings(max_examples=40)
@given(streams=st.lists(st.builds(Stream, st.integers(0, 2**40), st.integers(0, 9), st.integers(0, 2)), min_size=1,
                        max_size=9), start=st.integers(0, 500))
def test_random_numbers_in_blocks_are_the_same_numbers(streams, start):
    """Would catch: a path whose draws depend on whether a graph made them."""
    blocks = UniformBlocks()
    blocks.MOST = 4
    for step in (0, 1, 63, 64, 200):
        positions = [start + step + i for i in range(len(streams))]
        assert np.array_equal(blocks(streams, positions), uniforms(streams, positions))


class Who:
    """What sampling reads of a sequence."""

    def __init__(self, sampling, path):
        self.sampling, self.stream, self.tokens = sampling, Stream(3, path), [1]
        self.stop_tokens, self.min_length = frozenset(), 0


CONFIGS = [SamplingConfig(), SamplingConfig.greedy(), SamplingConfig(temperature=1.3, top_k=5, top_p=1.0, min_p=0.1),
           SamplingConfig(temperature=1.0, top_k=1), SamplingConfig(top_k=90, top_p=0.5, temperature=2.0),
           SamplingConfig(temperature=0.7, top_k=40, top_p=1.0), SamplingConfig(logprobs=False)]


@pytest.mark.parametrize("vocab", [60, 128, 700])
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "levels"])
def test_device_draws_are_those_of_sample(kind, vocab):
    """Would catch: another support, another order among ties, settings of another row, a draw off by one."""
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(280, vocab, generator=generator, dtype=torch.float64) * 3
    logits = (logits * 4).round() / 4 if kind == "levels" else logits.to(getattr(torch, kind))
    who = [Who(CONFIGS[i % len(CONFIGS)], i) for i in range(280)]
    lengths = list(range(280))
    assert all(device_sampling.serves(n, w, vocab) for n, w in zip(lengths, who, strict=True))
    numbers = device_sampling.parameters(who, uniforms([w.stream for w in who], lengths), vocab)
    drawn = device_sampling.draw(logits.to(DEVICE), torch.from_numpy(numbers).to(DEVICE)).cpu().numpy()
    served = np.isfinite(drawn).all(axis=1)
    crowded = kind == "levels" and vocab == 700
    assert crowded or served.all()
    rows = np.flatnonzero(served)
    assert len(rows) > 100
    actual = device_sampling.sampled(drawn[rows], [who[r] for r in rows])
    expected = sample(logits[rows], [lengths[r] for r in rows], [who[r] for r in rows])
    assert actual.tokens == expected.tokens
    assert actual.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    assert actual.sampling_logprobs == pytest.approx(expected.sampling_logprobs, abs=1e-5)


@pytest.mark.parametrize("tied", [1, TIE_SLACK, device_sampling.CANDIDATES - 1, device_sampling.CANDIDATES, 300])
def test_rows_with_more_ties_than_candidates_are_handed_back(tied):
    """Would catch: a token that ties with the k-th and can never be drawn."""
    logits = torch.full((2, 400), -5.0)
    logits[:, 7] = 3.0
    logits[:, 100 : 100 + tied] = 2.0
    who = [Who(SamplingConfig(top_k=2), 0), Who(SamplingConfig.greedy(), 1)]
    numbers = device_sampling.parameters(who, np.array([0.5, 0.5]), 400)
    drawn = device_sampling.draw(logits, torch.from_numpy(numbers)).numpy()
    assert np.isfinite(drawn[0]).all() == (1 + tied < device_sampling.CANDIDATES)
    assert np.isfinite(drawn[1]).all() and drawn[1, 0] == 7


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_handed_back(bad):
    """Would catch: a token drawn from a row that has none."""
    logits = torch.randn(3, 400)
    logits[1, 300] = bad
    logits[2] = -torch.inf
    who = [Who(SamplingConfig() if bad == torch.inf else SamplingConfig.greedy(), i) for i in range(3)]
    numbers = device_sampling.parameters(who, np.full(3, 0.5), 400)
    drawn = device_sampling.draw(logits, torch.from_numpy(numbers)).numpy()
    assert np.isfinite(drawn).all(axis=1).tolist() == [True, False, False]
    assert device_sampling.sampled(drawn, who) is None


def test_what_needs_more_than_the_most_likely_tokens_is_not_drawn_on_the_device():
    """Would catch: a setting whose effect the device would leave out."""
    def serves(length=5, stop=(), min_length=0, vocab=1000, **settings):
        who = Who(SamplingConfig(**settings), 0)
        who.stop_tokens, who.min_length = frozenset(stop), min_length
        return device_sampling.serves(length, who, vocab)

    assert serves() and serves(temperature=0.0, top_k=None) and serves(stop=[3], min_length=5)
    most = device_sampling.CANDIDATES - TIE_SLACK
    assert serves(top_k=most) and not serves(top_k=most + 1)
    assert not serves(top_k=None) and serves(top_k=None, vocab=device_sampling.CANDIDATES)
    assert not serves(stop=[3], min_length=6) and not serves(repetition_penalty=1.1)
    assert not serves(logits_processors=(lambda ids, scores: scores,))


def test_a_model_on_cpu_is_not_captured(monkeypatch):
    """Would catch: a CPU engine that tries to capture."""
    monkeypatch.setattr(graphs, "cuda_capture", lambda device: pytest.fail("captured"))
    model = tiny.build("llama", torch.float32, num_hidden_layers=1)
    made = runner.Runner(model, EngineConfig(kv_cache_bytes=1 << 20, compile=False))
    assert made.replays is None and isinstance(made.backend, (CPUBackend, ReferenceBackend))


def test_a_model_on_two_devices_is_not_captured(static_steps):
    """Would catch: a graph of one device's work, which leaves out the other's."""
    engine = engine_of(tiny.build("llama", torch.float32, num_hidden_layers=1))
    assert engine.runner.replays is not None
    engine.runner.paged.model.register_buffer("elsewhere", torch.empty(2, device="meta"))
    assert engine.runner.backend.capture(engine.runner.paged, engine.runner.cache) is None
