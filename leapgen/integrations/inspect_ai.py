"""The provider ``leapgen/...`` of inspect-ai: a sample's choices are its paths, the first stands for the vote."""

from __future__ import annotations

import os
from copy import copy
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    modelapi,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr, value_to_float
from inspect_ai.solver import TaskState
from inspect_ai.tool import ToolChoice, ToolInfo

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig, split_options
from leapgen.generator import LeapGenerator
from leapgen.record.run import LeapOutput, PathOutput
from leapgen.session import Run

_REFUSED = ("best_of", "frequency_penalty", "presence_penalty", "logit_bias", "top_logprobs", "prompt_logprobs",
            "response_schema", "reasoning_effort", "reasoning_tokens", "extra_body", "modalities", "fallback_models",
            "batch")
_OPTIONS = {"max_tokens": "max_new_tokens", "stop_seqs": "stop_strings", "temperature": "temperature", "top_p": "top_p",
            "top_k": "top_k"}
_STOPS: dict[str | None, StopReason] = {"stop": "stop", "stop_string": "stop", "forced": "stop", "length": "max_tokens"}


class LeapAPI(ModelAPI):
    """Samples that inspect asks for at a time, up to ``max_connections``, go side by side on one engine.

    Args (``-M`` on the command line, besides those that inspect gives):
        n: paths, where ``num_choices`` says nothing.
        outputs: a folder where each sample's run is saved.
        max_connections: samples side by side.
        dtype, device: of the model.
        leap, options: as of ``LeapGenerator.generate``; fields of ``EngineConfig``, too.

    Raises:
        ValueError, TypeError: an argument that is not allowed.
    """

    def __init__(self, model_name: str, base_url: str | None = None, api_key: str | None = None,
                 config: GenerateConfig = GenerateConfig(), *, n: int = 16, outputs: str | os.PathLike[str] | None = None,
                 max_connections: int = 4, dtype: str = "auto", device: str | None = None, leap: LeapConfig | bool = True,
                 **options: Any) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        engine, leap_options, sampling_options = split_options(options, EngineConfig, LeapConfig, SamplingConfig)
        where: dict[str, Any] = {} if device is None else {"device_map": device}
        self.generator = LeapGenerator.from_pretrained(model_name, engine=EngineConfig(**engine), dtype=dtype, **where)
        self.n, self.leap, self._options = n, leap, {**leap_options, **sampling_options}
        self.outputs = None if outputs is None else Path(outputs)
        self._side_by_side, self._threads = max_connections, anyio.CapacityLimiter(1024)  # inspect limits connections
        self.generator.settings(leap, None, self._options)  # refused now, and not at the first sample

    def max_connections(self) -> int:
        return self._side_by_side

    def connection_key(self) -> str:
        return str(self.model_name)

    async def generate(self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice,
                       config: GenerateConfig) -> ModelOutput:
        """One sample: a group of paths.

        Raises:
            ValueError: what cannot be honoured, by name.
        """
        if tools:
            raise ValueError(f"tools cannot be honoured ({', '.join(tool.name for tool in tools)}): paths reason in text.")
        messages = [{"role": message.role, "content": message.text} for message in input]
        for message in input:
            parts = [] if isinstance(message.content, str) else message.content
            if any(part.type not in ("text", "reasoning") for part in parts):
                raise ValueError("messages with images, audio or files cannot be honoured: paths read text.")
        n, seed = config.num_choices or self.n, config.seed or 0
        leap, sampling = self._settings(config, n)
        with self.generator.stream(messages, n, leap=leap, sampling=sampling, seed=seed) as run:
            output = await anyio.to_thread.run_sync(_followed, run, limiter=self._threads)
        return self._answered(output, bool(config.logprobs))

    def _settings(self, config: GenerateConfig, n: int) -> tuple[LeapConfig, SamplingConfig]:
        for name in _REFUSED:
            if getattr(config, name, None) not in (None, False):
                raise ValueError(f"{name}={getattr(config, name)!r:.80} cannot be honoured: leave it out. Model arguments "
                                 "(-M) take every field of LeapConfig and SamplingConfig.")
        options = dict(self._options)
        for name, option in _OPTIONS.items():
            value = getattr(config, name)
            if value is not None:
                options[option] = value
        if options.get("temperature") == 0 and n > 1:
            raise ValueError(f"temperature=0 with {n} paths: greedy paths would all be the same. Use a temperature, or "
                             "--num-choices 1.")
        return self.generator.settings(self.leap, None, options)

    def _answered(self, output: LeapOutput, logprobs: bool) -> ModelOutput:
        first = output.representative()
        paths = [first, *(path for path in output.paths if path is not first)]
        saved = self._save(output)
        prompt = len(paths[0].segments[0].token_ids)
        ledger = output.ledger
        return ModelOutput(
            model=self.model_name, choices=[_choice(path, logprobs) for path in paths],
            usage=ModelUsage(input_tokens=prompt, output_tokens=ledger.decoded, total_tokens=prompt + ledger.decoded),
            time=ledger.total_seconds,
            metadata={"leapgen": {
                "vote": output.majority(), "paths": [path.index for path in paths],
                "answers": [path.answer for path in paths], "votes": [path.votes for path in paths], "seed": output.seed,
                "blocks": [{path: [route.peer for route in routes] for path, routes in block.routes.items()}
                           for block in output.blocks],
                "tokens": output.tokens_by_kind(), "saved": saved}})

    def _save(self, output: LeapOutput) -> str | None:
        if self.outputs is None:
            return None
        self.outputs.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:  # samples end in any order, in this process and in others
            file = self.outputs / f"run-{number}.json"
            try:
                file.touch(exist_ok=False)
            except FileExistsError:
                number += 1
            else:
                output.save(file)
                return str(file)


