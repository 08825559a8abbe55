"""The task ``leap`` of transformers' pipelines: questions in; for each, a record a path, as of ``text-generation``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils.chat_template_utils import Chat

from leapgen.config import EngineConfig, LeapConfig
from leapgen.integrations.side_by_side import side_by_side
from leapgen.integrations.transformers.fields import TABLE, fields_of, looked_through, settled
from leapgen.integrations.transformers.generators import generator_for
from leapgen.protocol.chat import Prompt, parse
from leapgen.record.run import LeapOutput
from leapgen.session import Run

TASK = "leap"


def register() -> None:
    """Makes ``transformers.pipeline("leap", model=...)`` known. Twice is allowed."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(TASK, LeapPipeline, pt_model=AutoModelForCausalLM, type="text")


class LeapPipeline(Pipeline):
    """Takes questions, chats, lists, datasets and generators of them; ``batch_size`` questions go side by side.

    A question's records, one for each path: ``generated_text`` (question and the words it said itself, or the chat with one
    more message), ``answer``, ``path`` (its index), ``run`` (the question's ``LeapOutput``, the same in all).

    Keywords, when the pipeline is made or called: ``n`` or ``num_return_sequences`` (default 32), ``seed`` (of several equal
    questions each next one gets the next seed), ``leap``, ``engine``, ``generation_config``, ``return_full_text``, fields
    of ``LeapConfig``, ``SamplingConfig`` and ``GenerationConfig``.

    Raises:
        ValueError, TypeError: what cannot be honoured, by name; before any work.
    """

    _load_tokenizer = True  # type: ignore[assignment]
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]

    def _sanitize_parameters(self, return_full_text: bool | None = None, **options: Any) -> tuple[
            dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, options, {} if return_full_text is None else {"return_full_text": return_full_text}

    def preprocess(self, input_: Any, **_: Any) -> Any:
        """One question, in a form that ``LeapGenerator`` takes."""
        (prompt,), several = parse(input_.messages if isinstance(input_, Chat) else input_)
        if several:
            raise ValueError(f"{input_!r:.80} is a list where one question is due.")
        return prompt

    def _forward(self, input_tensors: Any, **options: Any) -> Any:
        return next(self._outputs([input_tensors], 1, options))

    def postprocess(self, model_outputs: Any, return_full_text: Any = True, **_: Any) -> list[dict[str, Any]]:
        """A record a path of the question and output that ``model_outputs`` holds."""
        prompt, output = model_outputs

        def text(own: str) -> Any:
            if not return_full_text:
                return own
            return prompt + own if isinstance(prompt, str) else [*prompt, {"role": "assistant", "content": own}]

        return [{"generated_text": text(path.said), "answer": path.answer, "path": path.index, "run": output}
                for path in output.paths]

    def get_iterator(self, inputs: Iterable[Any], num_workers: int, batch_size: int, preprocess_params: dict[str, Any],
                     forward_params: dict[str, Any], postprocess_params: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        """Without workers and collation: questions are text, and the engine does the batching."""
        results = self._outputs(map(self.preprocess, inputs), batch_size, forward_params)
        return (self.postprocess(result, **postprocess_params) for result in results)

    def _outputs(self, prompts: Iterable[Prompt], most: int, options: dict[str, Any]) -> Iterator[tuple[Prompt, LeapOutput]]:
        asked: list[Prompt] = []
        seen = Counter[str]()

        def runs() -> Iterator[Run]:
            for prompt in prompts:
                asked.append(prompt)
                key = json.dumps(prompt, default=str)
                yield self._run(prompt, seen[key], **options)
                seen[key] += 1

        for output in side_by_side(runs(), most):
            yield asked.pop(0), output

    def _run(self, prompt: Prompt, earlier: int, n: int | None = None, seed: int = 0, leap: LeapConfig | bool = True,
             engine: EngineConfig | None = None, generation_config: Any = None, **options: Any) -> Run:
        generator = generator_for(self.model, self.tokenizer, engine)
        stated = fields_of(generation_config) | {name: options.pop(name) for name in options.keys() & TABLE.keys()}
        if n is not None and stated.setdefault("num_return_sequences", n) != n:
            raise ValueError(f"n={n} and num_return_sequences={stated['num_return_sequences']} say the same: give one of "
                             "them.")
        width = len(generator.prompt_token_ids(prompt, generator.settings(leap, None, {
            name: options[name] for name in options.keys() & {"explain", "start_over", "think_start"}})[0]))
        wishes = settled(self.model, stated, width)
        through, left = looked_through(wishes.processors, width)
        processors = (*left, *options.pop("logits_processors", ()))
        configs = generator.settings(leap, None, {**options, **wishes.options, **through,
                                                  **({"logits_processors": processors} if processors else {})})
        return generator.stream(prompt, wishes.n or 32, leap=configs[0], sampling=configs[1], seed=seed + earlier,
                                until=wishes.until)
