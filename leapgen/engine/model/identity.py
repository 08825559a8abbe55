"""What tells one model from another where both have a name: a digest of its weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

NUMBERS = 16  # taken of each parameter


@torch.no_grad()
def weights_digest(model: nn.Module) -> str:
    """SHA-256, 16 hexadecimal digits of it, over each parameter's name, shape, dtype and some of its numbers.

    Numbers are taken from the middle row, so that a digest costs milliseconds. A training step changes them all; an edit of
    a single other row goes unnoticed. Weights that are elsewhere (offloaded) or packed (quantised) count by name and shape.
    """
    layout: list[str] = []
    numbers: dict[torch.device, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        shape, row = parameter.shape, parameter.data
        layout.append(f"{name} {tuple(shape)} {parameter.dtype}\n")
        if type(row) is Tensor and row.device.type != "meta" and row.numel():
            *outer, width = shape or (1,)
            *strides, step = row.stride() or (1,)
            middle = row.storage_offset() + sum(size // 2 * stride for size, stride in zip(outer, strides, strict=True))
            numbers.setdefault(row.device, []).append(row.as_strided((min(NUMBERS, width),), (step,), middle))
    digest = hashlib.sha256("".join(layout).encode())
    for rows in numbers.values():
        digest.update(torch.cat(rows).double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
