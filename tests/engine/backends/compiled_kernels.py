"""Compiles the Triton kernels for a GPU that need not be there; prints what each asks of it, as JSON.

A process of its own: within the tests Triton interprets its kernels.
"""

from __future__ import annotations

import json

import torch
import triton
from leapgen_kernels import gpu, paged
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)
POINTERS = {"pages": "i32", "tiles": "i32", "positions": "i32", "part_starts": "i32", "slots": "i64", "sums": "fp32",
            "tops": "fp32", "norms": "fp32"}
OF_THE_MODEL = ("query", "key", "value", "keys", "values", "sinks", "output")
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def compiled(kernel, constants: dict, dtype: torch.dtype, warps: int = 4):
    signature, aligned = {}, {}
    for i, name in enumerate(kernel.arg_names):
        of = POINTERS.get(name, NAMES[dtype] if name in OF_THE_MODEL else None)
        signature[name] = "constexpr" if name in constants else f"*{of}" if of else (
            "fp32" if name in ("scaling", "softcap") else "i32")
        if of or name.endswith(("_token", "_head")):
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in constants.items()}, aligned)
    return triton.compile(source, target=HOPPER, options={"num_warps": warps})


def main() -> None:
    shared = {}
    for dtype, group, dim, window in ((torch.bfloat16, 7, 128, False), (torch.float16, 4, 80, True),
                                      (torch.float32, 1, 256, False)):
        shape, block = gpu.TileShape.of(group, dtype), gpu._power_of_two(dim)
        for rows in {shape.narrow_rows, shape.wide_rows}:
            kernel = compiled(paged.attend, {
                "PAGE_SIZE": 16, "KEY_DIM": dim, "VALUE_DIM": dim, "KEY_BLOCK": block, "VALUE_BLOCK": block,
                "GROUP": group, "HEADS": shape.heads, "ROWS": rows, "COLUMNS": gpu._columns(2 * block, dtype.itemsize),
                "STAGES": gpu.LAUNCH.stages, "CAPPED": window, "WINDOWED": window, "WIDEN": False}, dtype)
            shared[f"attend {dtype} {rows} rows of {dim}"] = kernel.metadata.shared
    constants = {"KEY_DIM": 128, "VALUE_DIM": 128, "KEY_BLOCK": 512, "VALUE_BLOCK": 512}
    shared["store"] = compiled(paged.store, constants, torch.bfloat16).metadata.shared
    constants = {"VALUE_DIM": 128, "VALUE_BLOCK": 128, "PARTS": 16, "SINKS": True}
    shared["merge"] = compiled(paged.merge, constants, torch.bfloat16, warps=2).metadata.shared
    print(json.dumps(shared))


if __name__ == "__main__":
    main()
