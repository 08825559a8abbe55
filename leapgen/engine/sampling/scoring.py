"""From logits to log-probabilities of tokens that are there already."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from leapgen.engine.sampling.host import NonFiniteLogitsError, in_order
from leapgen.engine.scores import Scored
from leapgen.engine.sequence import Sequence


def score(logits: Tensor, rows: Rows[tuple[int, Sequence]]) -> list[Scored]:
    """Scores one token a row.

    Args:
        logits: [rows, vocab], any float dtype; computed in float32, or float64 if it is.
        rows: (length, sequence): the row is of the sequence's token ``length - 1`` and scores its token ``length``.

    Raises:
        NonFiniteLogitsError: names the first path and position concerned.
    """
    if not rows:
        return []
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    normalisers = logits.logsumexp(dim=-1)
    if not normalisers.isfinite().all():
        length, sequence = rows[int((~normalisers.isfinite()).nonzero()[0])]
        raise NonFiniteLogitsError(sequence, length)
    vocab = logits.shape[1]  # an embedding may be wider than the head: such a token has no chance
    tokens = torch.tensor([sequence.tokens[length] for length, sequence in rows], dtype=torch.int64, device=logits.device)
    chosen = logits.gather(1, tokens.clamp_max(vocab - 1)[:, None])[:, 0] - normalisers
    logprobs = chosen.masked_fill(tokens >= vocab, -torch.inf).tolist()
    asked = [min(sequence.scores.top if sequence.scores else 0, vocab) for _, sequence in rows]
    if not any(asked):
        return [Scored(logprob) for logprob in logprobs]
    top, ids = in_order(*logits.topk(max(asked), dim=-1))
    tops = zip(ids.tolist(), (top - normalisers[:, None]).tolist(), strict=True)
    return [Scored(logprob, tuple(zip(likely[:most], theirs[:most], strict=True)))
            for logprob, most, (likely, theirs) in zip(logprobs, asked, tops, strict=True)]
