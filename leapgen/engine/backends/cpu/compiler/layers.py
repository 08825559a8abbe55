"""How the model's modules compute while a step runs: decoder layers compiled, linear layers by kernel.

The model stays the user's: between steps, and for everyone else, its modules compute as they always did. Weights are read
where they lie; no second copy is made, and a weight that changes in place is seen by the next step.
"""

from __future__ import annotations

import logging
import operator
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from leapgen_kernels import cpu
from leapgen_kernels.program import Program, ProgramError, Stack
from torch import Tensor, nn
from torch.fx import GraphModule
from transformers import PreTrainedModel

from leapgen.engine.backends.cpu.compiler.lowering import lower
from leapgen.engine.backends.cpu.linear import is_ordinary, kernel_serves, linear_call, use_linear_kernel

logger = logging.getLogger(__name__)

Args, Kwargs = tuple[Any, ...], dict[str, Any]

WORTH_COMPILING = 1_000_000  # parameters: compiling takes a second or two, whatever the size
_BYTES = operator.attrgetter("nbytes")
_CALL, _ABSENT = "_compiled_call_impl", object()  # what nn.Module calls in its forward's place
_FIRST = "L['args'][0]"  # dynamo's name for a call's first argument
WARM_UP_SIZES = (7, 64, 5, 7)  # tokens: odd, a multiple of every vector, odd again; the last is what must not compile anew


class FastModules:
    """The modules of a model that compute differently while a step runs.

    Args:
        model: on CPU, in a dtype the kernels serve; for any other nothing changes.
        compile: compile the decoder layers, too. One graph serves all layers of a kind and all batch sizes from two on.
    """

    def __init__(self, model: PreTrainedModel, compile: bool) -> None:
        self.compile_seconds = 0.0
        self._calls: dict[nn.Module, Callable[..., Any]] = {}
        self._layers: list[CompiledLayer] = []
        if not _on_cpu(model):
            return
        layers = decoder_layers(model) if compile else []
        if not all(is_ordinary(tensor) for layer in layers for tensor in (*layer.parameters(), *layer.buffers())):
            layers = []  # quantised weights and the like: dynamo and kernels would see what they are made of
        self._tensors = [tensor for layer in layers for tensor in (*layer.parameters(), *layer.buffers())]
        self._sizes = list(map(_BYTES, self._tensors))
        inside = {module for layer in layers for module in layer.modules()}
        for module in model.modules():
            if type(module) is nn.Linear and module not in inside and _plain(module) and kernel_serves(module.weight):
                self._calls[module] = linear_call(module)
        for layer in layers:
            self._layers.append(CompiledLayer(layer))
            self._calls[layer] = self._layers[-1]

    @property
    def compiled(self) -> bool:
        return bool(self._layers)

    @property
    def modules(self) -> list[nn.Module]:
        return list(self._calls)

    def warm_up(self, run: Callable[[int], Tensor], agrees: Callable[[], bool]) -> None:
        """Compiles now, by running steps of some sizes; where that fails the layers stay as they are, and the log says why.

        Args:
            run: runs a step of that many tokens which touches no sequence, and returns its logits.
            agrees: whether a step that attends says what it says without any of this.
        """
        if not self._layers:
            return
        began = time.perf_counter()
        try:
            with torch._dynamo.config.patch(recompile_limit=256, accumulated_recompile_limit=4096, specialize_float=True):
                before = [run(tokens) for tokens in WARM_UP_SIZES]
            for layer in self._layers:
                layer.shorten()
            if not _same(before, run):
                raise RuntimeError("compiled layers gave other results when called directly")
            if not stack(self._layers, lambda: run(WARM_UP_SIZES[0])) or not _same(before, run):
                logger.info("decoder layers are called one by one: they do not simply follow on each other")
                for layer in self._layers:
                    layer.call = layer.direct or layer.call
            if not agrees():
                raise RuntimeError("compiled layers gave other results than the model's own")
        except Exception as error:  # whatever a compiler may say: the model can be served without it
            logger.warning("the decoder layers are not compiled, steps are slower: %s", error)
            self._calls = {module: call for module, call in self._calls.items() if not isinstance(call, CompiledLayer)}
            self._layers = []
        else:
            self.compile_seconds = time.perf_counter() - began
            logger.info("compiled the decoder layers in %.1f s", self.compile_seconds)

    def active(self) -> AbstractContextManager[None]:
        """While this is entered the modules compute differently.

        Raises:
            RuntimeError: a tensor of the compiled layers has not the size it had.
        """
        if self._layers and list(map(_BYTES, self._tensors)) != self._sizes:
            raise RuntimeError("weights have other sizes than when their layers were compiled")
        return calling(self._calls)


