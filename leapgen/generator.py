"""The public face: prompts in, answers of n reasoning paths out."""

from __future__ import annotations

import inspect
import numbers
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig, plain_values, split_options
from leapgen.engine import Engine
from leapgen.engine.model.identity import weights_digest
from leapgen.following import follow
from leapgen.models import model_path
from leapgen.protocol.base import Group, Protocol
from leapgen.protocol.chat import Beginning, Prompt, is_token_ids, parse, parse_beginnings, prompt_tokens, question_of
from leapgen.protocol.endings import Endings
from leapgen.protocol.leap import Leap
from leapgen.protocol.prompts import TAGS, PromptSet
from leapgen.protocol.speaker import Speaker
from leapgen.protocol.text import Plain, Vocabulary, decode
from leapgen.record.events import StreamEvent
from leapgen.record.run import LeapOutput
from leapgen.session import Question, Run, Session
from leapgen.stopping import Condition

Saved = LeapOutput | str | os.PathLike  # a run, or the file it was saved in


class LeapGenerator:
    """n reasoning paths on a transformers model that learn from each other (LeaP, arXiv 2505.07787).

    Calls may come from several threads, and while other runs go on: all share the engine's steps, and each gets the tokens
    it would get alone.

    Args:
        model: a causal language model of transformers; used as it is and left as it was.
        tokenizer: its tokenizer; found by the model's ``name_or_path`` if not given.
        engine: memory and batch limits.
        prompts: the sentences of the protocol.

    Raises:
        UnsupportedModelError: the model cannot be served exactly; says why.
        ValueError: no tokenizer is found, or it has more tokens than the model's embedding.

    Example:
        >>> generator = LeapGenerator(model, tokenizer)
        >>> output = generator.generate("What is 12 * 13?", n=8, interval=512, max_new_tokens=2048)
        >>> output.majority(), output.blocks[0].routes[0]
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, *,
                 engine: EngineConfig | None = None, prompts: PromptSet | None = None) -> None:
        for value, kind, hint in (
                (model, torch.nn.Module, "a loaded model; LeapGenerator.from_pretrained takes a name"),
                (tokenizer, (PreTrainedTokenizerBase, type(None)), "a transformers tokenizer"),
                (engine, (EngineConfig, type(None)), "an EngineConfig"),
                (prompts, (PromptSet, type(None)), "a PromptSet; PromptSet.load reads a file")):
            if not isinstance(value, kind):
                name = {id(model): "model", id(tokenizer): "tokenizer", id(engine): "engine"}.get(id(value), "prompts")
                raise TypeError(f"{name} must be {hint}, not {value!r:.80}.")
        self.tokenizer = tokenizer if tokenizer is not None else _tokenizer_of(model)
        embeddings = model.get_input_embeddings().weight.shape[0]
        largest = max(self.tokenizer.get_vocab().values())
        if largest >= embeddings:
            raise ValueError(f"the tokenizer has token ids up to {largest}, the model's embedding only {embeddings} rows: "
                             "they do not belong together, or model.resize_token_embeddings is due.")
        self.model = model
        self.name = _name_of(model)  # what to load it by, as runs say it
        self.prompts = prompts or PromptSet()
        self.engine = Engine(model, engine)
        self.vocabulary = Vocabulary(self.tokenizer, tags=TAGS)
        self._session = Session(model, self.engine)

    @classmethod
    def from_pretrained(cls, name: str, *, engine: EngineConfig | None = None, prompts: PromptSet | None = None,
                        **model_options: Any) -> LeapGenerator:
        """Loads model and tokenizer by transformers' ``from_pretrained``; ``model_options`` go to the model.

        Models that the package carries (``leapgen.models.bundled_models()``) are loaded by their names, unless there is a
        folder of that name.

        Raises:
            FileNotFoundError, ValueError: files of a bundled model are missing or damaged.
        """
        path = model_path(name)
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, **model_options).eval()
        generator = cls(model, tokenizer, engine=engine, prompts=prompts)
        if not os.path.isdir(name):
            generator.name = name
        return generator

    def generate(self, prompt: Prompt | Sequence[Prompt], n: int = 32, *, leap: LeapConfig | bool = True,
                 sampling: SamplingConfig | None = None, seed: int = 0,
                 beginning: Beginning | Sequence[Beginning | None] | None = None,
                 protocol: Callable[[Group], Protocol] = Leap, until: Condition | None = None,
                 callback: Callable[[StreamEvent], None] | None = None, progress: bool | None = None,
                 checkpoint: str | os.PathLike | None = None, **options: Any) -> LeapOutput | list[LeapOutput]:
        """Runs n paths on a question, or on each of several questions side by side.

        Args:
            prompt: a question, chat messages ending with the user's, or token ids (taken as they are, without chat
                template); or a list of these.
            n: paths for each question.
            leap: the protocol's settings; ``False`` for independent paths with the plain prompt.
            sampling: how tokens are drawn; by default the paper's values, with those the model's ``generation_config``
                states, and then ``leap.sampling_defaults``, in their place.
            seed: of the random streams; of several equal prompts each next one gets the next seed.
            beginning: reasoning that all paths go on from (section 2.1 of the paper), as text or token ids; for a list of
                prompts, a list of as many (None for none). It counts to the budget and to the interval.
            protocol: how the paths work together: a subclass of ``leapgen.protocol.base.Protocol``, or what makes one.
            until: a condition of ``leapgen.stopping``, or a callable that gets a ``Progress``, asked after every step; a
                question stops where it holds, and keeps what there is.
            callback: called with every event, as ``stream`` yields them.
            progress: whether to show a bar; ``None`` shows one in notebooks.
            checkpoint: a file (for a list of prompts a folder) that is written at every block and every minute, so that
                ``resume`` can go on from it whatever happens; at the end it holds the output.
            options: fields of ``LeapConfig`` and ``SamplingConfig`` by name, on top of the two.

        Returns:
            A ``LeapOutput``, or a list of them for a list of prompts.

        Raises:
            ValueError, TypeError: an input or option that is not allowed; before any work.
            UnsupportedModelError: the model was changed into one that cannot be served.
            GenerationFailed: an error during the run; carries the outputs so far.
            GenerationInterrupted: Ctrl-C; carries the outputs so far.
        """
        run = self.stream(prompt, n, leap=leap, sampling=sampling, seed=seed, beginning=beginning,
                          protocol=protocol, until=until, **options)
        several = parse(_without_tensor(prompt))[1]
        outputs = follow(run, callback, progress, checkpoint, several)
        return outputs if several else outputs[0]

    def stream(self, prompt: Prompt | Sequence[Prompt], n: int = 32, *, leap: LeapConfig | bool = True,
               sampling: SamplingConfig | None = None, seed: int = 0,
               beginning: Beginning | Sequence[Beginning | None] | None = None,
               protocol: Callable[[Group], Protocol] = Leap, until: Condition | None = None, **options: Any) -> Run:
        """As ``generate``, yielding events as they come: tokens, segments, cuts, blocks, finished paths and outputs.

        Inputs are checked when this is called, not when the first event is asked for. The run can be stopped, closed, and
        asked for its outputs while it goes on.
        """
        leap, sampling = self.settings(leap, sampling, options)
        if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n={n!r} is not allowed: n must be an integer >= 1, the number of paths.")
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
            raise ValueError(f"seed={seed!r} is not allowed: seed must be an integer in 0 .. 2**63 - 1.")
        if until is not None and not callable(until):
            raise TypeError(f"until must be a stop condition, such as leapgen.stopping.consensus(0.5), not {until!r:.80}.")
        prompts, several = parse(_without_tensor(prompt))
        beginnings = parse_beginnings(beginning, len(prompts) if several else None)
        with self._session.turn():
            self.engine.refresh()
            questions = self._questions(prompts, beginnings, int(n), leap, sampling, int(seed), protocol)
            return self._session.run(questions, until)

    def resume(self, output: Saved | Sequence[Saved], *, leap: LeapConfig | None = None,
               sampling: SamplingConfig | None = None, protocol: Callable[[Group], Protocol] = Leap, check: bool = True,
               callback: Callable[[StreamEvent], None] | None = None, progress: bool | None = None,
               checkpoint: str | os.PathLike | None = None) -> LeapOutput | list[LeapOutput]:
        """Goes on with an interrupted run from where it stopped; the tokens are those of a run never interrupted.

        Args:
            output: a run, or the file it was saved in; or a list of these, to go on side by side.
            leap, sampling: settings come from the output; if it was run with callables of yours (similarity, router,
                processors), which a file cannot hold, give the configs again.
            protocol: that of the run, where it was not LeaP.
            check: refuse a model that is not the one the run was made with; False goes on with this one.
            callback, progress, checkpoint: as for ``generate``.

        Raises:
            ValueError: another model, dtype or context made the run, or it has settings that a file cannot hold.
            GenerationFailed, GenerationInterrupted: as for ``generate``.
        """
        run = self.resume_stream(output, leap=leap, sampling=sampling, protocol=protocol, check=check)
        several = isinstance(output, (list, tuple))
        outputs = follow(run, callback, progress, checkpoint, several)
        return outputs if several else outputs[0]

    def resume_stream(self, output: Saved | Sequence[Saved], *, leap: LeapConfig | None = None,
                      sampling: SamplingConfig | None = None, protocol: Callable[[Group], Protocol] = Leap,
                      check: bool = True) -> Run:
        """As ``resume``, yielding events; the first are the segments that the paths already have."""
        outputs = [_loaded(one) for one in (output if isinstance(output, (list, tuple)) else [output])]
        with self._session.turn():
            self.engine.refresh()
            return self._session.run([self._question_of(one, index, leap, sampling, protocol, check)
                                      for index, one in enumerate(outputs)])

    def _question_of(self, output: LeapOutput, index: int, leap: LeapConfig | None, sampling: SamplingConfig | None,
                     protocol: Callable[[Group], Protocol], check: bool) -> Question:
        leap = leap or config_from(LeapConfig, output.leap, "leap")
        sampling = sampling or config_from(SamplingConfig, output.sampling, "sampling")
        stated = output.made_with.get("prompts")
        prompts = PromptSet(**stated) if stated else self.prompts
        prompt, *after = output.paths[0].segments
        beginning = after[0].token_ids if after and after[0].kind == "beginning" else ()
        group = self._group(prompts, self._endings(leap), leap, sampling, prompt.token_ids, protocol, len(output.paths),
                            output.seed, index, beginning)
        fresh = self._empty_output(output.question, group)
        if check:
            _check_made_with(output.made_with, fresh.made_with)
        return Question(group, fresh, output)

    def _questions(self, prompts: Sequence[Prompt], beginnings: Sequence[Beginning | None], n: int, leap: LeapConfig,
                   sampling: SamplingConfig, seed: int, protocol: Callable[[Group], Protocol]) -> list[Question]:
        endings, seen, questions = self._endings(leap), Counter[tuple[int, ...]](), []
        for index, (prompt, beginning) in enumerate(zip(prompts, beginnings, strict=True)):
            tokens = self._prompt_tokens(prompt, leap, endings)
            own_seed = seed + seen[tuple(tokens)]
            seen[tuple(tokens)] += 1
            group = self._group(self.prompts, endings, leap, sampling, tokens, protocol, n, own_seed, index,
                                self._beginning_tokens(beginning, tokens, leap, endings))
            group.protocol.check()
            text = decode(self.tokenizer, tokens) if is_token_ids(prompt) else question_of(prompt)
            questions.append(Question(group, self._empty_output(text, group)))
        return questions

    def _group(self, prompts: PromptSet, endings: Endings, leap: LeapConfig, sampling: SamplingConfig,
               prompt: Sequence[int], protocol: Callable[[Group], Protocol], n: int, seed: int, question: int,
               beginning: Sequence[int]) -> Group:
        speaker = Speaker(self.engine, self.vocabulary, prompts, endings, leap, sampling, tuple(prompt))
        return Group(speaker, protocol, n, seed, question, beginning)

    def _empty_output(self, question: str, group: Group) -> LeapOutput:
        speaker = group.speaker
        return LeapOutput(question=question, paths=[], seed=group.seed, model=self.name, leap=plain_values(speaker.config),
                          sampling=plain_values(speaker.sampling),
                          made_with={"dtype": str(self.model.dtype).removeprefix("torch."),
                                     "context_length": self.engine.context_length, "protocol": group.protocol.name,
                                     "weights": weights_digest(self.model), "engine": plain_values(self.engine.config),
                                     "prompts": plain_values(speaker.prompts)})

    # -- inputs -----------------------------------------------------------------------------------------------------

    def settings(self, leap: LeapConfig | bool = True, sampling: SamplingConfig | None = None,
                 options: Mapping[str, Any] | None = None) -> tuple[LeapConfig, SamplingConfig]:
        """The configs a call with these arguments runs with.

        Raises:
            TypeError: an option neither config has. ValueError: a value that is not allowed.
        """
        leap_options, sampling_options = split_options(dict(options or {}), LeapConfig, SamplingConfig)
        if isinstance(leap, bool):
            leap = LeapConfig() if leap else LeapConfig.independent()
        if not isinstance(leap, LeapConfig):
            raise TypeError(f"leap must be True, False or a LeapConfig, not {leap!r:.80}.")
        if sampling is None:
            stated = SamplingConfig.from_generation_config(self.model.generation_config)
            sampling = stated.replace(**dict(leap.sampling_defaults))
        if not isinstance(sampling, SamplingConfig):
            raise TypeError(f"sampling must be None or a SamplingConfig, not {sampling!r:.80}.")
        return leap.replace(**leap_options), sampling.replace(**sampling_options)

    def prompt_token_ids(self, prompt: Prompt, leap: LeapConfig | None = None) -> list[int]:
        """What ``generate`` puts before the paths' own tokens: the chat template, the explanation, the opening."""
        leap = leap or LeapConfig()
        return self._prompt_tokens(prompt, leap, self._endings(leap))

    def _endings(self, leap: LeapConfig) -> Endings:
        ends = set(leap.stop_token_ids)
        found_start, found_end = self.vocabulary.thinking_markers()
        start = found_start if leap.think_start is None else leap.think_start
        end = found_end if leap.think_end is None else leap.think_end
        if leap.ignore_eos:
            end = ""
        else:
            stated = self.model.generation_config.eos_token_id
            ends |= set(stated if isinstance(stated, (list, tuple)) else [stated])
            ends.add(self.tokenizer.eos_token_id)
        return Endings(frozenset(ends - {None}), start, end, self.vocabulary.token(end))

    def _prompt_tokens(self, prompt: Prompt, leap: LeapConfig, endings: Endings) -> list[int]:
        if not is_token_ids(prompt):
            return prompt_tokens(self.tokenizer, prompt, leap, self.prompts, endings.think_start)
        self._check_tokens("prompt", prompt)
        return list(prompt)

    def _beginning_tokens(self, beginning: Beginning | None, prompt: list[int], leap: LeapConfig,
                          endings: Endings) -> list[int]:
        if beginning is None:
            return []
        if isinstance(beginning, str):
            tokens, text = self.vocabulary.encode([Plain(beginning)], after=prompt), beginning
        else:
            self._check_tokens("beginning", beginning)
            tokens, text = list(beginning), decode(self.tokenizer, beginning)
        if endings.reasoning & set(tokens) or (endings.think_end and endings.think_end in text):
            raise ValueError(f"beginning {text!r:.80} ends the reasoning: nothing would be left to go on with.")
        if len(tokens) >= leap.max_new_tokens:
            raise ValueError(f"beginning is {len(tokens)} tokens long and counts to max_new_tokens={leap.max_new_tokens}: "
                             "nothing would be left to generate.")
        return tokens

    def _check_tokens(self, name: str, tokens: Sequence[int]) -> None:
        wrong = [token for token in tokens if not 0 <= token < self.engine.runner.vocab_size]
        if wrong:
            raise ValueError(f"{name} has token id {wrong[0]}, outside the model's vocabulary of "
                             f"{self.engine.runner.vocab_size}.")


