"""How models are fine-tuned: the values of arXiv 2505.07787, appendix E, and those for the bundled model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from leapgen.record.run import KINDS


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned: AdamW, cosine decay to 0.

    Args:
        learned: kinds of tokens with loss. Triggers among them teach a model to open a block itself
            (``LeapConfig.leap_t``); comments are other people's words.
        batch_size: responses in one optimizer step, over all devices.
        warmup: part of the steps, in [0, 1], over which the learning rate rises.
        max_length: tokens of a response; what is longer is cut off at the end.
    """

    learned: tuple[str, ...] = ("own", "trigger", "summary", "answer")
    epochs: float = 8
    batch_size: int = 16
    learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    warmup: float = 0.05
    max_length: int = 16384
    bf16: bool = True

    def __post_init__(self) -> None:
        unknown = set(self.learned) - set(KINDS)
        if unknown or not self.learned:
            raise ValueError(f"learned={self.learned!r} is not allowed: it must be some of {', '.join(KINDS)}.")
        for name in ("epochs", "batch_size", "learning_rate", "max_length"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: it must be > 0.")

    def replace(self, **changes: Any) -> Recipe:
        return dataclasses.replace(self, **changes)


RECIPES = {
    "leap-t-1.5b": Recipe(),
    "leap-t-7b": Recipe(),
    "leap-t-14b": Recipe(epochs=5),
    "tiny": Recipe(learned=("own", "summary", "answer"), epochs=2, batch_size=16, learning_rate=3e-4, weight_decay=0.01,
                   max_length=1024, bf16=False),
}
