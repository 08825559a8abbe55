"""Decoder layers as programs: what is captured is computed, for every family, and what cannot be said is refused."""

import ctypes
import logging
import math
import weakref

import pytest
import tiny
import torch
import torch.nn.functional as F
from leapgen_kernels import cpu, ops
from leapgen_kernels.interface import StageKind
from leapgen_kernels.program import Memory, ProgramError, Stack, stack
from leapgen_kernels.program.assembly import lay_out
from transformers import AutoConfig, AutoModelForCausalLM

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine
from leapgen.engine.backends import seams
from leapgen.engine.backends.cpu.compiler import graph as graphs
from leapgen.engine.backends.cpu.compiler.lowering import lower
from leapgen.engine.backends.cpu.linear import use_linear_kernel
from leapgen.engine.stream import Stream

pytestmark = pytest.mark.skipif(cpu.library() is None, reason="built without a C++ compiler")

_LLAMA = tiny.ARCHITECTURES["llama"]
FAMILIES = {name: tiny.ARCHITECTURES[name] for name in (
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "olmo2", "granite", "glm4", "smollm3",
    "gpt_neox")}
FAMILIES |= {"phi": _LLAMA, "starcoder2": _LLAMA, "cohere": {**_LLAMA, "pad_token_id": 0},
             "helium": {**_LLAMA, "head_dim": 8}, "exaone4": _LLAMA, "opt": {
                 "vocab_size": 160, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "max_position_embeddings": 512}}


_EXPERTS = {**_LLAMA, "num_experts": 4, "num_experts_per_tok": 2}
EXPERTS = {"qwen3_moe": tiny.ARCHITECTURES["qwen3_moe"], "olmoe": {**_EXPERTS, "pad_token_id": 0},
           "qwen2_moe": {**_EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}}


def built(name, dtype, **changes):
    torch.manual_seed(0)
    settings = {**(FAMILIES | EXPERTS)[name], **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **settings), dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that say something
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def logits_of(engine, steps=5):
    """Logits of prefill and decode steps, five sequences that read given tokens."""
    found, forward = [], engine.runner.forward
    engine.runner.forward = lambda chunks: found.append(forward(chunks)) or found[-1]
    family = [engine.add([(3 + 7 * i + j) % 150 for i in range(9 + 4 * j)], SamplingConfig(), stream=Stream(0, j), limit=90)
              for j in range(5)]
    for step in range(steps):
        engine.step()
        for sequence in family:
            if sequence.sampled[-1]:
                sequence.tokens[-1] = (11 * step + sequence.id) % 150
    return torch.cat(found).float()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_one_call_a_layer(name, monkeypatch):
    """Would catch: an instruction that computes something else, a view read wrongly (interleaved, partial and concatenated
    rotary embeddings, fused projections), a buffer overwritten while it is needed, a family that falls back to inductor."""
    torch._dynamo.reset()  # it remembers what an earlier test captured
    written = []
    monkeypatch.setattr(graphs, "lower", lambda graph: written.append(lower(graph)) or written[-1])
    model = built(name, torch.float32)
    config = {"page_size": 4, "kv_cache_bytes": 1 << 22, "draft_tokens": 0}
    expected = logits_of(Engine(model, EngineConfig(**config, compile=False)))
    engine = Engine(model, EngineConfig(**config, compile=True))
    assert engine.runner.backend.compiled and written
    found = logits_of(engine)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", EXPERTS)
def test_families_that_no_program_says_are_compiled_by_inductor(name, caplog):
    """Would catch: an operation in a form that lowering does not foresee, which leaves a family without compiled layers."""
    torch._dynamo.reset()
    model = built(name, torch.float32)
    config = {"page_size": 4, "kv_cache_bytes": 1 << 22, "draft_tokens": 0}
    expected = logits_of(Engine(model, EngineConfig(**config, compile=False)))
    with caplog.at_level(logging.INFO, logger="leapgen"):
        engine = Engine(model, EngineConfig(**config, compile=True))
    assert engine.runner.backend.compiled
    assert "compiled by inductor, not to a program" in caplog.text and "slower" not in caplog.text
    found = logits_of(engine)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3"])
def test_bfloat16_is_rounded_no_more_than_the_model_rounds(name):
    """Would catch: numbers stored as the wrong type; sums that are rounded where the model's are not. The model itself is
    the measure: how far its bfloat16 logits are from float32's."""
    exact = built(name, torch.float32)
    rounded = built(name, torch.float32).bfloat16()
    exact.load_state_dict(rounded.state_dict())
    config = {"page_size": 4, "kv_cache_bytes": 1 << 22, "draft_tokens": 0}
    expected = logits_of(Engine(exact, EngineConfig(**config, compile=False)))
    own = (logits_of(Engine(rounded, EngineConfig(**config, compile=False, kernels=False))) - expected).pow(2).mean()
    found = (logits_of(Engine(rounded, EngineConfig(**config, compile=True))) - expected).pow(2).mean()
    assert 0 < found <= 1.2 * own


