"""What one call asks for, checked at the door: before any work."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from leapgen.config import LeapConfig, SamplingConfig, split_options
from leapgen.protocol.base import Method
from leapgen.protocol.chat import Beginning, Beginnings, Prompt, parse, parse_beginnings
from leapgen.stopping import Condition


@dataclass(frozen=True)
class Request:
    """Questions, each for ``n`` paths, and the settings they run with.

    Args:
        prompts: at least one.
        beginnings: what each path of each prompt goes on from; None for nothing.
        several: whether the prompts came as a list.
        seed: of the random streams.
        protocol: how the paths of a question work together.
        until: when to stop a question early.
    """

    prompts: Sequence[Prompt]
    beginnings: Sequence[Sequence[Beginning | None]]
    several: bool
    n: int
    seed: int
    leap: LeapConfig
    sampling: SamplingConfig
    protocol: Method
    until: Condition | None = None

    @classmethod
    def checked(cls, prompt: Prompt | Sequence[Prompt], beginning: Beginnings | Sequence[Beginnings], n: int,
                seed: int, leap: LeapConfig, sampling: SamplingConfig, protocol: Method,
                until: Condition | None) -> Request:
        """A request as ``LeapGenerator.generate`` takes its arguments; numbers may be those of other libraries.

        Raises:
            ValueError, TypeError: an argument that is not allowed.
        """
        if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n={n!r} is not allowed: n must be an integer >= 1, the number of paths.")
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
            raise ValueError(f"seed={seed!r} is not allowed: seed must be an integer in 0 .. 2**63 - 1.")
        if not callable(protocol):
            raise TypeError("protocol must be a subclass of leapgen.protocol.base.Protocol, or what makes one, not "
                            f"{protocol!r:.80}.")
        if until is not None and not callable(until):
            raise TypeError(f"until must be a stop condition, such as leapgen.stopping.consensus(0.5), not {until!r:.80}.")
        prompts, several = parse(_without_tensor(prompt))
        beginnings = parse_beginnings(beginning, len(prompts) if several else None, n)
        return cls(prompts, beginnings, several, int(n), int(seed), leap, sampling, protocol, until)


def settings(leap: LeapConfig | bool, sampling: SamplingConfig | None, options: Mapping[str, Any],
             stated: GenerationConfig) -> tuple[LeapConfig, SamplingConfig]:
    """The configs that a call with these arguments runs with; ``stated`` is the model's own advice on sampling.

    Raises:
        TypeError: another type, or an option that neither config has. ValueError: a value that is not allowed.
    """
    leap_options, sampling_options = split_options(options, LeapConfig, SamplingConfig)
    if isinstance(leap, bool):
        leap = LeapConfig() if leap else LeapConfig.independent()
    if not isinstance(leap, LeapConfig):
        raise TypeError(f"leap must be True, False or a LeapConfig, not {leap!r:.80}.")
    if sampling is None:
        sampling = SamplingConfig.from_generation_config(stated).replace(**dict(leap.sampling_defaults))
    if not isinstance(sampling, SamplingConfig):
        raise TypeError(f"sampling must be None or a SamplingConfig, not {sampling!r:.80}.")
    return leap.replace(**leap_options), sampling.replace(**sampling_options)


def _without_tensor(prompt: object) -> object:
    """Token ids in a tensor, [length] or [prompts, length], as lists."""
    if not isinstance(prompt, torch.Tensor):
        return prompt
    if prompt.dim() not in (1, 2) or prompt.dtype is torch.bool or prompt.is_floating_point():
        raise ValueError(f"prompt is a {prompt.dtype} tensor of shape {tuple(prompt.shape)}; token ids are integers of "
                         "shape [length] or [prompts, length].")
    return prompt.tolist()
