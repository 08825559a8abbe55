"""The public face: prompts in, answers of n reasoning paths out."""

from __future__ import annotations

import inspect
import numbers
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig, plain_values, split_options
from leapgen.engine import Engine
from leapgen.engine.support import eval_mode
from leapgen.models import model_path
from leapgen.output import BlockEvent, FinishEvent, LeapOutput, OutputEvent, TokenEvent
from leapgen.protocol.chat import Beginning, Prompt, is_token_ids, parse, parse_beginnings, prompt_tokens, question_of
from leapgen.protocol.group import Endings, Group
from leapgen.protocol.prompts import TAGS, PromptSet
from leapgen.protocol.text import Plain, Vocabulary, decode

StreamEvent = TokenEvent | BlockEvent | FinishEvent | OutputEvent


class GenerationFailed(RuntimeError):
    """Something raised during a run. ``outputs`` holds what was generated; ``__cause__`` is what happened."""

    def __init__(self, cause: BaseException, outputs: list[LeapOutput]) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.outputs = outputs


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run. ``outputs`` holds what was generated; ``LeapGenerator.resume`` goes on from there."""

    def __init__(self, outputs: list[LeapOutput]) -> None:
        super().__init__("interrupted")
        self.outputs = outputs


class LeapGenerator:
    """n reasoning paths on a transformers model that learn from each other (LeaP, arXiv 2505.07787).

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

    group_class: type[Group] = Group  # the protocol; an experiment may put a subclass of it in its place

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
        self.prompts = prompts or PromptSet()
        self.engine = Engine(model, engine)
        self.vocabulary = Vocabulary(self.tokenizer, tags=TAGS)

    @classmethod
    def from_pretrained(cls, name: str, *, engine: EngineConfig | None = None, prompts: PromptSet | None = None,
                        **model_options: Any) -> LeapGenerator:
        """Loads model and tokenizer by transformers' ``from_pretrained``; ``model_options`` go to the model.

        Models that the package carries (``leapgen.models.bundled_models()``) are loaded by their names, unless there is a
        folder of that name.

        Raises:
            FileNotFoundError, ValueError: files of a bundled model are missing or damaged.
        """
        name = model_path(name)
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, **model_options).eval()
        return cls(model, tokenizer, engine=engine, prompts=prompts)

    def generate(self, prompt: Prompt | Sequence[Prompt], n: int = 32, *, leap: LeapConfig | bool = True,
                 sampling: SamplingConfig | None = None, seed: int = 0,
                 beginning: Beginning | Sequence[Beginning | None] | None = None,
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
            beginning: reasoning that all paths go on from (section 2.1 of the paper), as text or token ids; for a list of
                prompts, a list of as many (None for none). It counts to the budget and to the interval.
            options: fields of ``LeapConfig`` and ``SamplingConfig`` by name, on top of the two.

        Returns:
            A ``LeapOutput``, or a list of them for a list of prompts.

        Raises:
            ValueError, TypeError: an input or option that is not allowed; before any work.
            GenerationFailed: an error during the run; carries the outputs so far.
            GenerationInterrupted: Ctrl-C; carries the outputs so far.
        """
        outputs = {event.question: event.output
                   for event in self.stream(prompt, n, leap=leap, sampling=sampling, seed=seed, beginning=beginning,
                                            **options)
                   if isinstance(event, OutputEvent)}
        ordered = [outputs[i] for i in sorted(outputs)]
        return ordered if parse(_without_tensor(prompt))[1] else ordered[0]

    def stream(self, prompt: Prompt | Sequence[Prompt], n: int = 32, *, leap: LeapConfig | bool = True,
               sampling: SamplingConfig | None = None, seed: int = 0,
               beginning: Beginning | Sequence[Beginning | None] | None = None, **options: Any) -> Iterator[StreamEvent]:
        """As ``generate``, yielding tokens, blocks, finished paths and finished outputs as they come.

        Inputs are checked when this is called, not when the first event is asked for. Closing the iterator ends the run.
        """
        leap, sampling = self.settings(leap, sampling, options)
        if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n={n!r} is not allowed: n must be an integer >= 1, the number of paths.")
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
            raise ValueError(f"seed={seed!r} is not allowed: seed must be an integer in 0 .. 2**63 - 1.")
        endings = self._endings(leap)
        prompts, several = parse(_without_tensor(prompt))
        beginnings = parse_beginnings(beginning, len(prompts) if several else None)
        seen: Counter[tuple[int, ...]] = Counter()
        groups, outputs = [], []
        for index, one in enumerate(prompts):
            tokens = self._prompt_tokens(one, leap, endings)
            own_seed = int(seed) + seen[tuple(tokens)]
            seen[tuple(tokens)] += 1
            groups.append(self.group_class(self.engine, self.vocabulary, endings, self.prompts, leap, sampling, tokens,
                                           int(n), own_seed, index,
                                           self._beginning_tokens(beginnings[index], tokens, leap, endings)))
            groups[-1].check_room()
            question = decode(self.tokenizer, tokens) if is_token_ids(one) else question_of(one)
            outputs.append(self._empty_output(question, own_seed, leap, sampling))
        return self._run(groups, outputs)

    def resume(self, output: LeapOutput, *, leap: LeapConfig | None = None,
               sampling: SamplingConfig | None = None) -> LeapOutput:
        """Goes on with an interrupted run from where it stopped; the tokens are those of a run never interrupted.

        Settings come from the output. If it was run with callables of yours (similarity, router, processors), which a
        file cannot hold, give the configs again.
        """
        leap = leap or _config_from(LeapConfig, output.leap)
        sampling = sampling or _config_from(SamplingConfig, output.sampling)
        prompt, *after = output.paths[0].segments
        beginning = after[0].token_ids if after and after[0].kind == "beginning" else ()
        group = self.group_class(self.engine, self.vocabulary, self._endings(leap), self.prompts, leap, sampling,
                                 prompt.token_ids, len(output.paths), output.seed, beginning=beginning)
        fresh = self._empty_output(output.question, output.seed, leap, sampling)
        for event in self._run([group], [fresh], earlier=output):
            if isinstance(event, OutputEvent):
                return event.output
        raise AssertionError("a run ends with an OutputEvent")

    # -- the run ----------------------------------------------------------------------------------------------------

    def _run(self, groups: list[Group], outputs: list[LeapOutput],
             earlier: LeapOutput | None = None) -> Iterator[StreamEvent]:
        try:
            with eval_mode(self.model):
                yield from self._events(groups, outputs, earlier)
        except KeyboardInterrupt as interrupt:
            self._fill_all(outputs, groups)
            raise GenerationInterrupted(outputs) from interrupt
        except Exception as error:
            self._fill_all(outputs, groups)
            raise GenerationFailed(error, outputs) from error
        finally:
            for group in groups:
                group.close()

    def _events(self, groups: list[Group], outputs: list[LeapOutput], earlier: LeapOutput | None) -> Iterator[StreamEvent]:
        """Steps the engine until every group is done. A group's block holds up its own paths only."""
        for group in groups:
            yield from group.start(*((earlier.paths, earlier.blocks) if earlier else ()))
        pending = dict(enumerate(groups))
        while pending:
            events = self.engine.step()
            self._attribute_time()
            for event in events:
                yield from event.sequence.owner.group.handle(event)
            for index, group in list(pending.items()):
                yield from group.advance()
                if group.done:
                    del pending[index]
                    self._fill(outputs[index], group)
                    group.close()
                    yield OutputEvent(index, outputs[index])

    def _fill_all(self, outputs: list[LeapOutput], groups: list[Group]) -> None:
        for output, group in zip(outputs, groups, strict=True):
            self._fill(output, group)

    def _fill(self, output: LeapOutput, group: Group) -> None:
        if not output.finished:
            output.paths = group.outputs(unfinished="interrupted")
            output.blocks, output.ledger, output.finished = list(group.blocks), group.ledger, group.done

    def _attribute_time(self) -> None:
        """Shares the step's time out over what its tokens were for."""
        chunks = self.engine.last_step
        total = sum(chunk.end - chunk.start for chunk in chunks)
        for chunk in chunks:
            path, count = chunk.sequence.owner, chunk.end - chunk.start
            seconds = chunk.sequence.ledger.seconds
            phase = path.group.phase(path, chunk.start, count)
            seconds[phase] = seconds.get(phase, 0.0) + self.engine.last_step_seconds * count / total

    def _empty_output(self, question: str, seed: int, leap: LeapConfig, sampling: SamplingConfig) -> LeapOutput:
        return LeapOutput(question=question, paths=[], seed=seed, model=str(self.model.config.name_or_path),
                          leap=plain_values(leap), sampling=plain_values(sampling))

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


def _config_from(config: type, values: Mapping[str, Any]) -> Any:
    known = inspect.signature(config).parameters
    return config(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in known})


