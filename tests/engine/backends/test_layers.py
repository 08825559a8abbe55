"""Compiled layers and linear layers by kernel: the same results as the model's own modules, and nothing left behind."""

import logging

import pytest
import tiny
import torch
from leapgen_kernels import cpu
from torch._dynamo.utils import counters
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaModel

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine
from leapgen.engine.backends.cpu.compiler import layers
from leapgen.engine.stream import Stream

pytestmark = pytest.mark.skipif(cpu.library() is None, reason="built without a C++ compiler")


def engine_of(model, compile):
    return Engine(model, EngineConfig(page_size=4, kv_cache_bytes=1 << 23, compile=compile))


def generated(engine, n, prompt=40, steps=12):
    tokens = [(3 + 7 * i) % 150 for i in range(prompt)]
    first = engine.add(tokens, SamplingConfig(), stream=Stream(5, 0), limit=prompt + steps)
    family = [first, *(engine.fork(first, stream=Stream(5, i)) for i in range(1, n))]
    while engine.has_work:
        engine.step()
    tokens = [s.tokens for s in family]
    for sequence in family:
        engine.release(sequence)
    return tokens


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])  # GPT-2's layers are inductor's: they have no nn.Linear
def test_compiled_layers_say_the_same(name):
    """Would catch: a graph called with another layer's weights or another size's; a layer that takes another's turn in the
    plan; a window or softcap lost in compiling; a graph compiled anew for each size."""
    model = tiny.build(name, torch.float32)
    expected = {n: generated(engine_of(model, False), n) for n in (1, 2, 9, 30)}
    engine = engine_of(model, True)
    assert engine.runner.backend.compiled
    assert all(layer.direct is not None for layer in engine.runner.backend._overrides._stack.calls.values())
    compiled = counters["stats"]["unique_graphs"]
    assert {n: generated(engine, n) for n in expected} == expected
    assert counters["stats"]["unique_graphs"] == compiled


class Halving(LlamaModel):
    """Works on what its layers hand on to each other."""

    def forward(self, input_ids, position_ids=None, use_cache=False, **kwargs):
        hidden = self.embed_tokens(input_ids)
        if position_ids is None:
            position_ids = torch.arange(hidden.shape[1])[None]
        angles = self.rotary_emb(hidden, position_ids)
        made = []
        for layer in self.layers:
            hidden = layer(self.between(hidden), position_ids=position_ids, position_embeddings=angles, **kwargs)
            made.append(hidden)
        return BaseModelOutputWithPast(self.norm(self.after(made)))

    def between(self, hidden):
        return hidden * 0.5

    def after(self, made):
        return made[-1]


class Reaching(Halving):
    """Comes back to what the first layer made."""

    def between(self, hidden):
        return hidden

    def after(self, made):
        return made[0] + made[-1]


@pytest.mark.parametrize("kind", [Halving, Reaching])
def test_layers_that_do_not_simply_follow_on_each_other_are_called_one_by_one(kind, caplog):
    """Would catch: all layers run by one call in a model that does something between them, or with what one has made."""
    model = tiny.build("llama", torch.float32)
    plain = generated(engine_of(model, False), 3)
    model.model.__class__ = kind
    expected = generated(engine_of(model, False), 3)
    with caplog.at_level(logging.INFO):
        engine = engine_of(model, True)
    assert engine.runner.backend.compiled and "one by one" in caplog.text
    assert generated(engine, 3) == expected != plain


def test_the_model_is_left_as_it_was_and_its_weights_are_read_where_they_lie():
    """Would catch: modules that stay replaced, a packed copy that goes stale when a trainer moves the weights."""
    model = tiny.build("llama", torch.float32)
    engine = engine_of(model, True)
    before = generated(engine, 2)
    assert all(module._compiled_call_impl is None for module in model.modules())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.7)
    after = generated(engine, 2)
    assert after != before
    assert after == generated(engine_of(model, False), 2)


def test_a_compiler_that_fails_is_no_reason_to_stop(monkeypatch, caplog):
    """Would catch: a machine without g++ on which nothing can be generated, or that is not told why it is slow."""
    def fail(graph, inputs):
        raise OSError("g++: not found")

    monkeypatch.setattr(layers, "compile_graph", fail)
    model = tiny.build("olmo2", torch.float32)
    with caplog.at_level(logging.WARNING):
        engine = engine_of(model, True)
    assert not engine.runner.backend.compiled and "g++: not found" in caplog.text
    assert generated(engine, 3) == generated(engine_of(model, False), 3)


def test_modules_with_hooks_of_their_own_are_left_alone():
    """Would catch: a hook (accelerate's offloading, an adapter, a probe) that a compiled layer skips."""
    model = tiny.build("llama", torch.float32)
    seen = []
    model.lm_head.register_forward_hook(lambda *_: seen.append(1))
    model.model.layers[0].mlp.register_forward_hook(lambda *_: seen.append(2))
    engine = engine_of(model, True)
    assert not engine.runner.backend.compiled
    generated(engine, 2)
    assert {1, 2} <= set(seen)
