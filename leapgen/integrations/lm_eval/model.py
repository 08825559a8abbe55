"""``--model leapgen`` of lm-eval: questions to groups of paths, log-likelihoods by the engine's own verb."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig, split_options
from leapgen.engine import Engine
from leapgen.generator import LeapGenerator
from leapgen.integrations.lm_eval.scoring import KEEP_ALL
from leapgen.integrations.side_by_side import side_by_side
from leapgen.record.run import LeapOutput
from leapgen.session import Run

__all__ = ["KEEP_ALL", "TASKS", "LeapLM"]

TASKS = str(Path(__file__).with_name("tasks"))  # for lm-eval's --include_path
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
Tokens = list[int]


class Chat(str):
    """Messages as JSON: lm-eval's contexts are strings."""

    __slots__ = ()


@register_model("leapgen")
class LeapLM(TemplateLM):
    """Runs LeaP on a task's questions.

    A request that a task repeats n times is one group of n paths. With ``paths`` a request that is made once is a group
    of that many, and the words of the path that stands for the vote are its response: any task then scores Cons@n.

    Args:
        pretrained: a model's name or folder, or a LeapGenerator.
        batch_size: questions, or contexts to be scored, side by side.
        paths: of a request that its task makes once.
        outputs: a folder where each question's run is saved.
        seed: of the random streams; of several equal questions each next one gets the next seed.
        leap, options: as of ``LeapGenerator.generate``; fields of ``EngineConfig``, too.

    Raises:
        ValueError, TypeError: an argument that is not allowed.
    """

    def __init__(self, pretrained: str | LeapGenerator, dtype: str = "auto", device: str | None = None,
                 batch_size: int | str = 1, max_batch_size: int | None = None, paths: int | None = None,
                 outputs: str | os.PathLike[str] | None = None, seed: int = 0, leap: LeapConfig | bool = True,
                 trust_remote_code: bool = False, **options: Any) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size!r} is not allowed: it is how many questions go side by side, an "
                             "integer >= 1. What does not fit into the KV pool waits.")
        engine, self._leap_options, self._sampling_options = split_options(options, EngineConfig, LeapConfig, SamplingConfig)
        if isinstance(pretrained, LeapGenerator):
            if engine:
                raise ValueError(f"{', '.join(engine)}: the generator that was given has an engine of its own.")
            self.generator = pretrained
        else:
            there = torch.cuda.is_available() or not str(device).startswith("cuda")  # lm-eval says cuda where nobody says it
            options = {"device_map": str(device)} if device is not None and there else {}
            if trust_remote_code:
                options["trust_remote_code"] = True
            self.generator = LeapGenerator.from_pretrained(pretrained, engine=EngineConfig(**engine), dtype=dtype, **options)
        self.batch_size, self.paths, self.seed, self.leap = int(batch_size), paths, seed, leap
        self.tokenizer = self.generator.tokenizer
        self.outputs = None if outputs is None else Path(outputs)
        self._settings({}, paths or 1)  # refused now, and not after the data has been loaded

    # -- generation ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text a request: what a path said for itself, up to a string of ``until``."""
        groups = [list(group) for _, group in itertools.groupby(requests, key=id)]  # lm-eval repeats the very object
        runs, texts = side_by_side(self._runs(groups), self.batch_size), list[str]()
        for group, output in zip(groups, tqdm(runs, total=len(groups), desc="questions", disable=disable_tqdm), strict=True):
            context, options = group[0].args[:2]
            said = [output.representative()] if len(group) == 1 else output.paths
            texts += (_before(path.said, _stops(options)) for path in said)
            for text in texts[-len(said) :]:
                self.cache_hook.add_partial("generate_until", (context, options), text)
            self._save(group[0], output)
        return texts

    def _runs(self, groups: Sequence[Sequence[Instance]]) -> Iterator[Run]:
        seen: dict[str, int] = {}
        for group in groups:
            context, options = group[0].args[:2]
            n = len(group) if len(group) > 1 else self.paths or 1
            leap, sampling = self._settings(options, n)
            messages, beginning = _messages(context)
            earlier = seen.get(context, 0)
            seen[context] = earlier + 1
            yield self.generator.stream(messages, n, leap=leap, sampling=sampling, seed=self.seed + earlier,
                                        beginning=beginning)

    def _settings(self, asked: Mapping[str, Any], n: int) -> tuple[LeapConfig, SamplingConfig]:
        """A task's ``generation_kwargs``, over the options that the model was made with."""
        asked = {name: value for name, value in asked.items() if value is not None}
        leap, sampling = {**self._leap_options}, {**self._sampling_options}
        if stops := _stops(asked):
            leap["stop_strings"] = stops
        limits = [asked.pop(name) for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if name in asked]
        if limits:
            leap["max_new_tokens"] = int(limits[0])
        sample = asked.pop("do_sample", None)
        sampling |= {name: asked.pop(name) for name in _SAMPLING if name in asked}
        asked.pop("until", None)
        if asked:
            raise ValueError(f"generation_kwargs {', '.join(map(repr, sorted(asked)))} cannot be honoured: until, "
                             f"max_gen_toks, do_sample, {', '.join(_SAMPLING)} can.")
        if sample is False or sampling.get("temperature") == 0:
            sampling |= {"temperature": 0.0, "top_k": None, "top_p": 1.0, "min_p": 0.0}
            if n > 1:
                raise ValueError(f"{n} greedy paths would all be the same: give --gen_kwargs "
                                 "do_sample=true,temperature=0.6, or one path.")
        elif sampling.get("top_k") == 0:
            sampling["top_k"] = None
        configs = self.generator.settings(self.leap, None, {**leap, **sampling})
        if configs[0].paths_after is not None:
            raise ValueError(f"paths_after={configs[0].paths_after} cannot be honoured: every repeat needs an answer of "
                             "its own.")
        return configs

    def _save(self, request: Instance, output: LeapOutput) -> None:
        if self.outputs is not None:
            self.outputs.mkdir(parents=True, exist_ok=True)
            output.save(self.outputs / f"{request.task_name}-{request.doc_id}.json")

    # -- chats --------------------------------------------------------------------------------------------------------

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages themselves: the question goes into the sentences that explain the tags, then into the template."""
        return Chat(json.dumps(chat_history, ensure_ascii=False))

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    # -- log-likelihoods ----------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self.tokenizer.bos_token_id is None else int(self.tokenizer.bos_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> Tokens:
        """As lm-eval's own models: with the tokenizer's special tokens, unless the text begins with them already."""
        if add_special_tokens is None and string.startswith(str(self.tokenizer.decode([self.prefix_token_id]))):
            add_special_tokens = False
        return [int(token) for token in self.tokenizer.encode(string, add_special_tokens=add_special_tokens is not False)]

    def _rendered(self, chat: str) -> str:
        messages = json.loads(chat)
        prefilled = messages[-1]["role"] == "assistant"
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not prefilled,
                                                      continue_final_message=prefilled))

    def _encode_pair(self, context: str, continuation: str) -> tuple[Tokens, Tokens]:
        text = self._rendered(context) if isinstance(context, Chat) else context
        pair: tuple[Tokens, Tokens] = super()._encode_pair(text, continuation)
        return pair

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """A text longer than the context is scored window by window, each token once."""
        totals = []
        for request in requests:
            windows = map(utils.make_disjoint_window, utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]), prefix_token=self.prefix_token_id,
                max_seq_len=self.generator.engine.context_length - 1, context_len=1))
            pairs = [(("", ""), context, continuation) for context, continuation in windows]
            totals.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def _loglikelihood_tokens(self, requests: list[tuple[tuple[str, str], Tokens, Tokens]], disable_tqdm: bool = False,
                              **options: Any) -> list[tuple[float, bool]]:
        """Each context is computed once for all continuations that follow it in a row."""
        results: list[tuple[float, bool]] = []
        engine, bar = self.generator.engine, tqdm(total=len(requests), desc="log-likelihoods", disable=disable_tqdm)
        groups = [[(one, more) for _, one, more in group] for _, group in itertools.groupby(requests, lambda one: one[1])]
        for start in range(0, len(groups), self.batch_size):
            scored = _scored(engine, groups[start : start + self.batch_size])
            bar.update(len(scored))
            results += scored
        for (pair, _, _), result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, result)
        bar.close()
        return results


def _scored(engine: Engine, groups: Sequence[Sequence[tuple[Tokens, Tokens]]]) -> list[tuple[float, bool]]:
    """Of each pair: the continuation's log-probability after its context, and whether every token is the likeliest."""
    live, asked = [], []
    try:
        for group in groups:
            longest, most = max(len(continuation) for _, continuation in group), engine.context_length
            if longest >= most or not all(continuation for _, continuation in group):
                raise ValueError(f"a continuation of {longest} tokens cannot be scored: each must have one at least, and "
                                 f"{engine.context}.")
            context = group[0][0][-(most - longest) :]  # as lm-eval's own models: a context loses its beginning
            live.append(engine.add(context, limit=len(context)))
            root = live[-1]
            for _, continuation in group:
                live.append(engine.fork(root))
                engine.extend(live[-1], continuation, limit=len(context) + len(continuation))
                asked.append((engine.score(live[-1], len(context), top=1), continuation))
        while engine.has_work:
            engine.step()
        return [(sum(scores.logprobs), all(top[0][0] == token for top, token in zip(scores.tops, continuation, strict=True)))
                for scores, continuation in asked]
    finally:
        for sequence in live:
            engine.release(sequence)


def _messages(context: str) -> tuple[Any, str | None]:
    """A question or chat, and what the assistant is to begin with."""
    if not isinstance(context, Chat):
        return context, None
    messages = json.loads(context)
    if messages[-1]["role"] != "assistant":
        return messages, None
    return messages[:-1], messages[-1]["content"]


def _stops(options: Mapping[str, Any]) -> tuple[str, ...]:
    until = options.get("until") or ()
    return tuple(stop for stop in ((until,) if isinstance(until, str) else until) if stop)


def _before(text: str, stops: Sequence[str]) -> str:
    """What stands before the first of the strings."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]
