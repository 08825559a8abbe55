"""Validated settings. Every error says what was given, what is allowed and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from leapgen.options import config_from, named_options, plain_values, split_options, unknown_options
from leapgen.validation import is_int, is_number, make_tuple, require, required_arguments, settle, takes

__all__ = ["ROUTERS", "SIMILARITIES", "EngineConfig", "LeapConfig", "PathConfig", "SamplingConfig", "config_from",
           "plain_values", "required_arguments", "split_options", "unknown_options"]

ROUTERS = ("dispersed", "clustered", "hybrid", "random", "all")
SIMILARITIES = ("levenshtein", "indel")


@named_options
@dataclass(frozen=True)
class SamplingConfig:
    """How one token is drawn from a row of logits.

    Filters run in the order transformers runs them: repetition penalty, ``logits_processors``,
    temperature, top-k, top-p, min-p.

    Args:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: keep the k most likely tokens (ties with the k-th stay); ``None`` keeps all.
        top_p: keep the smallest set of most likely tokens whose probability reaches it, in (0, 1].
        min_p: drop tokens less likely than ``min_p`` times the most likely one, in [0, 1].
        repetition_penalty: > 1 makes tokens already in the sequence less likely (CTRL, arXiv 1909.05858).
        logits_processors: transformers ``LogitsProcessor`` objects, called for one sequence at a time with
            ``input_ids [1, length]`` and ``scores [1, vocab]`` (float32, or float64 for a float64 model).
        logprobs: whether log-probabilities of sampled tokens are computed.

    Defaults are the paper's (arXiv 2505.07787, section 3.1).

    Raises:
        ValueError: a value outside its range.
    """

    temperature: float = 0.6
    top_k: int | None = 40
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logits_processors: tuple[Callable[..., Any], ...] = ()
    logprobs: bool = True

    def __post_init__(self) -> None:
        settle(self)
        require(is_number(self.temperature) and (self.temperature == 0 or self.temperature >= 1e-4), "temperature",
                self.temperature, "0 (greedy) or a finite number >= 1e-4")
        require(self.top_k is None or is_int(self.top_k, 1), "top_k", self.top_k,
                "an integer >= 1, or None to keep every token")
        require(is_number(self.top_p) and 0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        require(is_number(self.min_p) and 0 <= self.min_p <= 1, "min_p", self.min_p, "in [0, 1]")
        require(is_number(self.repetition_penalty) and self.repetition_penalty > 0, "repetition_penalty",
                self.repetition_penalty, "a finite number > 0 (1 is off)")
        make_tuple(self, "logits_processors", "callables (input_ids, scores) -> scores", callable)

    @classmethod
    def greedy(cls, **changes: Any) -> SamplingConfig:
        """Always the most likely token."""
        return cls(**{"temperature": 0.0, "top_k": None, "top_p": 1.0, **changes})

    @classmethod
    def from_generation_config(cls, generation_config: Any) -> SamplingConfig:
        """The values that a model's ``generation_config`` states, and the paper's for the others.

        ``do_sample=False`` is ignored: transformers sets it by default, and n greedy paths would all be the same.
        """
        stated = {}
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
            value = getattr(generation_config, name, None)
            if value is not None:
                stated[name] = value
        if stated.get("top_k") == 0:  # transformers' way to say "no top-k"
            stated["top_k"] = None
        return cls(**stated)

    def replace(self, **changes: Any) -> SamplingConfig:
        return dataclasses.replace(self, **changes)


@named_options
@dataclass(frozen=True)
class EngineConfig:
    """An engine's memory and batch limits, and how its steps are computed.

    Args:
        page_size: tokens in a KV page.
        kv_cache_bytes: limit of the KV pool in bytes over all layers; overrides ``kv_cache_fraction``.
        kv_cache_fraction: limit as a fraction of the device memory that is free at construction, in (0, 1].
        max_step_tokens: most tokens of one forward pass; a longer prefill takes several steps. Where the CPU kernels run
            the decoder layers as programs, results have the same bits whatever the limit. Elsewhere the limit may change
            torch's rounding, which can depend on the number of rows (in a mixture of experts, that of routers and
            experts): once in a while another token is sampled, more often in half precision.
        max_batch_size: most sequences in one forward pass.
        context_length: positions a sequence may have; ``None`` takes the model's own.
        kernels: use compiled kernels where they serve device and dtype; False computes everything with plain torch.
        compile: compile the decoder layers at construction: on CPU to programs of the kernels (one or two seconds), on
            CUDA with inductor (torch caches the result for the next start). ``None`` compiles models from a million
            parameters on CPU and from 50 million on CUDA. Needs ``kernels``. If compiling fails, the log says so and
            steps run uncompiled.
        graphs: on a CUDA device, capture decode steps as CUDA graphs at construction, for several batch sizes; the log
            says how long that took. Steps that cannot be captured run without a graph. Needs ``kernels``; ``compile``
            decides whether captured layers are compiled.
        draft_tokens: most draft tokens of a decoding sequence, taken from what it and its relatives said before (prompt
            lookup decoding); sampled tokens are the same with and without them. Measured step times decide how many are
            computed; steps of one to three sequences may compute up to four times as many together. 0 computes none;
            ``None`` is 4 where the CPU kernels serve the model, else 0.

    Raises:
        ValueError: a value outside its range.
    """

    page_size: int = 16
    kv_cache_bytes: int | None = None
    kv_cache_fraction: float = 0.5
    max_step_tokens: int = 2048
    max_batch_size: int = 256
    context_length: int | None = None
    kernels: bool = True
    compile: bool | None = None
    graphs: bool = True
    draft_tokens: int | None = None

    def __post_init__(self) -> None:
        settle(self)
        require(is_int(self.page_size, 1), "page_size", self.page_size, "an integer >= 1")
        require(self.kv_cache_bytes is None or is_int(self.kv_cache_bytes, 1), "kv_cache_bytes",
                self.kv_cache_bytes, "an integer >= 1, or None to use kv_cache_fraction")
        require(is_number(self.kv_cache_fraction) and 0 < self.kv_cache_fraction <= 1, "kv_cache_fraction",
                self.kv_cache_fraction, "in (0, 1]")
        require(is_int(self.max_step_tokens, 1), "max_step_tokens", self.max_step_tokens, "an integer >= 1")
        require(is_int(self.max_batch_size, 1), "max_batch_size", self.max_batch_size, "an integer >= 1")
        require(self.context_length is None or is_int(self.context_length, 2), "context_length",
                self.context_length, "an integer >= 2, or None for the model's own")
        require(self.compile in (None, True, False), "compile", self.compile, "True, False, or None to go by size")
        require(self.draft_tokens is None or is_int(self.draft_tokens, 0), "draft_tokens", self.draft_tokens,
                "an integer >= 0, or None to go by device")

    def replace(self, **changes: Any) -> EngineConfig:
        return dataclasses.replace(self, **changes)


@named_options
@dataclass(frozen=True)
class PathConfig:
    """What a path heeds by itself, whatever the protocol: its budget, its messages, its answer, what ends it.

    Args:
        interval: own tokens that a path reasons before it waits for the others (the paper's T).
        max_new_tokens: most own tokens of a path's reasoning; summaries and comments do not count.
        min_new_tokens: own tokens before a stop token may be sampled.
        summary_tokens: most tokens of a summary.
        force_answer: ask a path that is out of budget for its answer, by a phrase injected into it.
        forced_answer_tokens: most tokens after the phrase that asks for an answer.
        write_answer: let a path that closed its thinking write its answer.
        written_answer_tokens: most tokens of an answer that a path writes after closing its thinking.
        stop_token_ids: token ids that end a path, besides the model's own end tokens.
        stop_strings: strings that end a path when its own text contains them.
        ignore_eos: go on after end tokens (for benchmarks).
        think_start, think_end: thinking markers; ``None`` finds them in tokenizer and template, "" is none.

    Raises:
        ValueError: a value outside its range.
    """

    interval: int = 4096
    max_new_tokens: int = 16384
    min_new_tokens: int = 0
    summary_tokens: int = 256
    force_answer: bool = True
    forced_answer_tokens: int = 256
    write_answer: bool = True
    written_answer_tokens: int = 1024
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    ignore_eos: bool = False
    think_start: str | None = None
    think_end: str | None = None

    def __post_init__(self) -> None:
        settle(self)
        for name in ("interval", "max_new_tokens", "summary_tokens", "forced_answer_tokens", "written_answer_tokens"):
            require(is_int(getattr(self, name), 1), name, getattr(self, name), "an integer >= 1")
        require(is_int(self.min_new_tokens, 0), "min_new_tokens", self.min_new_tokens, "an integer >= 0")
        require(self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", self.min_new_tokens,
                f"at most max_new_tokens={self.max_new_tokens}")
        make_tuple(self, "stop_token_ids", "integers >= 0", lambda token: is_int(token, 0), single=True)
        make_tuple(self, "stop_strings", "non-empty strings", lambda text: isinstance(text, str) and text != "",
                   single=True)
        for name in ("think_start", "think_end"):
            require(getattr(self, name) is None or isinstance(getattr(self, name), str), name, getattr(self, name),
                    "a string (empty for none), or None to find it in the tokenizer")


@named_options
@dataclass(frozen=True)
class LeapConfig(PathConfig):
    """LeaP's settings: those of a path, and how paths meet. Defaults are the paper's (arXiv 2505.07787).

    Args:
        max_blocks: most blocks; ``None`` holds as many as fit in the budget, 0 makes paths independent.
        blocks: numbers (from 0) of the intervals that end in a block; ``None`` for all.
        paths_after: how many paths, the first ones, go on after the last block that ``blocks`` or ``max_blocks`` allows;
            ``None`` for all. The others stop at that block and have no vote: they are there for their summaries.
        top_k_peers: most summaries that a path receives at a block.
        router: ``dispersed`` (Eq. 1), ``clustered`` (Eq. 2), ``hybrid`` (Eq. 3), ``random`` or ``all``, or a
            callable ``(receiver, messages, k, random generator) -> senders`` in the order they are read; receiver and
            messages are ``leapgen.record.message.Message``.
        similarity: ``levenshtein`` (Eq. 4), ``indel`` (what the published code computes), or a callable where 1 means
            equal: ``(str, str) -> float`` compares a pair, ``(list of n str) -> [n, n]`` all at once (embeddings, for
            example). The number of arguments that it needs tells which of the two it is.
        keep_summary: a path keeps its own summary (published behaviour); otherwise only peers see it.
        finished_share: paths that ended their thinking go on sharing; the published code drops them.
        self_summarize: the model opens ``<summarize>`` itself (LeaP-T models), and waits there.
        keep_opening: what it opened so stays, and its summary goes on from there; the published code cuts the paragraph away
            and puts trigger and lead-in in its place, as at the end of an interval.
        explain: put the question into the prompt that explains the tags, and prefill the assistant's opening;
            off for LeaP-T models and independent paths, which get the plain chain-of-thought prompt.
        start_over: ask in the prompt to start from scratch where the model thinks that it has made a mistake.
        sampling_defaults: fields of ``SamplingConfig`` for runs that are given neither a ``SamplingConfig`` nor an option of
            that name; a mapping, kept as pairs.

    Raises:
        ValueError: a value outside its range.
    """

    max_blocks: int | None = None
    blocks: tuple[int, ...] | None = None
    paths_after: int | None = None
    top_k_peers: int = 4
    router: str | Callable[..., Sequence[int]] = "dispersed"
    similarity: str | Callable[..., Any] = "levenshtein"
    keep_summary: bool = True
    finished_share: bool = False
    self_summarize: bool = False
    keep_opening: bool = True
    explain: bool = True
    start_over: bool = False
    sampling_defaults: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_int(self.top_k_peers, 1), "top_k_peers", self.top_k_peers, "an integer >= 1")
        require(self.max_blocks is None or is_int(self.max_blocks, 0), "max_blocks", self.max_blocks,
                "an integer >= 0, or None for no limit")
        if self.blocks is not None:
            make_tuple(self, "blocks", "integers >= 0, or None for every interval", lambda block: is_int(block, 0))
            object.__setattr__(self, "blocks", tuple(sorted(set(self.blocks))))
        require(self.paths_after is None or is_int(self.paths_after, 1), "paths_after", self.paths_after,
                "an integer >= 1, or None for all paths")
        require(self.paths_after is None or bool(self.max_blocks if self.blocks is None else self.blocks), "paths_after",
                self.paths_after, "None without blocks or max_blocks: they say which block is the last")
        require(takes(self.router, 4) if callable(self.router)
                else isinstance(self.router, str) and self.router in ROUTERS, "router", self.router,
                f"one of {', '.join(ROUTERS)}, or a callable (receiver, messages, k, rng) -> senders")
        require(required_arguments(self.similarity) in (1, 2) if callable(self.similarity)
                else isinstance(self.similarity, str) and self.similarity in SIMILARITIES, "similarity", self.similarity,
                f"one of {', '.join(SIMILARITIES)}, or a callable that must be given two arguments (str, str) -> float, or "
                "one (list of n str) -> [n, n]")
        try:
            defaults = dict(self.sampling_defaults)
            SamplingConfig(**defaults)
        except (TypeError, ValueError) as error:
            require(False, "sampling_defaults", self.sampling_defaults, f"fields of SamplingConfig by name ({error})")
        object.__setattr__(self, "sampling_defaults", tuple(sorted(defaults.items())))

    @classmethod
    def paper(cls, **changes: Any) -> LeapConfig:
        """As the paper describes it: top-4 dispersed, Eq. 4, T = 4096, 16,384 tokens (7B, 14B models)."""
        return cls(**changes)

    @classmethod
    def official(cls, **changes: Any) -> LeapConfig:
        """As the published code, which departs from the paper: Indel similarity, and ``min_p=0.05`` by default."""
        return cls(**{"similarity": "indel", "sampling_defaults": {"min_p": 0.05}, **changes})

    @classmethod
    def single(cls, at: int = 4096, paths: int | None = None, **changes: Any) -> LeapConfig:
        """LeaP in Single Communication (LeaP-S, section 5.1.4): one block after ``at`` own tokens.

        After it, the first ``paths`` paths go on: 1 in the published code and in Tables 3 and 4, ``None`` for all.
        A question's paths are one group: n is what the published code calls ``num_mix``.
        """
        return cls(**{"interval": at, "blocks": (0,), "paths_after": paths, **changes})

    @classmethod
    def leap_t(cls, **changes: Any) -> LeapConfig:
        """For LeaP-T models (section 4): they open ``<summarize>`` themselves and get the plain prompt."""
        return cls(**{"self_summarize": True, "explain": False, **changes})

    @classmethod
    def official_leap_t(cls, **changes: Any) -> LeapConfig:
        """LeaP-T models as the published code runs them: ``official``, and what they open themselves is cut away."""
        return cls.leap_t(**{"keep_opening": False, "similarity": "indel", "sampling_defaults": {"min_p": 0.05}, **changes})

    @classmethod
    def retry(cls, **changes: Any) -> LeapConfig:
        """Independent paths that are asked to start from scratch if they have erred: a baseline of the published code."""
        return cls.independent(**{"start_over": True, **changes})

    @classmethod
    def independent(cls, **changes: Any) -> LeapConfig:
        """Plain parallel sampling: no blocks, plain prompt. The paper's baseline."""
        return cls(**{"max_blocks": 0, "explain": False, **changes})

    @property
    def communicates(self) -> bool:
        """Whether the budget reaches a block."""
        first = 0 if self.blocks is None else min(self.blocks, default=None)
        return self.max_blocks != 0 and first is not None and (first + 1) * self.interval < self.max_new_tokens

    def replace(self, **changes: Any) -> LeapConfig:
        return dataclasses.replace(self, **changes)
