"""Linear layers by kernel: a module's call, and those of a captured graph."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from leapgen_kernels import cpu, ops
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from leapgen.engine.backends import seams


def is_ordinary(tensor: Tensor) -> bool:
    """Whether its numbers simply lie in memory; a subclass may be anything."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided


def kernel_serves(weight: Tensor) -> bool:
    return is_ordinary(weight) and cpu.serves(weight) and weight.is_contiguous()


def linear_call(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    """A call of the module by kernel; by its own ``forward`` where the weights or the input are not for the kernel."""
    def call(x: Tensor) -> Tensor:
        weight, bias = module.weight, module.bias
        if not (type(x) is Tensor and x.dtype is weight.dtype and x.numel() and kernel_serves(weight)
                and weight.shape[1:] == x.shape[-1:] and (bias is None or _is_bias(bias, weight))):
            return module.forward(x)
        return cpu.linear(x, [weight], [bias])[0]

    return call


def _is_bias(bias: Tensor, weight: Tensor) -> bool:
    return kernel_serves(bias) and bias.dtype is weight.dtype and bias.shape == weight.shape[:1]


def use_linear_kernel(graph: GraphModule) -> None:
    """Linear layers that read the same input become one call of the kernel."""
    groups: dict[Node, list[tuple[Node, Node, Node | None]]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is F.linear:
            x, weight, bias = [*node.args, *([None] * 3)][:3]
            bias = node.kwargs.get("bias", bias)
            if _is_parameter(weight) and (bias is None or _is_parameter(bias)) and _same_dtype(x, weight, bias):
                groups.setdefault(x, []).append((node, weight, bias))
    for group in groups.values():
        x = group[0][0].args[0]  # by now: it may have been a linear layer's output itself
        with graph.graph.inserting_before(group[0][0]):
            call = graph.graph.call_function(ops.linear, (x, [w for _, w, _ in group], [b for *_, b in group]))
            outputs = [graph.graph.call_function(operator.getitem, (call, i)) for i in range(len(group))]
        for (node, _, _), output in zip(group, outputs, strict=True):
            node.replace_all_uses_with(output)
            graph.graph.erase_node(node)
    graph.recompile()


def _is_parameter(node: object) -> bool:
    if not isinstance(node, Node) or node.op != "placeholder":
        return False
    example = seams.example(node)
    return seams.is_ordinary_example(example) and cpu.serves(example) and example.is_contiguous()


def _same_dtype(*nodes: Node | None) -> bool:
    return len({seams.example(node).dtype for node in nodes if node is not None}) == 1
