"""Sampling that stays on the device: no value is read back on the way, so that a CUDA graph can hold it.

It draws what ``host.sample`` draws, by the same filters, where a row's settings and logits allow it to look at the
most likely tokens only. It says of each row whether they did; ``sample`` serves the others.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor

from leapgen.engine.sampling.host import TIE_SLACK, Filters, Sampled, draw_from, in_order
from leapgen.engine.sequence import Sequence

CANDIDATES = 128  # tokens looked at in each row
FIRST_ONLY = 1e-9  # a top-p that keeps one token: greedy
PARAMETERS = 5  # of a row: temperature, top-k, top-p, min-p and the random number


def serves(length: int, sequence: Sequence, vocab: int) -> bool:
    """Whether a row, drawn at that length, needs the most likely tokens only."""
    config = sequence.sampling
    return (config.repetition_penalty == 1.0 and not config.logits_processors
            and (length >= sequence.min_length or not sequence.stop_tokens)
            and (config.temperature == 0 or vocab <= CANDIDATES or (config.top_k or vocab) + TIE_SLACK <= CANDIDATES))


def parameters(sequences: Rows[Sequence], uniforms: np.ndarray, vocab: int) -> np.ndarray:
    """[rows, PARAMETERS] float64. Greedy takes the first of the most likely tokens, whatever the random number."""
    most = min(CANDIDATES, vocab)
    rows = np.array([(1.0, 1, FIRST_ONLY, 0.0) if c.temperature == 0 else
                     (c.temperature, min(c.top_k or most, most), c.top_p if c.top_p < 1 else 2.0, c.min_p)
                     for c in (s.sampling for s in sequences)], dtype=np.float64).reshape(-1, PARAMETERS - 1)
    greedy = rows[:, 2] == FIRST_ONLY
    return np.column_stack([rows, np.where(greedy, 0.0, uniforms)])


def draw(logits: Tensor, parameters: Tensor) -> Tensor:
    """Draws one token a row.

    Args:
        logits: [rows, vocab], any float dtype; computed in float32, or float64 if it is.
        parameters: [rows, PARAMETERS] float64, on the same device.

    Returns:
        [rows, 3] float64: token, its log-probability under the model and under the filtered distribution. The second
        or third is not finite where ``sample`` has to serve the row: the logits are not finite, or more tokens tie with
        the k-th than were looked at.
    """
    vocab, compute = logits.shape[1], torch.promote_types(logits.dtype, torch.float32)
    scores, ids = in_order(*logits.topk(min(CANDIDATES, vocab), dim=-1))
    scores = scores.to(compute)
    temperature, top_p, min_p = (parameters[:, i, None].to(compute) for i in (0, 2, 3))
    top_k = parameters[:, 1, None].long()
    tokens, sampling_logprobs = draw_from(scores, ids, Filters(temperature, top_k, top_p, min_p), parameters[:, 4])
    normalisers = logits.to(compute).logsumexp(dim=-1)
    logprobs = logits.gather(1, tokens[:, None])[:, 0].to(compute) - normalisers
    if vocab > CANDIDATES:
        crowded = scores[:, -1] >= scores.gather(1, top_k - 1)[:, 0]
        greedy = (parameters[:, 2] == FIRST_ONLY) & normalisers.isfinite()  # takes the first, however many tie with it
        logprobs = logprobs.masked_fill(crowded & ~greedy, torch.nan)
    return torch.stack([tokens.double(), logprobs.double(), sampling_logprobs.double()], dim=1)


def sampled(drawn: np.ndarray, sequences: Rows[Sequence]) -> Sampled | None:
    """What ``draw`` returned, as ``sample`` would; None where it has to serve a row."""
    if not np.isfinite(drawn).all():
        return None
    asked = [s.sampling.logprobs for s in sequences]
    return Sampled(drawn[:, 0].astype(np.int64).tolist(), *(
        [p if a else None for p, a in zip(column.tolist(), asked, strict=True)] for column in drawn.T[1:]))
