"""The private parts of torch that backends lean on: each is what it was, and without it models are served as they are."""

import logging

import pytest
import tiny
import torch
from leapgen_kernels import cpu
from torch import nn

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine
from leapgen.engine.backends import seams


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("offset", torch.arange(4.0))

    def forward(self, x, *, scale, factor=0.5):
        return self.inner(x) * scale + self.offset * factor


@pytest.fixture(scope="module")
def captured():
    """What dynamo captures of a layer at seven tokens: the graph, the layer and the call's arguments."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    layer, args, kwargs = Layer(), (torch.ones(1, 7, 4),), {"scale": torch.full((1, 7, 4), 2.0)}
    with torch.no_grad(), seams.many_graphs(), seams.floats_are_constants():
        torch.compile(seams.call_layer, backend=backend, fullgraph=True, dynamic=True)(layer, *args, **kwargs)
    (graph,) = graphs
    return graph, layer, args, kwargs


def placeholders(graph):
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def test_sources_name_a_call_s_arguments_and_the_layer_s_own_tensors(captured):
    """Would catch: dynamo's names for arguments that mean something else, or stand in no place any more."""
    graph, layer, args, kwargs = captured
    nodes = [node for node in placeholders(graph) if isinstance(seams.example(node), torch.Tensor)]
    sources = list(map(seams.source, nodes))
    found = seams.gatherer(sources, layer)(args, kwargs)
    expected = {id(x) for x in (args[0], kwargs["scale"], layer.inner.weight, layer.inner.bias, layer.offset)}
    assert set(map(id, found)) == expected and len(found) == 5
    assert found[sources.index(seams.FIRST_ARGUMENT)] is args[0]
    for node, tensor in zip(nodes, found, strict=True):
        assert seams.example_dtype(node) is seams.example(node).dtype is tensor.dtype
        assert seams.example(node).dim() == tensor.dim() and seams.is_ordinary_example(seams.example(node))
    again = seams.gatherer(sources, layer)((args[0] + 1,), kwargs)
    assert torch.equal(again[sources.index(seams.FIRST_ARGUMENT)], args[0] + 1)


def test_sizes_are_fixed_where_they_belong_to_the_layer(captured):
    """Would catch: a graph for one number of tokens taken for one of all, or a parameter for an input."""
    graph, *_ = captured
    examples = {seams.source(node): seams.example(node) for node in placeholders(graph)}
    tokens = examples[seams.FIRST_ARGUMENT].shape[1]
    assert seams.fixed_size(tokens) is None and seams.seen_size(tokens) == 7
    weights = [x for source, x in examples.items() if "weight" in source]
    assert [[seams.fixed_size(dim) for dim in weight.shape] for weight in weights] == [[4, 4]]


def test_a_parameter_s_subclass_is_no_ordinary_example():
    """Would catch: quantised weights read as the numbers they are made of."""
    class Packed(torch.Tensor):
        pass

    assert seams.is_ordinary_example(nn.Parameter(torch.ones(2)))
    assert not seams.is_ordinary_example(torch.ones(2).as_subclass(Packed))


def test_constants_are_no_inputs(captured):
    """Would catch: a scaling that becomes an input of the graph, which a program cannot take."""
    graph, *_ = captured
    assert all(isinstance(seams.example(node), (torch.Tensor, torch.SymInt)) for node in placeholders(graph))


@pytest.mark.parametrize("settings", [seams.many_graphs, seams.floats_are_constants])
def test_settings_of_dynamo_are_put_back(settings):
    """Would catch: a user's own compiling that changes by our settings."""
    before = torch._dynamo.config.get_config_copy()
    with settings():
        assert torch._dynamo.config.get_config_copy() != before
    assert torch._dynamo.config.get_config_copy() == before


