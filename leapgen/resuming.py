"""What a saved run notes of what made it, and whether a generator can go on with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from transformers import PreTrainedModel

from leapgen.engine import Engine
from leapgen.engine.model.identity import weights_digest
from leapgen.options import plain_values
from leapgen.protocol.prompts import PromptSet
from leapgen.record.run import LeapOutput

Saved = LeapOutput | str | os.PathLike[str]  # a run, or the file it was saved in
OneSaved = TypeVar("OneSaved", bound=Saved)
DECIDING = {"dtype": "the model's dtype", "context_length": "positions a path may have (EngineConfig, KV pool)",
            "weights": "the model's weights", "protocol": "the protocol"}


def saved_runs(output: Saved | Sequence[Saved]) -> list[LeapOutput]:
    """The runs to go on with; one, or a list.

    Raises:
        TypeError: it is no run and no file. ValueError: the file is no run's. OSError: it cannot be read.
    """
    return [_loaded(one) for one in (output if isinstance(output, (list, tuple)) else [output])]


def _loaded(output: object) -> LeapOutput:
    if isinstance(output, (str, os.PathLike)):
        output = LeapOutput.load(output)
    if not isinstance(output, LeapOutput):
        raise TypeError(f"output must be a LeapOutput or the file of one, not {output!r:.80}.")
    return output


def made_with(model: PreTrainedModel, engine: Engine, prompts: PromptSet, protocol: str) -> dict[str, Any]:
    """What decides about a run's tokens besides its settings, as JSON values."""
    return {"dtype": str(model.dtype).removeprefix("torch."), "context_length": engine.context_length,
            "weights": weights_digest(model), "engine": plain_values(engine.config), "prompts": plain_values(prompts),
            "protocol": protocol}


def check_made_with(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Whether what decides about tokens is what it was.

    Raises:
        ValueError: names what differs.
    """
    differ = [f"{what} ({before[key]}, now {now[key]})" for key, what in DECIDING.items()
              if key in before and before[key] != now[key]]
    if differ:
        raise ValueError(f"the run was made with other values of {'; '.join(differ)}: its tokens would not go on as they "
                         "began. Load what made it, or go on with this one by resume(output, check=False).")
