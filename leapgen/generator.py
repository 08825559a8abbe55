"""The public face: prompts in, answers of n reasoning paths out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig, config_from, plain_values
from leapgen.encoder import Encoder
from leapgen.engine import Engine
from leapgen.following import follow
from leapgen.job import Question
from leapgen.models import is_model_folder
from leapgen.pretrained import load, name_of, tokenizer_of, vocabulary_size
from leapgen.protocol.base import Group, Method
from leapgen.protocol.chat import Beginnings, Prompt
from leapgen.protocol.endings import Endings
from leapgen.protocol.leap import Leap
from leapgen.protocol.prompts import TAGS, PromptSet
from leapgen.protocol.speaker import Speaker
from leapgen.protocol.text import Vocabulary
from leapgen.record.events import StreamEvent
from leapgen.record.run import LeapOutput
from leapgen.request import Request, settings
from leapgen.resuming import OneSaved, Saved, check_made_with, made_with, saved_runs
from leapgen.session import Run, Session
from leapgen.stopping import Condition


class LeapGenerator:
    """n reasoning paths on a transformers model that learn from each other (LeaP, arXiv 2505.07787).

    Calls may come from several threads, and while other runs go on: all share the engine's steps, and each gets the same
    tokens as alone.

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
        self.tokenizer = tokenizer if tokenizer is not None else tokenizer_of(model)
        embeddings = vocabulary_size(model)
        largest = max(self.tokenizer.get_vocab().values())
        if largest >= embeddings:
            raise ValueError(f"the tokenizer has token ids up to {largest}, the model's embedding only {embeddings} rows: "
                             "they do not belong together, or model.resize_token_embeddings is due.")
        self.model = model
        self.name = name_of(model)  # noted in runs, to load it again
        self.prompts = prompts or PromptSet()
        self.engine = Engine(model, engine)
        self.vocabulary = Vocabulary(self.tokenizer, tags=TAGS)
        self._encoder = Encoder(model, self.vocabulary)
        self._session = Session(model, self.engine)

    @classmethod
    def from_pretrained(cls, name: str, *, engine: EngineConfig | None = None, prompts: PromptSet | None = None,
                        **model_options: Any) -> LeapGenerator:
        """Loads model and tokenizer by transformers' ``from_pretrained``; ``model_options`` go to the model.

        Models that the package carries (``leapgen.models.bundled_models()``) are loaded by their names, unless a model
        lies in a folder of that name.

        Raises:
            FileNotFoundError, ValueError: files of a bundled model are missing or damaged.
        """
        generator = cls(*load(name, **model_options), engine=engine, prompts=prompts)
        if not is_model_folder(name):
            generator.name = name
        return generator

    @overload
    def generate(self, prompt: Prompt, n: int = 32, *, leap: LeapConfig | bool = True,
                 sampling: SamplingConfig | None = None, seed: int = 0, beginning: Beginnings = None,
                 protocol: Method = Leap, until: Condition | None = None,
                 callback: Callable[[StreamEvent], None] | None = None, progress: bool | None = None,
                 checkpoint: str | os.PathLike[str] | None = None, **options: Any) -> LeapOutput: ...

    @overload
    def generate(self, prompt: Sequence[Prompt], n: int = 32, *, leap: LeapConfig | bool = True,
                 sampling: SamplingConfig | None = None, seed: int = 0,
                 beginning: Sequence[Beginnings] | None = None, protocol: Method = Leap,
                 until: Condition | None = None, callback: Callable[[StreamEvent], None] | None = None,
                 progress: bool | None = None, checkpoint: str | os.PathLike[str] | None = None,
                 **options: Any) -> list[LeapOutput]: ...

    def generate(self, prompt: Prompt | Sequence[Prompt], n: int = 32, *, leap: LeapConfig | bool = True,
                 sampling: SamplingConfig | None = None, seed: int = 0,
                 beginning: Beginnings | Sequence[Beginnings] = None, protocol: Method = Leap,
                 until: Condition | None = None, callback: Callable[[StreamEvent], None] | None = None,
                 progress: bool | None = None, checkpoint: str | os.PathLike[str] | None = None,
                 **options: Any) -> LeapOutput | list[LeapOutput]:
        """Runs n paths on a question, or on each of several questions side by side.

        Args:
            prompt: a question, chat messages ending with the user's, or token ids (taken as they are, without chat
                template); or a list of these.
            n: paths for each question.
            leap: the protocol's settings; ``False`` for independent paths with the plain prompt.
            sampling: how tokens are drawn; by default the paper's values, with those the model's ``generation_config``
                states, and then ``leap.sampling_defaults``, in their place.
            seed: of the random streams; of several equal prompts each next one gets the next seed.
            beginning: reasoning that paths go on from (sections 2.1 and 5.2.1 of the paper): text or token ids for all, or a
                list of n with one for each path (None for none); for a list of prompts, a list with one of these for each.
                It counts to the budget and to the interval.
            protocol: how the paths work together: a subclass of ``leapgen.protocol.base.Protocol``, or what makes one.
            until: a condition of ``leapgen.stopping``, or a callable that gets a ``Progress``, asked after every step; a
                question stops where it holds, and keeps what it has so far.
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
        request = Request.checked(prompt, beginning, n, seed, *self.settings(leap, sampling, options), protocol, until)
        outputs = follow(self._run(request), callback, progress, checkpoint, request.several)
        return outputs if request.several else outputs[0]

    def stream(self, prompt: Prompt | Sequence[Prompt], n: int = 32, *, leap: LeapConfig | bool = True,
               sampling: SamplingConfig | None = None, seed: int = 0,
               beginning: Beginnings | Sequence[Beginnings] = None, protocol: Method = Leap,
               until: Condition | None = None, **options: Any) -> Run:
        """As ``generate``, yielding events as they come: tokens, segments, cuts, blocks, finished paths and outputs.

        Inputs are checked when this is called, not when the first event is asked for. The run can be stopped, closed, and
        asked for its outputs while it goes on.
        """
        leap, sampling = self.settings(leap, sampling, options)
        return self._run(Request.checked(prompt, beginning, n, seed, leap, sampling, protocol, until))

    @overload
    def resume(self, output: Saved, *, leap: LeapConfig | None = None, sampling: SamplingConfig | None = None,
               protocol: Method = Leap, check: bool = True, callback: Callable[[StreamEvent], None] | None = None,
               progress: bool | None = None, checkpoint: str | os.PathLike[str] | None = None) -> LeapOutput: ...

    @overload
    def resume(self, output: list[OneSaved] | tuple[OneSaved, ...], *, leap: LeapConfig | None = None,
               sampling: SamplingConfig | None = None, protocol: Method = Leap, check: bool = True,
               callback: Callable[[StreamEvent], None] | None = None, progress: bool | None = None,
               checkpoint: str | os.PathLike[str] | None = None) -> list[LeapOutput]: ...

    def resume(self, output: Saved | Sequence[Saved], *, leap: LeapConfig | None = None,
               sampling: SamplingConfig | None = None, protocol: Method = Leap, check: bool = True,
               callback: Callable[[StreamEvent], None] | None = None, progress: bool | None = None,
               checkpoint: str | os.PathLike[str] | None = None) -> LeapOutput | list[LeapOutput]:
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
                      sampling: SamplingConfig | None = None, protocol: Method = Leap, check: bool = True) -> Run:
        """As ``resume``, yielding events; the first are the segments that the paths already have."""
        outputs = saved_runs(output)
        with self._session.turn():
            self.engine.refresh()
            return self._session.run([self._resumed(one, index, leap, sampling, protocol, check)
                                      for index, one in enumerate(outputs)])

    def settings(self, leap: LeapConfig | bool = True, sampling: SamplingConfig | None = None,
                 options: Mapping[str, Any] | None = None) -> tuple[LeapConfig, SamplingConfig]:
        """The configs that a call with these arguments runs with.

        Raises:
            TypeError: an option that neither config has. ValueError: a value that is not allowed.
        """
        return settings(leap, sampling, options or {}, self.model.generation_config)

    def prompt_token_ids(self, prompt: Prompt, leap: LeapConfig | None = None) -> list[int]:
        """What ``generate`` puts before the paths' own tokens: the chat template, the explanation, the opening."""
        leap = leap or LeapConfig()
        return self._encoder.prompt(prompt, leap, self.prompts, self._encoder.endings(leap))

    # -- from requests to questions -----------------------------------------------------------------------------------

    def _run(self, request: Request) -> Run:
        with self._session.turn():
            self.engine.refresh()
            return self._session.run(self._questions(request), request.until)

    def _questions(self, request: Request) -> list[Question]:
        leap, sampling, prompts, encoder = request.leap, request.sampling, self.prompts, self._encoder
        endings, seen, questions = encoder.endings(leap), Counter[tuple[int, ...]](), []
        for index, (prompt, beginnings) in enumerate(zip(request.prompts, request.beginnings, strict=True)):
            tokens = encoder.prompt(prompt, leap, prompts, endings)
            seed = request.seed + seen[tuple(tokens)]
            seen[tuple(tokens)] += 1
            encoded = {one: encoder.beginning(one, tokens, leap, endings) for one in set(beginnings)}
            group = self._group(prompts, endings, leap, sampling, tokens, request.protocol, request.n, seed, index,
                                [encoded[one] for one in beginnings])
            group.protocol.check()
            questions.append(Question(group, self._output(encoder.question(prompt), group)))
        return questions

    def _resumed(self, output: LeapOutput, index: int, leap: LeapConfig | None, sampling: SamplingConfig | None,
                 protocol: Method, check: bool) -> Question:
        leap = leap or config_from(LeapConfig, output.leap, "leap")
        sampling = sampling or config_from(SamplingConfig, output.sampling, "sampling")
        stated = output.made_with.get("prompts")
        prompts = PromptSet(**stated) if stated else self.prompts
        prompt = output.paths[0].segments[0].token_ids
        beginnings = [[token for segment in path.segments if segment.kind == "beginning" for token in segment.token_ids]
                      for path in output.paths]
        group = self._group(prompts, self._encoder.endings(leap), leap, sampling, prompt, protocol, len(output.paths),
                            output.seed, index, beginnings)
        fresh = self._output(output.question, group)
        if check:
            check_made_with(output.made_with, fresh.made_with)
        return Question(group, fresh, output)

    def _group(self, prompts: PromptSet, endings: Endings, leap: LeapConfig, sampling: SamplingConfig,
               prompt: Sequence[int], protocol: Method, n: int, seed: int, question: int,
               beginnings: Sequence[Sequence[int]]) -> Group:
        speaker = Speaker(self.engine, self.vocabulary, prompts, endings, leap, sampling, tuple(prompt))
        return Group(speaker, protocol, n, seed, question, beginnings)

    def _output(self, question: str, group: Group) -> LeapOutput:
        """The output of a question before its first step."""
        speaker = group.speaker
        return LeapOutput(question=question, paths=[], seed=group.seed, model=self.name, leap=plain_values(speaker.config),
                          sampling=plain_values(speaker.sampling),
                          made_with=made_with(self.model, self.engine, speaker.prompts, group.protocol.name))