def _same(before: list[Tensor], run: Callable[[int], Tensor]) -> bool:
    return all(torch.equal(logits, run(tokens)) for logits, tokens in zip(before, WARM_UP_SIZES, strict=True))


@contextmanager
def calling(calls: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, calling one of these modules calls what stands beside it."""
    owns = list(map(vars, calls))
    before = [own.get(_CALL, _ABSENT) for own in owns]
    for own, call in zip(owns, calls.values(), strict=True):
        own[_CALL] = call
    try:
        yield
    finally:
        for own, call in zip(owns, before, strict=True):
            if call is _ABSENT:
                own.pop(_CALL, None)
            else:
                own[_CALL] = call


def _on_cpu(model: PreTrainedModel) -> bool:
    return cpu.library() is not None and all(parameter.device.type == "cpu" for parameter in model.parameters())


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The modules transformers keeps whole on one device, where nothing has been hung onto them."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    return layers if all(_plain(module) for layer in layers for module in layer.modules()) else []


def _plain(module: nn.Module) -> bool:
    """No hooks, no forward of its own, not compiled by the user."""
    everywhere = nn.modules.module
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
                or module._compiled_call_impl or everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks)


def call_layer(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What is compiled of a layer. Dynamo gives up on code that has been compiled too often: this is nobody else's."""
    return self.forward(*args, **kwargs)


class CompiledLayer:
    """A decoder layer, compiled.

    Dynamo checks at every call whether a graph still fits, which takes longer than a small layer computes. Once one graph
    has served the layer at every size of the warm-up, ``shorten`` calls that graph directly, with the layer's weights.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._checked = partial(torch.compile(call_layer, backend=_compile, fullgraph=True, dynamic=True), layer)
        self._served: list[Graph | None] = []  # by which graph each call was, None where its output is not the layer's
        self.direct: DirectCall | None = None
        self.call: Callable[[Args, Kwargs], Any] = self._call_checked

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(args, kwargs)

    def _call_checked(self, args: Args, kwargs: Kwargs) -> Any:
        _newest.call = None
        output = self._checked(*args, **kwargs)
        call, _newest.call = _newest.call, None
        self._served.append(call.graph if call is not None and len(call.output) == 1 and call.output[0] is output else None)
        return output

    def shorten(self) -> None:
        graph = self._served[-1]
        if graph is not None and all(one is graph for one in self._served[1:]):
            self.direct = graph.call_with(self._layer)
            self.call = self.direct


def stack(layers: list[CompiledLayer], run: Callable[[], Any]) -> bool:
    """Lets the first layer's call run all layers, if nothing else seems to work on what they hand on; says whether it does.

    What a model does with a layer's output later on is not seen here: its results have to be compared.

    Args:
        run: one step, in which the model is seen to call each layer once, in order, with what the one before returned and
            the same other arguments.
    """
    programs = [layer.direct.program for layer in layers if layer.direct is not None and layer.direct.place is not None]
    if len(programs) < len(layers) or len(layers) < 2:
        return False
    calls: list[tuple[CompiledLayer, Args, Kwargs, Any]] = []

    def watched(layer: CompiledLayer) -> Callable[[Args, Kwargs], Any]:
        def call(args: Args, kwargs: Kwargs) -> Any:
            output = layer.direct(args, kwargs)
            calls.append((layer, args, kwargs, output))
            return output

        return call

    for layer in layers:
        layer.call = watched(layer)
    run()
    handed_on = [layer for layer, *_ in calls] == layers and all(
        len(args) == len(before) and kwargs.keys() == others.keys()
        and all(map(operator.is_, (*args, *kwargs.values()), (output, *before[1:], *map(others.get, kwargs))))
        for (_, before, others, output), (_, args, kwargs, _) in pairwise(calls))
    if not handed_on or len({(program.width, program.dtype) for program in programs}) > 1:
        return False
    gathers, one_call = [layer.direct.inputs for layer in layers], Stack(programs, [layer.direct.place for layer in layers])
    check = layers[0].direct.check

    def call_all(args: Args, kwargs: Kwargs) -> Tensor:
        check(args)
        return one_call([inputs(args, kwargs) for inputs in gathers])

    layers[0].call = call_all
    for layer in layers[1:]:
        layer.call = _hand_on
    return True


def _hand_on(args: Args, kwargs: Kwargs) -> Any:
    return args[0]


@dataclass
class DirectCall:
    """A graph with a layer's own parameters and buffers.

    Args:
        run: takes tensors, returns the outputs.
        inputs: those tensors, from a call's arguments.
        program: what ``run`` runs, where it is a program; place: which of its inputs is the call's first argument.
        dtype: of the call's first argument, where the graph reads it.
    """

    run: Callable[..., tuple[Any, ...]]
    inputs: Callable[[Args, Kwargs], tuple[Tensor, ...]]
    program: Program | None
    place: int | None
    dtype: torch.dtype | None

    def __call__(self, args: Args, kwargs: Kwargs) -> Any:
        self.check(args)
        return self.run(*self.inputs(args, kwargs))[0]

    def check(self, args: Args) -> None:
        if self.dtype is not None and args[0].dtype is not self.dtype:
            raise ValueError(f"a layer compiled for {self.dtype} is called with {args[0].dtype}")


class GraphCall(NamedTuple):
    graph: Graph
    output: tuple[Any, ...]


_newest = threading.local()  # its call: of the graph that dynamo chose for this thread's newest call of a layer


class Graph:
    """What dynamo captured of a layer: a program of our kernels, or what inductor makes of a layer they cannot say."""

    def __init__(self, module: GraphModule, inputs: list[Any]) -> None:
        from torch._inductor.compile_fx import compile_fx

        placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        self.sources = [node._dynamo_source.name for node in placeholders]
        self._dtype = next((x.dtype for source, x in zip(self.sources, inputs, strict=True) if source == _FIRST), None)
        use_linear_kernel(module)
        self._program: Program | None = None
        try:
            self._program, taken = lower(module)
        except ProgramError as error:
            logger.info("decoder layers are compiled by inductor, as they have %s", error)
            self._run = compile_fx(module, inputs, config_patches={"size_asserts": False})
            self._taken = range(len(placeholders))
        else:
            self._run = lambda *tensors: (self._program(*tensors),)
            self._taken = [placeholders.index(node) for node in taken]

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        output = self._run(*(inputs[i] for i in self._taken))
        _newest.call = GraphCall(self, output)
        return output

    def call_with(self, layer: nn.Module) -> DirectCall:
        """The graph as a function of a call's arguments, the layer's own parameters and buffers filled in."""
        own = {source: eval(source, {"L": {"self": layer}}) for source in self.sources if source.startswith("L['self']")}
        names, sources = list(own), [self.sources[i] for i in self._taken]
        inputs = [f"own[{names.index(source)}]" if source in own
                  else source.replace("L['args']", "args").replace("L['kwargs']", "kwargs") for source in sources]
        gather = eval(f"lambda args, kwargs: ({', '.join(inputs)},)", {"own": list(own.values())})
        place = sources.index(_FIRST) if self._program and _FIRST in sources else None
        return DirectCall(self._run, gather, self._program, place, self._dtype)


def _compile(graph: GraphModule, inputs: list[Any]) -> Graph:
    return Graph(graph, inputs)
