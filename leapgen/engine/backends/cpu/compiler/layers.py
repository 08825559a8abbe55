"""One compiled decoder layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from leapgen.engine.backends import seams
from leapgen.engine.backends.cpu.compiler.graph import DirectCall, Graph, compile_graph, newest
from leapgen.engine.backends.seams import Args, Kwargs


class CompiledLayer:
    """Takes the place of a layer's call.

    Dynamo checks at every call whether a graph still fits, which takes longer than a small layer computes. Once one graph
    has served the layer at every size of the warm-up, ``shorten`` calls that graph directly, with the layer's weights.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._checked = partial(torch.compile(seams.call_layer, backend=compile_graph, fullgraph=True, dynamic=True), layer)
        self._graphs: list[Graph | None] = []  # of each call so far; None where the graph's output is not the layer's
        self.direct: DirectCall | None = None
        self.call: Callable[[Args, Kwargs], Any] = self._call_checked

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(args, kwargs)

    def _call_checked(self, args: Args, kwargs: Kwargs) -> Any:
        newest.call = None
        output = self._checked(*args, **kwargs)
        call, newest.call = newest.call, None
        self._graphs.append(call.graph if call is not None and len(call.output) == 1 and call.output[0] is output else None)
        return output

    def shorten(self) -> None:
        """Calls the graph directly, if one has served every call but the first, which captured it for one size.

        Raises:
            RuntimeError: there was no call.
        """
        if not self._graphs:
            raise RuntimeError("a decoder layer was not called")
        graph = self._graphs[-1]
        if graph is not None and all(one is graph for one in self._graphs[1:]):
            self.direct = graph.call_with(self._layer)
            self.call = self.direct
