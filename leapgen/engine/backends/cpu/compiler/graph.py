"""What dynamo captured of a decoder layer, and what runs it: a program of our kernels, or what inductor makes of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from leapgen_kernels.program import Program, ProgramError
from torch import Tensor, nn
from torch.fx import GraphModule

from leapgen.engine.backends import seams
from leapgen.engine.backends.cpu.compiler.lowering import lower
from leapgen.engine.backends.cpu.linear import use_linear_kernel
from leapgen.engine.backends.seams import Args, Kwargs

logger = logging.getLogger(__name__)


@dataclass
class DirectCall:
    """A graph with a layer's own parameters and buffers, called without dynamo.

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


newest = threading.local()  # ``call``: the GraphCall that dynamo made last in this thread


class Graph:
    """A graph that dynamo calls where its guards hold; one serves all layers of a kind.

    Args:
        module: as captured.
        inputs: a value for each placeholder.
    """

    def __init__(self, module: GraphModule, inputs: list[Any]) -> None:
        placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        self.sources = list(map(seams.source, placeholders))
        self._dtype = next((x.dtype for source, x in zip(self.sources, inputs, strict=True)
                            if source == seams.FIRST_ARGUMENT), None)
        use_linear_kernel(module)
        self._program: Program | None = None
        try:
            program, taken = lower(module)
        except ProgramError as error:
            logger.info("decoder layers are compiled by inductor, not to a program: %s", error)
            self._run = seams.by_inductor(module, inputs)
            self._taken = list(range(len(placeholders)))
        else:
            self._program = program
            self._run = lambda *tensors: (program(*tensors),)
            self._taken = [placeholders.index(node) for node in taken]

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        output = self._run(*(inputs[i] for i in self._taken))
        newest.call = GraphCall(self, output)
        return output

    def call_with(self, layer: nn.Module) -> DirectCall:
        """The graph as a function of a call's arguments, the layer's own parameters and buffers filled in."""
        sources = [self.sources[i] for i in self._taken]
        place = sources.index(seams.FIRST_ARGUMENT) if self._program and seams.FIRST_ARGUMENT in sources else None
        return DirectCall(self._run, seams.gatherer(sources, layer), self._program, place, self._dtype)


def compile_graph(module: GraphModule, inputs: list[Any]) -> Graph:
    """The backend that dynamo hands captured graphs to."""
    return Graph(module, inputs)
