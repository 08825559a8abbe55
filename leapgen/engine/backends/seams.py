"""The private parts of torch and transformers that backends lean on. Nobody promises that they stay.

What catches a change stands beside each. Two checks stand behind all that concerns compiling: an error while layers are
compiled leaves them as they are, with a warning; and compiled layers are used only if a step by them gives the logits of a
step without them. ``tests/engine/backends/test_seams.py`` names the part that has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import SymInt, Tensor, nn
from torch.fx import GraphModule, Node

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_CALL, _ABSENT = "_compiled_call_impl", object()
FIRST_ARGUMENT = "L['args'][0]"  # of ``call_layer``, as ``source`` names it
_OWN, _ARGS, _KWARGS = "L['self']", "L['args']", "L['kwargs']"


# -- modules ----------------------------------------------------------------------------------------------------------


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The modules transformers keeps whole on one device (``_no_split_modules``), where nothing has been hung onto them.

    A model that names none, or others, is not compiled: results are the same.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    return layers if all(is_plain(module) for layer in layers for module in layer.modules()) else []


def is_plain(module: nn.Module) -> bool:
    """Whether a call of the module is a call of its class's ``forward``: no hooks, not patched, not compiled by the user.

    An attribute that torch renames is an AttributeError when an engine is made.
    """
    everywhere = nn.modules.module
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
                or module._compiled_call_impl or everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks)


@contextmanager
def calling(calls: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, a call of one of these modules is a call of what stands beside it (``nn.Module._compiled_call_impl``).

    If torch no longer looks there, modules compute as they are, and compiling fails, as no layer has been called.
    """
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


# -- what dynamo captures ---------------------------------------------------------------------------------------------


def call_layer(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What dynamo is given of a layer. It gives up on code that has been compiled too often; this is nobody else's."""
    return self.forward(*args, **kwargs)


def many_graphs() -> AbstractContextManager[None]:
    """While this is entered dynamo may compile ``call_layer`` for every layer of a model, of several kinds.

    A setting that dynamo does not know is an error when layers are compiled.
    """
    return cast(AbstractContextManager[None],
                torch._dynamo.config.patch(recompile_limit=256, accumulated_recompile_limit=4096))


def floats_are_constants() -> AbstractContextManager[None]:
    """While this is entered numbers in a layer's code, a scaling for one, are constants of its graph. As ``many_graphs``."""
    return cast(AbstractContextManager[None], torch._dynamo.config.patch(specialize_float=True))


def source(placeholder: Node) -> str:
    """How dynamo names what a placeholder stands for: an expression over ``L``, the arguments of ``call_layer`` by name.

    An attribute that is gone is an error when layers are compiled; a name that means something else gives other results.
    """
    return cast(str, cast(Any, placeholder)._dynamo_source.name)


def gatherer(sources: Sequence[str], layer: nn.Module) -> Callable[[Args, Kwargs], tuple[Tensor, ...]]:
    """From a call's arguments to the tensors that sources name; those of the layer's own are looked up now."""
    own = {name: eval(name, {"L": {"self": layer}}) for name in sources if name.startswith(_OWN)}
    names = list(own)
    inputs = [f"own[{names.index(name)}]" if name in own else name.replace(_ARGS, "args").replace(_KWARGS, "kwargs")
              for name in sources]
    gather: Callable[[Args, Kwargs], tuple[Tensor, ...]] = eval(
        f"lambda args, kwargs: ({', '.join(inputs)},)", {"own": list(own.values())})
    return gather


def call_of(node: Node) -> tuple[Any, Args, Kwargs]:
    """What a node calls (a method by its name) and its arguments, whose types only the target knows."""
    return node.target, node.args, node.kwargs


def example(node: Node) -> Any:
    """A value like the one that a node of a graph has: of a tensor its dtype and shape, without numbers.

    A key that is gone is an error when layers are compiled.
    """
    return node.meta["example_value"]


def example_dtype(node: Node) -> torch.dtype | None:
    """Of a tensor; None for what is none, and for nodes without an example."""
    value = node.meta.get("example_value")
    return value.dtype if isinstance(value, Tensor) else None


def is_ordinary_example(value: Any) -> bool:
    """Whether an example stands for a tensor of no subclass that has a meaning of its own. As ``by_inductor``."""
    from torch._subclasses import FakeTensor

    return type(value) in (FakeTensor, Tensor, nn.Parameter)


def fixed_size(dim: int | SymInt) -> int | None:
    """A dimension's size, if it is the same at every call. As ``source``."""
    return dim if isinstance(dim, int) else dim.node.maybe_as_int()


def seen_size(dim: SymInt) -> int:
    """The size, at the call that was captured, of a dimension that is not fixed. As ``source``."""
    return cast(int, dim.node.hint)


def by_inductor(graph: GraphModule, inputs: list[Any]) -> Callable[..., tuple[Any, ...]]:
    """A captured graph, compiled by inductor. An import or an option that is gone is an error when layers are compiled."""
    from torch._inductor.compile_fx import compile_fx

    return cast(Callable[..., tuple[Any, ...]], compile_fx(graph, inputs, config_patches={"size_asserts": False}))
