"""Which modules of a model compute otherwise than by their own code while a step runs.

The model stays the user's: between steps, and for everyone else, its modules compute as they always did. Weights are read
where they lie; no second copy is made, and a weight that changes in place is seen by the next step.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from leapgen.engine.backends import seams
from leapgen.engine.backends.cpu.compiler.stack import LayerStack
from leapgen.engine.backends.cpu.linear import is_ordinary, kernel_serves, linear_call

logger = logging.getLogger(__name__)

_BYTES = operator.attrgetter("nbytes")


class ModuleOverrides:
    """Linear layers by kernel; decoder layers compiled, once ``compile`` has been called.

    Args:
        model: where one of its parameters is not on CPU, nothing is overridden.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._stack: LayerStack | None = None
        self._calls: dict[nn.Module, Callable[..., Any]] = {}
        self._tensors: list[Tensor] = []
        self._sizes: list[int] = []
        self._on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
        if self._on_cpu:
            self._calls = {module: linear_call(module) for module in model.modules() if type(module) is nn.Linear
                           and seams.is_plain(module) and kernel_serves(module.weight)}

    @property
    def compiled(self) -> bool:
        return self._stack is not None

    @property
    def modules(self) -> list[nn.Module]:
        return list(self._calls)

    def compile(self, run: Callable[[int], Tensor], agrees: Callable[[], bool]) -> None:
        """Compiles the decoder layers; where that fails they stay as they are, and the log says why.

        Args:
            run: runs a step of that many tokens which touches no sequence, and returns its logits.
            agrees: whether a step that attends has the logits of one without overrides.
        """
        layers = seams.decoder_layers(self._model) if self._on_cpu else []
        tensors = [tensor for layer in layers for tensor in (*layer.parameters(), *layer.buffers())]
        if not layers or not all(map(is_ordinary, tensors)):
            return  # of quantised weights and the like dynamo and kernels would see what they are made of
        linear, stack = self._calls, LayerStack(layers)
        inside = {module for layer in layers for module in layer.modules()}
        self._calls = {module: call for module, call in linear.items() if module not in inside} | stack.calls
        self._stack, self._tensors, self._sizes = stack, tensors, list(map(_BYTES, tensors))
        try:
            stack.compile(run)
            if not agrees():
                raise RuntimeError("compiled layers gave other results than the model's own")
        except Exception as error:  # whatever a compiler may say: the model can be served without it
            logger.warning("the decoder layers are not compiled, steps are slower: %s", error)
            self._calls, self._stack, self._tensors, self._sizes = linear, None, [], []
        else:
            logger.info("compiled the decoder layers in %.1f s", stack.seconds)

    def active(self) -> AbstractContextManager[None]:
        """While this is entered the modules are overridden.

        Raises:
            RuntimeError: a tensor of the compiled layers has not the size it had.
        """
        if list(map(_BYTES, self._tensors)) != self._sizes:
            raise RuntimeError("weights have other sizes than when their layers were compiled")
        return seams.calling(self._calls)
