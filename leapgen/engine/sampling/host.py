"""From logits to tokens: every row with its own settings and its own random number."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import NamedTuple

import numpy as np
import torch
from leapgen_kernels.cpu import Drawn
from torch import Tensor

from leapgen.config import SamplingConfig
from leapgen.engine.sampling.random import uniforms
from leapgen.engine.sequence import Sequence

# Candidates taken beyond top-k, so that tokens tied with the k-th (common in bfloat16) are kept without a sort.
TIE_SLACK = 32


class Sampled(NamedTuple):
    """Plain Python lists, one entry a row; log-probabilities are None where the row's config does not ask for them."""

    tokens: list[int]
    logprobs: list[float | None]  # under the model: the logits as they came
    sampling_logprobs: list[float | None]  # under the distribution the token was drawn from


class Filters(NamedTuple):
    """Temperature and filters: numbers for all rows, or tensors [rows, 1] for each its own. None is off."""

    temperature: float | Tensor
    top_k: int | Tensor | None
    top_p: float | Tensor | None
    min_p: float | Tensor | None

    @classmethod
    def of(cls, config: SamplingConfig) -> Filters:
        return cls(config.temperature, config.top_k, config.top_p if config.top_p < 1 else None, config.min_p or None)


class NonFiniteLogitsError(FloatingPointError):
    """The model produced NaN or infinite logits for a sequence, or what processes them left no token to draw."""

    def __init__(self, sequence: Sequence, position: int, processed: bool = False) -> None:
        path = sequence.stream.path
        super().__init__(f"non-finite logits for path {path} at position {position}: " + (
            "logits processors, penalties and forbidden stop tokens left no token to draw" if processed else
            "the model's output there is NaN or infinite (half precision overflow, or damaged weights?)"))
        self.sequence, self.path, self.position = sequence, path, position


def sample(logits: Tensor, lengths: Rows[int], sequences: Rows[Sequence]) -> Sampled:
    """Draws one token a row, in plain torch.

    Args:
        logits: [rows, vocab], any float dtype; computed in float32, or float64 if it is.
        lengths: tokens row i's sequence had when its logits were computed: the position of the token drawn.
        sequences: whose settings, tokens and random stream row i uses.

    Raises:
        NonFiniteLogitsError: names the first path and position concerned.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    draws = uniforms([s.stream for s in sequences], lengths)
    return checked(_drawn(logits, rows_by_config(sequences), lengths, sequences, draws), lengths, sequences)


def checked(drawn: Drawn, lengths: Rows[int], sequences: Rows[Sequence]) -> Sampled:
    """What was drawn of rows as ``sample`` has them, by whatever drew it.

    Raises:
        NonFiniteLogitsError: a row had no token to draw.
    """
    finite = drawn.normalisers.isfinite()
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise NonFiniteLogitsError(sequences[row], lengths[row])
    finite = drawn.logprobs.isfinite()
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise NonFiniteLogitsError(sequences[row], lengths[row], processed=True)
    tokens = drawn.tokens.tolist()
    if not any(s.sampling.logprobs for s in sequences):
        return Sampled(tokens, [None] * len(tokens), [None] * len(tokens))
    logprobs, asked = drawn.logits - drawn.normalisers, [s.sampling.logprobs for s in sequences]
    return Sampled(tokens, [p if a else None for p, a in zip(logprobs.tolist(), asked, strict=True)],
                   [p if a else None for p, a in zip(drawn.logprobs.tolist(), asked, strict=True)])


def _drawn(logits: Tensor, groups: list[tuple[SamplingConfig, list[int]]], lengths: Rows[int], sequences: Rows[Sequence],
           draws: np.ndarray) -> Drawn:
    tokens = torch.empty(len(sequences), dtype=torch.int64, device=logits.device)
    logprobs = torch.zeros(len(sequences), dtype=logits.dtype, device=logits.device)
    normalisers = logits.logsumexp(dim=-1)
    for config, rows in groups if normalisers.isfinite().all() else []:
        index = torch.tensor(rows, dtype=torch.int64, device=logits.device)
        uniform = torch.from_numpy(draws[rows]).to(logits.device)
        scores = _processed(logits[index], config, [lengths[r] for r in rows], [sequences[r] for r in rows])
        tokens[index], logprobs[index] = draw(scores, config, uniform)
    chosen = logits.gather(1, tokens.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return Drawn(tokens, normalisers, chosen, logprobs)


def rows_by_config(sequences: Rows[Sequence]) -> list[tuple[SamplingConfig, list[int]]]:
    """Rows with the same settings go together, so that no row's result depends on another's settings."""
    groups: dict[int, tuple[SamplingConfig, list[int]]] = {}
    for row, sequence in enumerate(sequences):
        groups.setdefault(id(sequence.sampling), (sequence.sampling, []))[1].append(row)
    merged: list[tuple[SamplingConfig, list[int]]] = []
    for config, rows in groups.values():  # equal ones, too, but for processors: those may keep something of their sequence
        same = None if config.logits_processors else next((known for other, known in merged if other == config), None)
        if same is None:
            merged.append((config, rows))
        else:
            same += rows
    return merged


def _processed(scores: Tensor, config: SamplingConfig, lengths: list[int], sequences: list[Sequence]) -> Tensor:
    """Minimum length, repetition penalty and the user's processors; scores [rows, vocab] is our own copy."""
    for row, (length, sequence) in enumerate(zip(lengths, sequences, strict=True)):
        if length < sequence.min_length and sequence.stop_tokens:
            scores[row, sorted(t for t in sequence.stop_tokens if t < scores.shape[1])] = -torch.inf
    if config.repetition_penalty == 1.0 and not config.logits_processors:
        return scores
    for row, (length, sequence) in enumerate(zip(lengths, sequences, strict=True)):
        input_ids = torch.tensor([[*sequence.tokens, *sequence.drafts][:length]], dtype=torch.int64, device=scores.device)
        if config.repetition_penalty != 1.0:
            seen = input_ids[0].unique()
            seen = seen[seen < scores.shape[1]]  # an embedding may be wider than the head
            old = scores[row, seen]
            scores[row, seen] = torch.where(old < 0, old * config.repetition_penalty, old / config.repetition_penalty)
        try:
            for processor in config.logits_processors:
                scores[row] = processor(input_ids, scores[row : row + 1])[0]
        except Exception as error:
            vars(error)["sequence"] = sequence  # whose processor it was: other sequences can go on
            raise
    return scores


