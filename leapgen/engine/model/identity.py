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
    digest = hashlib.sha256()
    numbers: dict[torch.device, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        if type(parameter.data) is Tensor and parameter.device.type != "meta" and parameter.numel():
            row = parameter.data
            while row.dim() > 1:
                row = row[len(row) // 2]
            numbers.setdefault(row.device, []).append(row.reshape(-1)[:NUMBERS].double())
    for rows in numbers.values():
        digest.update(torch.cat(rows).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
