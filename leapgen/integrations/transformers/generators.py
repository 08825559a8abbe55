"""One LeapGenerator a model, kept as long as the model: what calls into transformers come back to."""

from __future__ import annotations

import threading
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leapgen.config import EngineConfig
from leapgen.generator import LeapGenerator

ATTRIBUTE = "leapgen_kept"  # of the model; the engine's look at the model passes over it


class Kept:
    """What hangs on a model: its generator. A copy of the model, deep or pickled, begins with none."""

    __slots__ = ("generator", "lock")

    def __init__(self) -> None:
        self.generator: LeapGenerator | None = None
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, ()


def generator_for(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None,
                  engine: EngineConfig | None = None) -> LeapGenerator:
    """The model's generator: made by the first call, and anew where another tokenizer or engine is asked for.

    It goes when the model goes. A model that has changed since the last call is looked at by the generator itself.

    Args:
        tokenizer, engine: as of ``LeapGenerator``; None takes those of the generator there is.

    Raises:
        UnsupportedModelError, ValueError, TypeError: as ``LeapGenerator``.
    """
    if not isinstance(model, PreTrainedModel):
        return LeapGenerator(model, tokenizer, engine=engine)  # says what is wrong with it
    kept: Kept = model.__dict__.setdefault(ATTRIBUTE, Kept())
    with kept.lock:
        known = kept.generator
        if (known is None or known.model is not model or (tokenizer is not None and known.tokenizer is not tokenizer)
                or (engine is not None and known.engine.config != engine)):
            kept.generator = known = LeapGenerator(model, tokenizer, engine=engine)
        return known