def kinds_of(program):
    """What each stage of a program is, gated ones with the stages they stand for behind them."""
    code, found = program.code.tolist(), []
    at = 2 + code[1]
    while code[at] != StageKind.END:
        found.append(code[at])
        at += 2 + code[at + 1]
    return found


@pytest.fixture
def gated_by_model(monkeypatch):
    """Gated layers by the tiles' model, on whatever machine."""
    monkeypatch.setitem(cpu._GATED, torch.bfloat16, cpu.library().leapgen_gated_amx_model)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_text", "qwen3", "granite"])
def test_gated_layers_are_one_kernel(name, gated_by_model, monkeypatch):
    """In bfloat16, where there is such a kernel. Would catch: stages skipped that were needed, or not skipped; the gate
    taken for the factor. The measure is float32's logits, as in the test above. Without the kernel others come out, for
    there what lies between the layers is rounded."""
    torch._dynamo.reset()
    written = []
    monkeypatch.setattr(graphs, "lower", lambda graph: written.append(lower(graph)) or written[-1])
    exact = built(name, torch.float32, intermediate_size=64)
    rounded = built(name, torch.float32, intermediate_size=64).bfloat16()
    exact.load_state_dict(rounded.state_dict())
    config = {"page_size": 4, "kv_cache_bytes": 1 << 22, "draft_tokens": 0}
    expected = logits_of(Engine(exact, EngineConfig(**config, compile=False)))
    own = (logits_of(Engine(rounded, EngineConfig(**config, compile=False, kernels=False))) - expected).pow(2).mean()
    found = logits_of(Engine(rounded, EngineConfig(**config, compile=True)))
    assert all(kinds_of(program).count(StageKind.GATED) == 1 for program, _ in written)
    assert 0 < (found - expected).pow(2).mean() <= 1.2 * own
    monkeypatch.delitem(cpu._GATED, torch.bfloat16)
    assert not torch.equal(found, logits_of(Engine(rounded, EngineConfig(**config, compile=True))))


class Gated(torch.nn.Module):
    def __init__(self, function, inner):
        super().__init__()
        self.gate, self.factor, self.other = (torch.nn.Linear(32, inner) for _ in range(3))
        self.out, self.function = torch.nn.Linear(inner, 32), function

    def forward(self, x):
        return x + self.function(self, x)


@pytest.mark.parametrize(("function", "inner", "gated"), [
    (lambda m, x: m.out(F.silu(m.gate(x)) * m.factor(x)), 64, True),
    (lambda m, x: m.out(m.factor(x) * F.relu(m.gate(x))), 64, True),
    (lambda m, x: m.out(F.silu(m.gate(x)) * m.factor(x)), 48, False),
    (lambda m, x: m.out(F.silu(m.gate(x)) * m.factor(x) + 1), 64, False),
    (lambda m, x: m.out(F.silu(m.gate(x)) + m.factor(x)), 64, False),
    (lambda m, x: m.out(torch.tanh(m.gate(x)) * m.factor(x)), 64, False),
    (lambda m, x: (lambda g: m.out(F.silu(g) * g))(m.gate(x)), 64, False),
    (lambda m, x: m.out(F.silu(m.gate(x)) * m.factor(x) * m.other(x)), 64, False),
    (lambda m, x: m.out(torch.cat([F.silu(m.gate(x)[..., :32])] * 2, dim=-1) * m.factor(x)), 64, False),
    (lambda m, x: (lambda h: m.out(h) + h[..., :32])(F.silu(m.gate(x)) * m.factor(x)), 64, False),
    (lambda m, x: (lambda g: m.out(F.silu(g) * m.factor(x)) + g[..., :32])(m.gate(x)), 64, False)],
    ids=["gated", "the factor first", "odd width", "a sum more", "a sum", "another function", "no factor", "two factors",
         "half a gate", "the product is needed again", "the gate is needed again"])
def test_only_gated_layers_are_taken_for_them(function, inner, gated, gated_by_model):
    """Would catch: a kernel in place of what is something else, or whose intermediate results are needed afterwards."""
    torch.manual_seed(0)
    module = Gated(function, inner).bfloat16()
    program, nodes = lower(captured(module, torch.randn(1, 7, 32).bfloat16()))
    assert kinds_of(program).count(StageKind.GATED) == gated
    x = torch.randn(1, 5, 32).bfloat16()
    with torch.no_grad():
        found = program(*[eval(seams.source(node), {"L": {"self": module, "x": x}}) for node in nodes])
        expected = module.double()(x.double())
    assert (found - expected).abs().max() <= 2**-6 * expected.abs().max()