def test_inductor_compiles_what_dynamo_captured():
    """Would catch: another signature, another shape of the result."""
    graphs = []

    def backend(graph, inputs):
        graphs.append((graph, inputs))
        return seams.by_inductor(graph, inputs)

    torch._dynamo.reset()
    x = torch.arange(3.0)
    with torch.no_grad():
        assert torch.equal(torch.compile(lambda x: x * 2 + 1, backend=backend, fullgraph=True)(x), x * 2 + 1)
    assert len(graphs) == 1


def test_calls_are_replaced_for_a_while():
    """Would catch: a torch that no longer asks there; an attribute that stays; the user's own compiling lost."""
    plain, compiled = nn.Linear(2, 2), nn.Linear(2, 2)
    own = compiled._compiled_call_impl = lambda x: "the user's"
    before = [dict(vars(module)) for module in (plain, compiled)]
    x = torch.ones(1, 2)
    with seams.calling({plain: lambda x: "ours", compiled: lambda x: "ours, too"}):
        assert (plain(x), compiled(x)) == ("ours", "ours, too")
    assert [dict(vars(module)) for module in (plain, compiled)] == before
    assert torch.equal(plain(x), plain.forward(x)) and compiled(x) == "the user's" == own(x)


HUNG_ON = {
    "hook": lambda module, stack: module.register_forward_hook(lambda *_: None),
    "pre-hook": lambda module, stack: module.register_forward_pre_hook(lambda *_: None),
    "hook on all modules": lambda module, stack: stack.append(
        nn.modules.module.register_module_forward_hook(lambda *_: None)),
    "pre-hook on all modules": lambda module, stack: stack.append(
        nn.modules.module.register_module_forward_pre_hook(lambda *_: None)),
    "forward patched": lambda module, stack: setattr(module, "forward", module.forward),
    "compiled": lambda module, stack: module.compile(backend="eager"),
}


@pytest.mark.parametrize("what", HUNG_ON)
def test_what_is_hung_onto_a_module_is_seen(what):
    """Would catch: a hook that a kernel or a compiled layer skips."""
    model, stack = tiny.build("llama", torch.float32), []
    layers = list(model.model.layers)
    assert seams.decoder_layers(model) == layers and all(map(seams.is_plain, model.modules()))
    try:
        HUNG_ON[what](layers[1].mlp.up_proj, stack)
        assert not seams.is_plain(layers[1].mlp.up_proj) and seams.decoder_layers(model) == []
    finally:
        for handle in stack:
            handle.remove()


def gone(*_):
    raise AttributeError("no such attribute")


@pytest.mark.skipif(cpu.library() is None, reason="built without a C++ compiler")
@pytest.mark.parametrize(("name", "value"), [
    ("_CALL", "_renamed"), ("many_graphs", gone), ("floats_are_constants", gone), ("source", gone), ("example", gone),
    ("fixed_size", gone), ("seen_size", gone), ("gatherer", gone), ("source", lambda node: "L['args'][0]")],
    ids=["call", "many_graphs", "floats", "source", "example", "fixed_size", "seen_size", "gatherer", "another source"])
def test_without_a_private_part_the_model_is_served_as_it_is(name, value, monkeypatch, caplog):
    """Would catch: a release of torch on which nothing can be generated, or wrong numbers are, or slow ones in silence."""
    def tokens(engine):
        sequence = engine.add(list(range(3, 20)), SamplingConfig.greedy(), limit=25)
        while engine.has_work:
            engine.step()
        return sequence.tokens

    torch._dynamo.reset()
    model, config = tiny.build("llama", torch.float32), EngineConfig(page_size=4, kv_cache_bytes=1 << 22, compile=False)
    expected = tokens(Engine(model, config))
    monkeypatch.setattr(seams, name, value)
    with caplog.at_level(logging.INFO):
        engine = Engine(model, config.replace(compile=True))
    assert tokens(engine) == expected
    assert "are not compiled, steps are slower" in caplog.text or "by inductor, not to a program" in caplog.text
