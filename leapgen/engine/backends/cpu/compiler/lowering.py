"""Lowering: from what dynamo captured of a decoder layer to a program that one call runs.

Views, slices and concatenations are carried out on arrays of places (``SymbolicTensor``), so that a program reads numbers
where they lie. An operation that mixes tokens, or is not listed here, is refused: inductor then compiles the layer.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from leapgen_kernels import ops
from leapgen_kernels.program import Memory, Program, ProgramError, Writer
from torch import Tensor
from torch.fx import GraphModule, Node

from leapgen.engine.backends import seams
from leapgen.engine.backends.cpu.compiler.symbolic import TOKEN, TOKENS, SymbolicTensor

UNKNOWN = object()  # the value of an input that only kernels may take

# By name for methods, by function otherwise.
_VIEWS = {"view", "reshape", "transpose", "permute", "unsqueeze", "squeeze", "flatten", "unflatten", "chunk", "split",
          "repeat_interleave", "expand", "size", operator.getitem, torch.cat, torch.stack, torch.transpose, torch.permute,
          torch.unsqueeze, torch.squeeze, torch.flatten, torch.chunk, torch.split, torch.repeat_interleave, torch.Size,
          operator.floordiv}
_SAME = {"to", "float", "type_as", "contiguous", "clone"}  # numbers are floats until they are stored
_ELEMENTWISE: dict[Any, str] = {
    operator.add: "add", torch.add: "add", operator.sub: "subtract", torch.sub: "subtract",
    operator.mul: "multiply", torch.mul: "multiply", operator.truediv: "divide",
    torch.div: "divide",
    operator.neg: "negate", torch.neg: "negate", torch.rsqrt: "rsqrt", "rsqrt": "rsqrt", F.relu: "relu", torch.relu: "relu",
    torch.tanh: "tanh", F.tanh: "tanh", "tanh": "tanh", torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid", "sigmoid": "sigmoid",
    F.silu: "silu",
}


class Lowering:
    """Writes the program of one graph."""

    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        floats = [n for n in placeholders if isinstance(x := seams.example(n), Tensor) and x.is_floating_point()]
        hidden = next((n for n in floats if not _is_parameter(n)), None)
        linear = next((n for n in graph.graph.nodes if n.target is ops.linear), None)
        if hidden is None or linear is None:
            raise ProgramError("a layer without linear layers")
        self.tokens = seams.seen_size(seams.example(hidden).shape[1])
        self.writer = Writer(seams.example(hidden).dtype)
        self.values: dict[Node, Any] = {}
        self.memories: dict[Node, Memory] = {}
        self.inputs: list[Node] = []  # placeholders, as the program numbers them

    def program(self) -> Program:
        """The program; ``inputs`` are then the placeholders whose tensors it takes.

        Raises:
            ProgramError: something in the graph cannot be said in a program.
        """
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "output":
                (result,), = node.args
                return self.writer.finish(_flat(self.values[result]))
            elif node.op in ("call_function", "call_method"):
                self.values[node] = self._call(node)
            else:
                raise ProgramError(f"{node.op} {node.target}")
        raise ProgramError("no output")

    def _placeholder(self, node: Node) -> Any:
        example = seams.example(node)
        if isinstance(example, torch.SymInt):
            return self._size(example)
        if not isinstance(example, Tensor):
            raise ProgramError(f"an input that is no tensor: {node}")
        self.inputs.append(node)
        # A size that dynamo leaves open but that is not the number of tokens belongs to the model: the program checks it.
        shape = [seams.fixed_size(dim) or self._size(cast(torch.SymInt, dim)) for dim in example.shape]
        if not example.is_floating_point():  # the plan
            self.memories[node] = self._opaque()
            return UNKNOWN
        invariant = _is_parameter(node)
        width = math.prod(shape) if invariant else math.prod(shape) // TOKENS
        if not invariant and (example.dim() < 2 or shape[-2] != TOKENS or math.prod(shape[:-2]) != 1):
            raise ProgramError(f"an input of shape {tuple(example.shape)}")
        places = torch.from_numpy(self.writer.input(width, example.dtype, invariant))
        self.memories[node] = self.writer.inputs[-1]
        if not invariant:
            places = torch.arange(TOKENS, dtype=torch.int64)[:, None] * TOKEN + places
        return SymbolicTensor(places.reshape(shape), example.dtype, invariant)

    def _size(self, dim: torch.SymInt) -> int:
        """A size that is not fixed, as it is with three tokens."""
        return TOKENS if seams.seen_size(dim) == self.tokens else seams.seen_size(dim)

    def _opaque(self) -> Memory:
        self.writer.input(1, torch.int64, shared=True)
        return self.writer.inputs[-1]

    def _call(self, node: Node) -> Any:
        target, args, kwargs = seams.call_of(node)
        if target is ops.linear:
            return self._linear(*args)
        if target is ops.paged_attention:
            return self._attend(*args)
        args, kwargs = torch.fx.map_arg((args, kwargs), lambda n: self.values[n])
        if any(self.values[n] is UNKNOWN for n in node.all_input_nodes):
            raise ProgramError(f"{target} of what is neither numbers nor their count")
        if not any(isinstance(self.values[n], SymbolicTensor) for n in node.all_input_nodes):
            if target in _VIEWS or target in _ELEMENTWISE:  # sizes
                return target(*args, **kwargs)
            raise ProgramError(f"{target}")
        dtype = seams.example_dtype(node)
        if kwargs.get("inplace") or (dtype is not None and not dtype.is_floating_point):
            raise ProgramError(f"{target} in place, or to whole numbers")
        if target in _SAME:
            return SymbolicTensor(args[0].places, dtype or args[0].dtype, args[0].invariant)
        if target in _VIEWS:
            return self._view(target, args, kwargs)
        if dtype is None:
            raise ProgramError(f"{target} of several results")
        if any(not isinstance(self.values[n], SymbolicTensor) for n in node.all_input_nodes):
            raise ProgramError(f"{target} of a size")  # sizes here are of the three tokens
        if target in _ELEMENTWISE and not kwargs:
            return self._elementwise(_ELEMENTWISE[target], dtype, *args)
        return self._compound(target, dtype, args, kwargs)

    # -- what numbers go through ------------------------------------------------------------------------------------

    def _view(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        inside: list[SymbolicTensor] = []

        def places(value: Any) -> Any:
            if isinstance(value, SymbolicTensor):
                inside.append(value)
                return value.places
            if isinstance(value, (tuple, list)):
                return type(value)(map(places, value))
            return value

        args = tuple(map(places, args))
        if len({one.invariant for one in inside}) > 1:
            raise ProgramError("a view of loop-invariant numbers together with others")
        target = {"view": "reshape"}.get(target, target)
        found = getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)

        def wrap(value: Any) -> Any:
            if isinstance(value, Tensor):
                return SymbolicTensor(value, inside[0].dtype, inside[0].invariant)
            return tuple(map(wrap, value)) if type(value) in (tuple, list) else value

        return wrap(found)

    def _elementwise(self, op: str, dtype: torch.dtype, *operands: Any) -> SymbolicTensor:
        numbers = [one if isinstance(one, SymbolicTensor) else self._constant(one) for one in operands]
        together = torch.broadcast_tensors(*(one.places for one in numbers))
        found = [SymbolicTensor(places, one.dtype, one.invariant) for places, one in zip(together, numbers, strict=True)]
        dims = {dim for _, dim in (one.of_a_token() for one in found if not one.invariant)}
        if len(dims) > 1:
            raise ProgramError("arithmetic between different tokens")
        dim = dims.pop() if dims else None
        rows = [one.places.numpy() if dim is None else one.places.select(dim, 0).numpy() for one in found]
        for one in found:
            if one.invariant and dim is not None and not torch.equal(one.places, one.places.select(dim, 0).unsqueeze(dim)
                                                                .expand_as(one.places)):
                raise ProgramError("a loop-invariant tensor with a dimension of tokens")
        result = self.writer.elementwise(op, [row.ravel() for row in rows], dtype)
        return _tensor(result.reshape(rows[0].shape), dim, dtype)

    def _constant(self, value: Any) -> SymbolicTensor:
        if not isinstance(value, (int, float)):
            raise ProgramError(f"arithmetic with {type(value).__name__}")
        return SymbolicTensor(torch.from_numpy(self.writer.number(float(value))), torch.float32, True)

    def _mean(self, x: SymbolicTensor, dtype: torch.dtype, dim: int | tuple[int, ...],
              keepdim: bool = False) -> SymbolicTensor:
        dims = (dim,) if isinstance(dim, int) else tuple(dim)
        if [d % x.places.dim() for d in dims] != [x.places.dim() - 1]:
            raise ProgramError("a mean over other than the last dimension")
        rows, token_dim = x.of_a_token()
        if token_dim == x.places.dim() - 1:
            raise ProgramError("a mean over tokens")
        means = self.writer.mean(rows.reshape(-1, rows.shape[-1]), dtype).reshape(rows.shape[:-1])
        return _tensor(means[..., None] if keepdim else means, token_dim, dtype)

    def _compound(self, target: Any, dtype: torch.dtype, args: Sequence[Any], kwargs: dict[str, Any]) -> SymbolicTensor:
        """What is made of several instructions, or takes arguments of its own."""
        x: SymbolicTensor
        x, *args = args

        def calculate(op: str, *operands: Any) -> SymbolicTensor:
            return self._elementwise(op, dtype, *operands)

        if target in ("mean", torch.mean):
            return self._mean(x, dtype, *args, **{k: v for k, v in kwargs.items() if k != "dtype"})
        if target in ("pow", torch.pow, operator.pow) and args and isinstance(args[0], (int, float)) and args[0] in (2, 3):
            square = calculate("multiply", x, x)
            return square if args[0] == 2 else calculate("multiply", square, x)
        if target is F.gelu:
            return calculate("gelu_tanh" if kwargs.get("approximate") == "tanh" else "gelu", x)
        if target is F.dropout and not _argument(args, kwargs, 1, "training", True):
            return x
        if target is F.silu:
            return calculate("silu", x)
        if target is F.layer_norm:
            return self._layer_norm(x, dtype, *args, **kwargs)
        if target in _ELEMENTWISE and set(kwargs) <= {"inplace"}:
            return calculate(_ELEMENTWISE[target], x, *args)
        raise ProgramError(f"{target}")

    def _layer_norm(self, x: SymbolicTensor, dtype: torch.dtype, shape: Sequence[int], weight: SymbolicTensor | None = None,
                    bias: SymbolicTensor | None = None, eps: float = 1e-5) -> SymbolicTensor:
        if len(shape) != 1:
            raise ProgramError("layer_norm over several dimensions")

        def calculate(op: str, *operands: Any) -> SymbolicTensor:
            return self._elementwise(op, torch.float32, *operands)

        x = calculate("subtract", x, self._mean(x, torch.float32, -1, keepdim=True))
        variance = self._mean(calculate("multiply", x, x), torch.float32, -1, keepdim=True)
        x = calculate("multiply", x, calculate("rsqrt", calculate("add", variance, eps)))
        if weight is not None:
            x = calculate("multiply", x, weight)
        if bias is not None:
            x = calculate("add", x, bias)
        return SymbolicTensor(x.places, dtype, x.invariant)

    # -- kernels ----------------------------------------------------------------------------------------------------

    def _linear(self, x: Node, weights: Sequence[Node], biases: Sequence[Node | None]) -> list[SymbolicTensor]:
        numbers = self.values[x]
        rows, dim = numbers.of_a_token()
        if dim != numbers.places.dim() - 2 or rows.size != rows.shape[-1]:
            raise ProgramError(f"a linear layer over {tuple(numbers.places.shape)}")
        outputs = self.writer.linear(rows.ravel(), [
            (self.memories[weight], self.memories[bias] if bias else None, int(seams.example(weight).shape[0]))
            for weight, bias in zip(weights, biases, strict=True)])
        return [_tensor(places.reshape(*rows.shape[:-1], -1), dim, self.writer.dtype) for places in outputs]

    def _attend(self, query: Node, key: Node, value: Node, plan: Node, scaling: float, window: int | None,
                softcap: float | None, sinks: Node | None) -> SymbolicTensor:
        if sinks is not None:
            raise ProgramError("attention sinks")
        rows = []
        for node in (query, key, value):
            places, dim = self.values[node].of_a_token()
            if dim != 2 or places.shape[0] != 1:
                raise ProgramError(f"attention over {tuple(self.values[node].places.shape)}")
            rows.append(places[0])
        q, k, v = rows
        output = self.writer.attend(q, k, v, self.memories[plan], scaling, window, softcap)
        return _tensor(output[None], 1, self.writer.dtype)


def lower(graph: GraphModule) -> tuple[Program, list[Node]]:
    """A captured layer's program, and the placeholders whose tensors it takes, in its order.

    Raises:
        ProgramError: it cannot be said in a program; says why.
    """
    try:
        lowering = Lowering(graph)
        return lowering.program(), lowering.inputs
    except ProgramError:
        raise
    except Exception as error:  # arguments or shapes that no rule above foresees; whatever they are, inductor may know them
        raise ProgramError(f"operations in a form that is not known here ({type(error).__name__}: {error})") from error


def _is_parameter(node: Node) -> bool:
    example = seams.example(node)
    return isinstance(example, Tensor) and all(seams.fixed_size(dim) is not None for dim in example.shape)


def _tensor(places: np.ndarray, dim: int | None, dtype: torch.dtype) -> SymbolicTensor:
    return SymbolicTensor.for_all_tokens(torch.from_numpy(places), dim, dtype)


def _flat(numbers: SymbolicTensor) -> np.ndarray:
    rows, dim = numbers.of_a_token()
    if dim != numbers.places.dim() - 2:
        raise ProgramError("a result that is not [1, tokens, width]")
    return rows.ravel()


def _argument(args: Sequence[Any], kwargs: dict[str, Any], index: int, name: str, default: Any) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)