# -- single operations ------------------------------------------------------------------------------------------------


class Captured(Exception):
    pass


def captured(function, *inputs):
    """The graph of ``function`` as the engine captures a layer's; linear layers by kernel."""
    graphs = []

    def backend(graph, _):
        use_linear_kernel(graph)
        graphs.append(graph)
        raise Captured

    torch._dynamo.reset()
    try:
        with torch.no_grad():
            torch.compile(function, backend=backend, fullgraph=True, dynamic=True)(*inputs)
    except Exception as error:
        if not graphs:
            raise error
    return graphs[0]


class Around(torch.nn.Module):
    """A function between two linear layers."""

    def __init__(self, function, width, wide):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.into, self.out = torch.nn.Linear(width, wide), torch.nn.Linear(wide, width)
        self.weight = torch.nn.Parameter(torch.randn(wide, generator=generator))
        self.function = function

    def forward(self, x):
        return x + self.out(self.function(self, self.into(x)))


def through(function, tokens=5, width=21, wide=30, dtype=torch.float32):
    """What the program gives and what torch does, in float64."""
    module = Around(function, width, wide).to(dtype)
    x = (4 * torch.randn(1, 7, width, generator=torch.Generator().manual_seed(1))).to(dtype)
    program, nodes = lower(captured(module, x))
    x = (4 * torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(2))).to(dtype)
    given = [eval(seams.source(node), {"L": {"self": module, "x": x}}) for node in nodes]
    with torch.no_grad():
        return program(*given), module.double()(x.double())


