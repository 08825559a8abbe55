"""What only a CUDA device can show: compiled kernels at the sizes they are for, captured steps, a whole LeaP run."""

import leap_run
import pytest
import tiny
import torch
from leapgen_kernels import gpu
from oracle import LogitsRecorder, full_logits

from leapgen import EngineConfig, LeapGenerator, SamplingConfig
from leapgen.engine import Engine, Stream
from leapgen.engine.backends.cuda.backend import CUDABackend
from leapgen.engine.backends.cuda.tiles import Attends
from leapgen.engine.backends.reference import ReferenceBackend, paged_attention
from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.sampling import device as device_sampling
from leapgen.engine.sampling.host import sample
from leapgen.engine.sampling.random import uniforms
from leapgen.engine.step import Step

DEVICE = torch.device("cuda")
pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
              pytest.mark.skipif(gpu.library() is None, reason="needs Triton")]

# Rounded once each: a weight and the output. In units of the attention over the values' sizes; float32 sums of
# thousands of terms keep 2e-5 of that.
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
SIZES = {  # kv heads, group, key width, value width, window, softcap, sinks
    "qwen2.5-7b": (4, 7, 128, 128, None, None, False),
    "llama-8b": (8, 4, 128, 128, None, None, False),
    "gemma2": (4, 2, 256, 256, 300, 50.0, False),
    "gpt-oss": (8, 8, 64, 64, 128, None, True),
    "deepseek": (8, 1, 192, 128, None, None, False),
    "phi-2": (4, 1, 80, 80, None, None, False),
    "one kv head": (1, 71, 64, 64, None, None, False),
}


EXPERTS = ("qwen3_moe", "gpt_oss", "deepseek_v3", "granitemoehybrid")