def _without_tensor(prompt: Any) -> Any:
    """Token ids in a tensor, [length] or [prompts, length], as lists."""
    if not isinstance(prompt, torch.Tensor):
        return prompt
    if prompt.dim() not in (1, 2) or prompt.dtype is torch.bool or prompt.is_floating_point():
        raise ValueError(f"prompt is a {prompt.dtype} tensor of shape {tuple(prompt.shape)}; token ids are integers of "
                         "shape [length] or [prompts, length].")
    return prompt.tolist()


def _tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    name = getattr(model.config, "name_or_path", "")
    hint = "Pass it: LeapGenerator(model, tokenizer)."
    if not name:
        raise ValueError(f"no tokenizer was given and the model does not say where it came from. {hint}")
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever keeps a tokenizer from loading, the way out is the same
        raise ValueError(f"no tokenizer was given and none can be loaded from {name!r}: {error}. {hint}") from error


def _name_of(model: PreTrainedModel) -> str:
    """The model's own name; of a folder the whole path, so that it is found from everywhere."""
    name = str(getattr(model.config, "name_or_path", "") or "")
    return os.path.abspath(name) if name and os.path.isdir(name) else name


def _loaded(output: Saved) -> LeapOutput:
    if isinstance(output, (str, os.PathLike)):
        output = LeapOutput.load(output)
    if not isinstance(output, LeapOutput):
        raise TypeError(f"output must be a LeapOutput or the file of one, not {output!r:.80}.")
    return output


def config_from(config: type, values: Mapping[str, Any], name: str) -> Any:
    """A config from the values that ``plain_values`` made of one.

    Raises:
        ValueError: one of them was a callable; says which.
    """
    known = inspect.signature(config).parameters
    lost = [f"{key} ({item['callable']})" for key, value in values.items()
            for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    if lost:
        raise ValueError(f"the run was made with callables of yours, which a file cannot hold: {', '.join(lost)}. "
                         f"Give the config again: resume(output, {name}=...).")
    return config(**{key: tuple(value) if isinstance(value, list) else value
                     for key, value in values.items() if key in known})


def _check_made_with(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Whether what decides about tokens is what it was.

    Raises:
        ValueError: names what differs.
    """
    said = {"dtype": "the model's dtype", "context_length": "positions a path may have (EngineConfig, KV pool)",
            "weights": "the model's weights", "protocol": "the protocol"}
    differ = [f"{said[key]} ({before[key]}, now {now[key]})" for key in said if key in before and before[key] != now[key]]
    if differ:
        raise ValueError(f"the run was made with other values of {'; '.join(differ)}: its tokens would not go on as they "
                         "began. Load what made it, or go on with this one by resume(output, check=False).")
