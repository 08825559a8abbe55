"""A model's decoder layers, compiled; run by one call where they simply follow on each other."""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from leapgen_kernels.program import Stack
from torch import Tensor, nn

from leapgen.engine.backends import seams
from leapgen.engine.backends.cpu.compiler.layers import CompiledLayer
from leapgen.engine.backends.seams import Args, Kwargs

logger = logging.getLogger(__name__)

WARM_UP_SIZES = (7, 64, 5, 7)  # tokens: odd, a multiple of every vector, odd again; the last compiles nothing anew
Run = Callable[[int], Tensor]  # a step of that many tokens -> its logits


class LayerStack:
    """Compiled decoder layers; ``calls`` are to take the place of the modules' own.

    Args:
        layers: in the order the model runs them.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        self.seconds = 0.0
        self.calls = {layer: CompiledLayer(layer) for layer in layers}
        self._layers = list(self.calls.values())

    def compile(self, run: Run) -> None:
        """Captures and compiles the layers, by steps of some sizes in which ``calls`` are in place.

        Raises:
            RuntimeError: layers that are called directly give other results than when dynamo calls them.
            Exception: whatever a compiler says.
        """
        began = time.perf_counter()
        with seams.many_graphs(), seams.floats_are_constants():
            logits = [run(tokens) for tokens in WARM_UP_SIZES]
        for layer in self._layers:
            layer.shorten()
        if not _same(logits, run):
            raise RuntimeError("compiled layers gave other results when called directly")
        if not self._join(run) or not _same(logits, run):
            logger.info("decoder layers are called one by one: they do not simply follow on each other")
            for layer in self._layers:
                layer.call = layer.direct or layer.call
        self.seconds = time.perf_counter() - began

    def _join(self, run: Run) -> bool:
        """Lets the first layer's call run all layers, if each is seen to take what the one before made; False if not.

        What a model does with a layer's output later on is not seen here: its results have to be compared.
        """
        layers = self._layers
        directs = [layer.direct for layer in layers if layer.direct is not None]
        programs = [direct.program for direct in directs if direct.program is not None]
        places = [direct.place for direct in directs if direct.place is not None]  # of programs only
        if len(places) < len(layers) or len(layers) < 2:
            return False
        if not self._follow_on_each_other(run) or len({(program.width, program.dtype) for program in programs}) > 1:
            return False
        gathers, check, stack = [direct.inputs for direct in directs], directs[0].check, Stack(programs, places)

        def call_all(args: Args, kwargs: Kwargs) -> Tensor:
            check(args)
            return stack([inputs(args, kwargs) for inputs in gathers])

        layers[0].call = call_all
        for layer in layers[1:]:
            layer.call = _pass_through
        return True

    def _follow_on_each_other(self, run: Run) -> bool:
        """Whether a step calls each layer once, in order, with what the one before returned and the same other arguments."""
        calls: list[tuple[CompiledLayer, Args, Kwargs, Any]] = []

        def watched(layer: CompiledLayer) -> Callable[[Args, Kwargs], Any]:
            direct = layer.direct
            assert direct is not None

            def call(args: Args, kwargs: Kwargs) -> Any:
                output = direct(args, kwargs)
                calls.append((layer, args, kwargs, output))
                return output

            return call

        for layer in self._layers:
            layer.call = watched(layer)
        run(WARM_UP_SIZES[0])
        return [layer for layer, *_ in calls] == self._layers and all(
            len(args) == len(before) and kwargs.keys() == others.keys()
            and all(map(operator.is_, (*args, *kwargs.values()), (output, *before[1:], *map(others.get, kwargs))))
            for (_, before, others, output), (_, args, kwargs, _) in pairwise(calls))


def _pass_through(args: Args, kwargs: Kwargs) -> Any:
    return args[0]


def _same(before: list[Tensor], run: Run) -> bool:
    return all(torch.equal(logits, run(tokens)) for logits, tokens in zip(before, WARM_UP_SIZES, strict=True))