def rotated(x):  # halves, as Llama's
    return torch.cat([-x[..., x.shape[-1] // 2:], x[..., : x.shape[-1] // 2]], dim=-1)


def interleaved(x):  # neighbours, as GPT-J's
    return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)


OPERATIONS = {
    "silu": lambda m, x: F.silu(x), "gelu": lambda m, x: F.gelu(x), "gelu tanh": lambda m, x: F.gelu(x, approximate="tanh"),
    "relu": lambda m, x: torch.relu(x), "tanh": lambda m, x: torch.tanh(x), "sigmoid": lambda m, x: torch.sigmoid(x),
    "squared relu": lambda m, x: F.relu(x).pow(2), "cube": lambda m, x: x.pow(3), "divide": lambda m, x: x / (2 + x * x),
    "rms norm": lambda m, x: m.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "rms norm a head": lambda m, x: (
        lambda h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))(x.view(1, x.shape[1], 3, 10)).flatten(2),
    "mean of every other": lambda m, x: x + x[..., ::2].mean(-1, keepdim=True),
    "layer norm": lambda m, x: F.layer_norm(x, (30,), m.weight, m.weight + 0.5, 1e-5),
    "one plus weight": lambda m, x: x * (1.0 + m.weight.float()), "constants": lambda m, x: 2 - x / 3 + 1 - (5 - x),
    "rotated": lambda m, x: (
        lambda h: (h * 0.3 + rotated(h) * 0.7).transpose(1, 2))(x.view(1, x.shape[1], 3, 10).transpose(1, 2)).flatten(2),
    "interleaved": lambda m, x: interleaved(x.view(1, x.shape[1], 3, 10)).flatten(2) * x,
    "chunks": lambda m, x: torch.cat([F.silu(a) * b for a, b in [x.chunk(2, dim=-1)] * 2], dim=-1),
    "repeated": lambda m, x: x * x[..., :15].repeat_interleave(2, dim=-1),
    "used again": lambda m, x: F.silu(x) * x + F.silu(x),
}


@pytest.fixture(params=["wide", "narrow"])
def lanes(request):
    """Sixteen, where the machine has them, and eight."""
    wide = ctypes.c_int.in_dll(cpu.library(), "leapgen_layers_wide")
    before = wide.value
    wide.value = before and request.param == "wide"
    yield
    wide.value = before


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_operations(name, tokens, lanes):
    """Widths that are no multiples of a vector, halves that begin within one."""
    found, expected = through(OPERATIONS[name], tokens)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 3e-6 * expected.abs().max()


def test_what_a_later_linear_layer_needs_again_is_kept():
    """Would catch: a residual that is computed between two kernels and lost, or its place in the workspace given away."""
    def function(module, x):
        kept = F.silu(x)
        once = module.into(module.out(kept))
        return kept + module.into(module.out(torch.tanh(once))) + once

    found, expected = through(function, tokens=4)
    assert (found - expected).abs().max() <= 3e-6 * expected.abs().max()


@pytest.mark.parametrize("function", [
    lambda m, x: x.cumsum(1), lambda m, x: x - x.mean(1, keepdim=True), lambda m, x: x * x[:, -1:], lambda m, x: x.flip(1),
    lambda m, x: x + torch.cat([x[:, 1:], x[:, :1]], dim=1),
    lambda m, x: x.view(1, 3, x.shape[1], 10).transpose(1, 2).flatten(2),
    lambda m, x: x / x.shape[1], lambda m, x: x * x.softmax(-1),
    lambda m, x: x.to(torch.int64).float(), lambda m, x: F.relu(x, inplace=True) + x, lambda m, x: x.add_(1.0) * x,
    lambda m, x: x + torch.arange(30),
    lambda m, x: x.sort(-1)[0], lambda m, x: F.softmax(x, dim=-1, dtype=torch.float32), lambda m, x: F.silu(input=x)],
    ids=["sum over tokens", "mean over tokens", "last token", "flipped", "shifted", "heads read as tokens",
         "number of tokens", "softmax", "whole numbers", "in place", "in place, a method", "arange", "sort",
         "softmax in a dtype", "an operand by name"])
def test_what_mixes_tokens_or_is_not_known_is_refused(function):
    """Would catch: a program that takes one token for another, or leaves an operation out."""
    with pytest.raises(ProgramError):
        through(function)


def test_inputs_of_another_width_are_refused():
    module = Around(OPERATIONS["silu"], 8, 8)
    program, nodes = lower(captured(module, torch.randn(1, 7, 8)))
    with pytest.raises(ValueError, match="other shapes"):
        program(*[eval(seams.source(node), {"L": {"self": module, "x": torch.randn(1, 5, 9)}}) for node in nodes])


def test_workspace_lives_as_long_as_the_call(monkeypatch):
    """Would catch: a large workspace, which nobody keeps from one call to the next, given back before the kernels use it."""
    module, x, made, alive = Around(OPERATIONS["silu"], 8, 8), torch.randn(1, 7, 8), [], []
    program, nodes = lower(captured(module, x))
    workspace, run_layers = Stack._workspace, cpu.run_layers
    monkeypatch.setattr(stack, "KEPT_BYTES", 0)
    monkeypatch.setattr(Stack, "_workspace", lambda *a: made.append(weakref.ref(one := workspace(*a))) or one)
    monkeypatch.setattr(cpu, "run_layers", lambda *a: alive.append(made[-1]() is not None) or run_layers(*a))
    program(*[eval(seams.source(node), {"L": {"self": module, "x": x}}) for node in nodes])
    assert alive == [True] and made[-1]() is None


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu tanh", "relu", "tanh", "sigmoid"])
def test_not_a_number_stays_one(name, lanes):
    """Would catch: an overflow hidden by an activation: the engine has to name the path and position it came from."""
    found, _ = through(lambda m, x: OPERATIONS[name](m, x * math.nan), tokens=2)
    assert found.isnan().all()


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu tanh", "tanh", "sigmoid"])
def test_activations_of_large_numbers(name, lanes):
    """Would catch: an exponential that overflows, a reciprocal of infinity."""
    found, expected = through(lambda m, x: OPERATIONS[name](m, x * 1000), tokens=2)
    assert (found - expected).abs().max() <= 3e-6 * expected.abs().max()


def test_buffers_in_use_together_lie_apart():
    """Over random lifetimes: no two overlap while both are needed, and what is no longer needed is given again."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        first = torch.randint(0, 20, (12,), generator=generator).tolist()
        length = torch.randint(0, 8, (12,), generator=generator).tolist()
        width = torch.randint(1, 200, (12,), generator=generator).tolist()
        buffers = [Memory(w, torch.bfloat16, first=f, last=f + n) for w, f, n in zip(width, first, length, strict=True)]
        offsets, total = lay_out(buffers)
        for i, (a, begin) in enumerate(zip(buffers, offsets, strict=True)):
            assert begin % 64 == 0 and begin + 2 * a.width <= total
            for b, other in list(zip(buffers, offsets, strict=True))[:i]:
                if a.first <= b.last and b.first <= a.last:
                    assert begin + 2 * a.width <= other or other + 2 * b.width <= begin
        assert total <= sum(-(-2 * b.width // 64) * 64 for b in buffers)


def test_the_linear_operator_is_what_is_captured():
    graph = captured(Around(OPERATIONS["silu"], 8, 8), torch.randn(1, 7, 8))
    assert sum(node.target is ops.linear for node in graph.graph.nodes) == 2
