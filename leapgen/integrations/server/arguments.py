"""What a request asks of the generator: prompts, paths and settings, from its body and the server's presets."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leapgen.config import LeapConfig, SamplingConfig
from leapgen.generator import LeapGenerator
from leapgen.integrations.server.config import ServerConfig
from leapgen.integrations.server.errors import Refused
from leapgen.integrations.server.schemas import Asking, ChatRequest, CompletionRequest
from leapgen.protocol.text import Plain
from leapgen.session import Run
from leapgen.stopping import time_limit

BASELINE = ":independent"
MOST_CHARACTERS, MOST_SPELLED = 32, 1000  # of a prompt: for each token of the context; special tokens, which stay text
PARTS = ("max_new_tokens", "summary_tokens", "forced_answer_tokens", "written_answer_tokens")


@dataclass(frozen=True)
class Served:
    """A generator and the settings that requests start from.

    Args:
        name: by which requests ask for it.
        leap: the protocol's settings.
        sampling: fields of ``SamplingConfig`` in place of the model's own advice.
    """

    generator: LeapGenerator
    name: str
    leap: LeapConfig = field(default_factory=LeapConfig)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    config: ServerConfig = field(default_factory=ServerConfig)

    @property
    def models(self) -> list[str]:
        """The model as it is served, and its baseline: paths that never meet."""
        return [self.name, self.name + BASELINE]


@dataclass(frozen=True)
class Asked:
    """A request that may be run.

    Args:
        prompts: chats, texts, or token ids.
        n: choices to return for each prompt, of ``paths``.
        model: as the request names it.
    """

    prompts: Sequence[Any]
    chat: bool
    model: str
    n: int
    paths: int
    seed: int
    leap: LeapConfig
    sampling: SamplingConfig
    timeout: float | None
    stream: bool
    usage: bool
    logprobs: bool
    token_ids: bool

    @classmethod
    def of(cls, body: ChatRequest | CompletionRequest, served: Served) -> Asked:
        """Raises:
            Refused: another model; a value that is not allowed, or more than the server gives.
        """
        if body.model not in served.models:
            raise Refused(404, f"there is no model {body.model!r}; this server has {', '.join(served.models)}.", "model",
                          "model_not_found")
        chat = isinstance(body, ChatRequest)
        prompts = [[message.plain for message in body.messages]] if isinstance(body, ChatRequest) else _texts(body.prompt)
        options: dict[str, Any] = {} if body.leap is None else body.leap.model_dump(exclude_unset=True)
        paths = options.pop("paths", max(served.config.paths, body.n))
        leap, sampling = _settings(body, served, options)
        _check(body.n, paths, len(prompts), leap, sampling, served.config)
        seed = secrets.randbits(32) if body.seed is None else body.seed
        if not 0 <= seed < 1 << 63:
            raise Refused(400, f"seed={seed} is not allowed: seed must be an integer in 0 .. 2**63 - 1.", "seed",
                          "invalid_value")
        usage = body.stream_options is not None and body.stream_options.include_usage
        return cls(prompts, chat, body.model, body.n, paths, seed, leap, sampling, served.config.timeout,
                   bool(body.stream), usage, body.logprobs is not None and body.logprobs is not False,
                   bool(body.return_token_ids))

    def run(self, generator: LeapGenerator) -> Run:
        """A run that has not begun; prompts are encoded.

        Raises:
            ValueError: a prompt that cannot be run so.
        """
        _check_encoding(generator, [message["content"] for one in self.prompts for message in one] if self.chat else
                        [one for one in self.prompts if isinstance(one, str)])
        prompts = [one if self.chat else _raw(generator, one) for one in self.prompts]
        return generator.stream(prompts, self.paths, leap=self.leap, sampling=self.sampling, seed=self.seed,
                                until=None if self.timeout is None else time_limit(self.timeout))


def _texts(prompt: str | list[Any]) -> list[Any]:
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


def _check_encoding(generator: LeapGenerator, texts: Sequence[str]) -> None:
    """Refuses what would keep the thread busy that others wait for.

    Raises:
        ValueError: far too long for the context, or more special tokens spelled than a text on them has.
    """
    most, length = MOST_CHARACTERS * generator.engine.context_length, sum(map(len, texts))
    if length > most:
        raise ValueError(f"the prompt has {length} characters, more than {MOST_CHARACTERS} for each token of the context: "
                         f"{generator.engine.context}.")
    spelled = sum(text.count(content) for text in texts for content in generator.vocabulary.control)
    if spelled > MOST_SPELLED:
        raise ValueError(f"the prompt spells {spelled} special tokens, more than {MOST_SPELLED}.")


def _raw(generator: LeapGenerator, prompt: str | list[int]) -> list[int]:
    """Token ids of a text that goes before the paths' words as it is; what it spells is text, and no special token."""
    if not isinstance(prompt, str):
        return prompt
    return [*generator.tokenizer.encode(""), *generator.vocabulary.encode([Plain(prompt)], after=())]


def _settings(body: Asking, served: Served, options: dict[str, Any]) -> tuple[LeapConfig, SamplingConfig]:
    """The server's settings with what the body changes.

    A budget of the body's own brings an interval in proportion with it, so that as many blocks are held as the server's
    settings mean to; an interval of the body's own stays what it is.
    """
    preset = served.leap
    if body.model == served.name + BASELINE:
        preset = preset.replace(max_blocks=0, blocks=None, paths_after=None, explain=False, self_summarize=False)
    if body.budget is not None:
        options.setdefault("max_new_tokens", body.budget)
    if "max_new_tokens" in options and preset.communicates:
        options.setdefault("interval", max(preset.interval * options["max_new_tokens"] // preset.max_new_tokens, 1))
    if body.stop is not None:
        options["stop_strings"] = [body.stop] if isinstance(body.stop, str) else body.stop
    drawn = {name: getattr(body, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
             if getattr(body, name) is not None}
    try:
        leap = preset.replace(**options)
        return served.generator.settings(leap, None, {**served.sampling, **drawn})
    except (ValueError, TypeError) as error:
        named = re.match(r"(\w+)=", str(error))
        raise Refused(400, str(error), named and named[1], "invalid_value") from error


def _check(n: int, paths: int, prompts: int, leap: LeapConfig, sampling: SamplingConfig, config: ServerConfig) -> None:
    if n > paths:
        raise Refused(400, f"n={n} is not allowed: n must be at most leap.paths={paths}, of which n are returned.", "n",
                      "invalid_value")
    if sampling.temperature == 0 and paths > 1:
        raise Refused(400, f"temperature=0 is not allowed with {paths} paths: all would be the same. Leave it out, or ask "
                      'for one path: {"leap": {"paths": 1, "max_blocks": 0}}.', "temperature", "invalid_value")
    if paths * prompts > config.max_paths:
        raise Refused(422, f"{paths} paths for each of {prompts} prompts are more than the {config.max_paths} that this "
                      "server runs for a request.", "leap.paths", "too_many_paths")
    for name in PARTS:
        if getattr(leap, name) > config.max_tokens:
            raise Refused(422, f"{name}={getattr(leap, name)} is more than the {config.max_tokens} tokens that this server "
                          "gives.", "max_tokens" if name == "max_new_tokens" else f"leap.{name}", "too_many_tokens")