def _followed(run: Run) -> LeapOutput:
    """In a thread, until inspect gives the sample up."""
    for _ in run:
        anyio.from_thread.check_cancelled()
    return run.output(0)


def _choice(path: PathOutput, logprobs: bool) -> ChatCompletionChoice:
    """What the path says and reads up to its answer is reasoning; the answer, or all it said itself, is its text."""
    before = [segment for segment in path.segments if segment.kind not in ("prompt", "forced", "answer")]
    content: list[Content] = [ContentReasoning(reasoning="".join(segment.text for segment in before))]
    content.append(ContentText(text=_final(path)))
    tokens = None
    if logprobs:
        tokens = Logprobs(content=[Logprob(token=str(token), logprob=value)
                                   for token, value in zip(path.token_ids, path.logprobs, strict=True) if value is not None])
    return ChatCompletionChoice(message=ChatMessageAssistant(content=content, source="generate"),
                                stop_reason=_STOPS.get(path.finish_reason, "unknown"), logprobs=tokens)


def _final(path: PathOutput) -> str:
    answer = "".join(segment.text for segment in path.segments if segment.kind in ("forced", "answer"))
    return answer.strip() or path.said


@modelapi(name="leapgen")
def leapgen() -> type[ModelAPI]:
    return LeapAPI


@scorer(metrics=[mean(), stderr()])
def leap_pass_at_1(inner: Scorer) -> Scorer:
    """Pass@1: the share of a sample's paths that ``inner`` finds right.

    Scorers of inspect's own look at the first choice, the vote, and its reducers see one score a sample.
    """
    to_float = value_to_float()

    async def score(state: TaskState, target: Target) -> Score:
        told = (state.output.metadata or {}).get("leapgen", {})
        votes = told.get("votes") or [True] * len(state.output.choices)
        values, answers = [], []
        for choice, counts in zip(state.output.choices, votes, strict=True):
            if counts:
                alone = copy(state)
                alone.output = state.output.model_copy(update={"choices": [choice], "completion": choice.message.text})
                found = await inner(alone, target)
                values.append(0.0 if found is None else to_float(found.value))
                answers.append(None if found is None else found.answer)
        return Score(value=sum(values) / len(values), answer=state.output.completion,
                     metadata={"paths": values, "answers": answers})

    return score