def draw(scores: Tensor, config: SamplingConfig, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Temperature, top-k, top-p, min-p and the draw by inversion, all rows in one pass.

    Args:
        scores: [rows, vocab], float32 or float64.
        uniform: [rows], float64 in [0, 1).

    Returns:
        Token ids [rows] (int64) and their log-probabilities [rows] under the filtered distribution; NaN where no token
        can be drawn.
    """
    if config.temperature == 0:
        best, tokens = scores.max(dim=-1)
        return tokens, best - best  # log 1, and NaN where there is no best
    return draw_from(*_candidates(scores, config), Filters.of(config), uniform)


def draw_from(candidates: Tensor, ids: Tensor | None, filters: Filters, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The draw among candidates [rows, candidates] with token ids like them, or all in vocabulary order."""
    candidates = candidates / filters.temperature
    if isinstance(filters.top_k, Tensor):
        candidates = candidates.masked_fill(candidates < candidates.gather(1, filters.top_k - 1), -torch.inf)
    elif filters.top_k is not None and filters.top_k < candidates.shape[1]:
        candidates = candidates.masked_fill(candidates < candidates[:, filters.top_k - 1, None], -torch.inf)
    weights = candidates.softmax(dim=-1)  # most likely first, unless nothing is filtered
    if filters.top_p is not None:
        before = weights.cumsum(dim=-1) - weights
        weights = weights.masked_fill(before >= filters.top_p, 0)
    if filters.min_p is not None:
        weights = weights.masked_fill(weights < filters.min_p * weights.amax(dim=-1, keepdim=True), 0)
    cumulative = weights.double().cumsum(dim=-1)
    target = uniform[:, None] * cumulative[:, -1:]
    # The first whose cumulative weight exceeds the target; NaN sorts past the end.
    chosen = torch.searchsorted(cumulative, target, right=True).clamp_max(cumulative.shape[1] - 1)
    kept = weights.gather(1, chosen)
    tokens = chosen if ids is None else ids.gather(1, chosen)
    return tokens[:, 0], (kept / cumulative[:, -1:]).log()[:, 0].to(candidates.dtype)


def _candidates(scores: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor | None]:
    """The scores that may be drawn, [rows, candidates], and their token ids (None: all, in vocabulary order)."""
    vocab = scores.shape[1]
    if config.top_k is not None and config.top_k + TIE_SLACK < vocab:
        candidates, ids = scores.topk(config.top_k + TIE_SLACK, dim=-1)
        tied = candidates[:, -1] >= candidates[:, config.top_k - 1]
        if tied.any():  # rare: more tokens tie with the k-th than the slack holds; take as many as the longest tie has
            kth = candidates[:, config.top_k - 1, None]
            candidates, ids = scores.topk(int((scores >= kth).sum(dim=-1).clamp_min(config.top_k).max()), dim=-1)
        return in_order(candidates, ids)
    if config.top_k is None and config.top_p == 1:
        return scores, None
    return scores.sort(dim=-1, descending=True, stable=True)


def in_order(candidates: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Most likely first, ties by id: topk leaves these in any order, and no row's draw may depend on its neighbours."""
    ids, by_id = ids.sort(dim=-1)
    candidates, by_score = candidates.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
    return candidates, ids.gather(1, by_score)
