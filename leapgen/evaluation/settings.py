"""What a study holds fixed: everything that decides about its numbers besides its task and its arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leapgen.config import LeapConfig, SamplingConfig
from leapgen.evaluation.records import AHA
from leapgen.protocol.prompts import PromptSet
from leapgen.validation import is_int, require


@dataclass(frozen=True)
class StudySettings:
    """Settings that all arms of a study start from.

    Args:
        model: the model of arms that name none.
        models: further models, by the name that arms have for them (``Arm.model``).
        n: paths in a group.
        groups: groups of paths a problem gets; they differ by seed.
        seed: of everything.
        leap: the protocol's settings; an arm changes some.
        sampling: fields of ``SamplingConfig``; those not given are up to the model.
        prompts: the sentences of the protocol.
        dtype: of the weights, as transformers takes it.
        context_length: positions a path may have; None for the model's own.
        aha: words that count as turns of thought, in a path's own words alone.
        count_with: a tokenizer by which tokens are counted a second time; what is of equal cost goes by it.

    Raises:
        ValueError, TypeError: a value that is not allowed.
    """

    model: str
    models: Mapping[str, str] = field(default_factory=dict)
    n: int = 32
    groups: int = 1
    seed: int = 0
    leap: LeapConfig = field(default_factory=LeapConfig)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    prompts: PromptSet = field(default_factory=PromptSet)
    dtype: str = "auto"
    context_length: int | None = None
    aha: tuple[str, ...] = AHA
    count_with: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("groups", 1), ("seed", 0)):
            require(is_int(getattr(self, name), least), name, getattr(self, name), f"an integer >= {least}")
        SamplingConfig(**self.sampling)
        object.__setattr__(self, "aha", tuple(self.aha))