def steps(page_size):
    """Pages and (start, end) of decodes that share nested prefixes, decodes alone, and prefills."""
    trunk, branch = list(range(60)), list(range(60, 90))
    spans, pages, free = [], [], 90
    for i in range(24):
        common = trunk + branch if i < 9 else trunk if i < 17 else []
        own = 1 + 5 * (i % 7)
        pages.append(common + list(range(free, free + own)))
        free += own
        end = len(pages[-1]) * page_size - i % page_size
        spans.append((end - (1 if i % 8 else 1 + i % page_size), end))
    for start, end in ((0, 700), (333, 901)):
        pages.append(list(range(free, free + -(-end // page_size))))
        free += len(pages[-1])
        spans.append((start, end))
    return pages, spans, free


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_kernels_at_full_size(name, dtype):
    """Would catch: what the interpreter cannot show: a race, a wrong compilation, too little shared memory."""
    kv_heads, group, key_dim, value_dim, window, softcap, with_sinks = SIZES[name]
    pages, spans, count = steps(16)
    torch.manual_seed(0)
    cache = KVCache({0: LayerSpec(kv_heads, key_dim, value_dim, dtype, DEVICE)}, count, 16)
    cache.keys[0].normal_()
    cache.values[0].normal_()
    step = Step.build(cache, pages, *map(list, zip(*spans, strict=True)))
    plan, tokens = ReferenceBackend().prepare(step), len(step.slots)
    query, key, value = (torch.randn(1, heads, tokens, dim, device=DEVICE).to(dtype) for heads, dim in (
        (kv_heads * group, key_dim), (kv_heads, key_dim), (kv_heads, value_dim)))
    sinks = torch.randn(kv_heads * group, device=DEVICE).to(dtype) if with_sinks else None
    options = {"scaling": key_dim**-0.5, "sliding_window": window, "softcap": softcap, "sinks": sinks}
    arguments = query, key, value, cache.keys[0], cache.values[0], CUDABackend().prepare(step).tiles(Attends.of(query, key))
    actual, again = gpu.attend(*arguments, **options)[0], gpu.attend(*arguments, **options)[0]
    assert torch.equal(actual, again), "a result depends on which program came first"
    slots = plan.on(DEVICE).slots
    assert torch.equal(cache.keys[0].flatten(0, 1)[slots], key[0].transpose(0, 1))
    assert torch.equal(cache.values[0].flatten(0, 1)[slots], value[0].transpose(0, 1))
    options["sinks"] = None if sinks is None else sinks.double()
    exact, sizes = (paged_attention(query[0].transpose(0, 1).double(), cache.keys[0].double(), values, plan, **options)
                    for values in (cache.values[0].double(), cache.values[0].double().abs()))
    error = (actual.double() - exact).abs() / (ROUNDING[dtype] * (sizes + 1e-2))
    assert float(error.max()) <= 1


def fork_and_extend(engine, steps=20):
    """A tree of paths: forks, forced tokens, a crop, paths that end one by one."""
    prompt = [3 + 5 * i % 150 for i in range(70)]
    sampling = SamplingConfig(temperature=0.8, top_k=20, top_p=0.9)
    root = engine.add(prompt, sampling, limit=len(prompt) + 5)
    family = [root, *(engine.fork(root, stream=Stream(7, i)) for i in range(1, 6))]
    while engine.has_work:
        engine.step()
    engine.crop(family[1], len(prompt) + 2)
    for i, one in enumerate(family):
        engine.extend(one, [9, 8, 7][: i % 4], limit=len(one) + steps + i)
    late = engine.fork(family[2], stream=Stream(7, 9))
    engine.extend(late, [11, 12], limit=len(late) + steps)
    while engine.has_work:
        engine.step()
    engine.check_integrity()
    return [*family, late]


def engines(model, **changes):
    """With graphs, and in plain torch."""
    config = EngineConfig(page_size=16, kv_cache_bytes=1 << 26, max_batch_size=8, **{"compile": False, **changes})
    return Engine(model, config), Engine(model, config.replace(kernels=False))


@pytest.mark.parametrize("name", [name for name in tiny.ARCHITECTURES if name not in EXPERTS])
def test_captured_steps_say_what_plain_torch_says(name):
    """Would catch: anything a captured step does otherwise, in any architecture; float32, token for token."""
    graphed, plain = engines(tiny.build(name, torch.float32).to(DEVICE))
    assert graphed.runner.replays is not None, "not captured"
    assert plain.runner.replays is None
    actual, expected = fork_and_extend(graphed), fork_and_extend(plain)
    assert [s.tokens for s in actual] == [s.tokens for s in expected]


@pytest.mark.parametrize("name", EXPERTS)
def test_models_with_experts_run_captured_or_not(name):
    """Would catch: a capture that fails half-way and leaves the device unusable."""
    graphed, plain = engines(tiny.build(name, torch.float32).to(DEVICE))
    assert [s.tokens for s in fork_and_extend(graphed)] == [s.tokens for s in fork_and_extend(plain)]


@pytest.mark.parametrize("compile", [False, True])
def test_bfloat16_logits_of_captured_steps_stay_close(compile):
    """Would catch: a captured step that reads wrong pages or settings in half precision. Bound: 5% of the spread."""
    model = tiny.build("qwen2", torch.bfloat16, hidden_size=512, num_hidden_layers=4, num_attention_heads=8,
                       intermediate_size=1024, vocab_size=1000).to(DEVICE)
    engine, _ = engines(model, compile=compile)
    graphs = engine.runner.replays
    assert graphs is not None
    recorder = LogitsRecorder(engine)
    step, served = graphs.step, []

    def recording_step(chunks):
        result = step(chunks)
        served.append(len(chunks))
        for chunk, row in zip(chunks, graphs.logits, strict=False):
            recorder.rows.setdefault(chunk.sequence, {})[chunk.end] = row.clone()
        return result

    graphs.step = recording_step
    family = fork_and_extend(engine)
    assert len(served) > 20
    errors = []
    for one in family:
        expected = full_logits(model, one.tokens).float()
        errors += [(row.float() - expected[length - 1]).norm() / expected[length - 1].std() / row.numel() ** 0.5
                   for length, row in recorder.rows[one].items() if one.tokens[length:]]
    assert max(errors) < 0.05


def test_a_pool_that_is_too_small_for_all_preempts_and_says_the_same():
    """Would catch: a page table kept from before a preemption."""
    model = tiny.build("llama", torch.float32).to(DEVICE)
    roomy, _ = engines(model)
    expected = [s.tokens for s in fork_and_extend(roomy)]
    page = roomy.runner.cache.bytes_per_token * 16
    tight = Engine(model, EngineConfig(page_size=16, kv_cache_bytes=14 * page, max_batch_size=8, compile=False))
    assert [s.tokens for s in fork_and_extend(tight)] == expected
    assert tight.scheduler.num_preemptions > 0


def test_a_leap_run_with_graphs_is_the_run_without():
    """Would catch: what only whole blocks of summaries, forks and injected comments bring about."""
    outputs = []
    for graphs in (True, False):
        config = EngineConfig(page_size=4, kv_cache_bytes=1 << 25, max_step_tokens=64, graphs=graphs, kernels=graphs,
                              max_batch_size=16, compile=False)
        on_cpu = leap_run.generator()
        leap = LeapGenerator(on_cpu.model.to(DEVICE), on_cpu.tokenizer, engine=config)
        assert (leap.engine.runner.replays is not None) == graphs
        output = leap.generate(leap_run.QUESTION, n=6, leap=leap_run.LEAP, sampling=leap_run.SAMPLING, seed=3)
        outputs.append([path.token_ids for path in output.paths])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draws_of_a_captured_sampler(dtype):
    """Would catch: an operation of the sampler that waits for the host, or one that a graph records with old values."""
    class Who:
        def __init__(self, config, path):
            self.sampling, self.stream, self.tokens = config, Stream(3, path), [1]
            self.stop_tokens, self.min_length = frozenset(), 0

    vocab, rows = 152064, 32
    configs = [SamplingConfig(), SamplingConfig.greedy(), SamplingConfig(top_k=5, min_p=0.1)]
    who = [Who(configs[i % 3], i) for i in range(rows)]
    logits = torch.empty(rows, vocab, device=DEVICE, dtype=dtype)
    parameters = torch.zeros(rows, device_sampling.PARAMETERS, device=DEVICE, dtype=torch.float64)
    parameters[:, :3] = 1
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        device_sampling.draw(logits.zero_(), parameters)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = device_sampling.draw(logits, parameters)
    for seed in range(3):
        torch.manual_seed(seed)
        logits.normal_(0, 4)
        lengths = list(range(seed, seed + rows))
        numbers = device_sampling.parameters(who, uniforms([w.stream for w in who], lengths), vocab)
        parameters.copy_(torch.from_numpy(numbers))
        graph.replay()
        actual, expected = device_sampling.sampled(drawn.cpu().numpy(), who), sample(logits, lengths, who)
        assert actual.tokens == expected.tokens
        assert actual.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
        assert actual.sampling_logprobs == pytest.approx(expected.sampling_logprobs, abs=1e-4)
