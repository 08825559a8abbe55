"""Who hears from whom: similarity of summaries and the choice of peers (arXiv 2505.07787, section 2.2)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rapidfuzz.distance import Indel, Levenshtein
from rapidfuzz.process import cdist

from leapgen.config import required_arguments
from leapgen.record.message import Message

# (receiver, messages, k, rng) -> senders in the order they are read. The receiver is its own message; the others are in the
# order of their senders, and those of paths that wrote nothing are left out.
Router = Callable[[Message, Sequence[Message], int, random.Random], Sequence[int]]
Similarity = str | Callable[[str, str], float] | Callable[[Sequence[str]], Any]

SCORERS = {"levenshtein": Levenshtein.normalized_similarity, "indel": Indel.normalized_similarity}


def similarities(summaries: Sequence[str], similarity: Similarity) -> np.ndarray:
    """All pairs, [n, n] float64, 1 where equal; row i has what summary i is compared with.

    ``levenshtein`` is Eq. 4, ``1 - lev(a, b) / max(|a|, |b|)`` on characters; ``indel`` allows no substitutions, which
    is what the published code computes (``Levenshtein.ratio``). A callable of two arguments compares a pair, one of one
    argument gets all summaries and returns the whole matrix.

    Raises:
        ValueError: a callable returned another shape than [n, n], something that is no number, or NaN.
    """
    if isinstance(similarity, str):
        return cdist(summaries, summaries, scorer=SCORERS[similarity], dtype=np.float64)
    count = len(summaries)
    if count < 2:  # nobody to compare with
        return np.ones((count, count))
    if required_arguments(similarity) == 1:
        values = similarity(summaries)
    else:
        values = [[1.0 if i == j else similarity(a, b) for j, b in enumerate(summaries)] for i, a in enumerate(summaries)]
    name = getattr(similarity, "__qualname__", type(similarity).__name__)
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"similarity {name} returned something else than numbers: {error}.") from error
    if matrix.shape != (count, count):
        raise ValueError(f"similarity {name} returned shape {list(matrix.shape)}; for {count} summaries it must be "
                         f"[{count}, {count}].")
    if np.isnan(matrix).any():
        row, column = np.argwhere(np.isnan(matrix))[0]
        raise ValueError(f"similarity {name} returned NaN for {summaries[row]!r:.80} and {summaries[column]!r:.80}.")
    return matrix


def dispersed(receiver: Message, messages: Sequence[Message], k: int, rng: random.Random) -> list[int]:
    """Eq. 1: the k least similar."""
    return [m.sender for m in sorted(messages, key=lambda m: (m.similarity or 0.0, m.sender))[:k]]


def clustered(receiver: Message, messages: Sequence[Message], k: int, rng: random.Random) -> list[int]:
    """Eq. 2: the k most similar."""
    return [m.sender for m in sorted(messages, key=lambda m: (-(m.similarity or 0.0), m.sender))[:k]]


def hybrid(receiver: Message, messages: Sequence[Message], k: int, rng: random.Random) -> list[int]:
    """Eq. 3: the k/2 most similar and the k/2 least similar of the others (the odd one, if any, is dissimilar)."""
    similar = clustered(receiver, messages, k // 2, rng)
    others = [m for m in messages if m.sender not in similar]
    return similar + dispersed(receiver, others, k - k // 2, rng)


def uniform(receiver: Message, messages: Sequence[Message], k: int, rng: random.Random) -> list[int]:
    """k peers at random (appendix C.1)."""
    return rng.sample(sorted(m.sender for m in messages), min(k, len(messages)))


def everyone(receiver: Message, messages: Sequence[Message], k: int, rng: random.Random) -> list[int]:
    """All peers, whatever k."""
    return sorted(m.sender for m in messages)


ROUTERS: dict[str, Router] = {"dispersed": dispersed, "clustered": clustered, "hybrid": hybrid, "random": uniform,
                              "all": everyone}


def route(messages: Mapping[int, Message], receivers: Sequence[Message], router: str | Router, k: int,
          similarity: Similarity, seed: str) -> dict[int, list[tuple[int, float | None]]]:
    """For each receiver the peers whose messages it gets, with their similarity to its own.

    Args:
        messages: by sender.
        receivers: the own messages of paths to choose peers for; one that is not among ``messages`` is like nobody.
        seed: makes ``random`` routing repeatable.

    Raises:
        ValueError: a router of the user's chose the receiver, an unknown peer or one twice; see also ``similarities``.
    """
    choose = ROUTERS[router] if isinstance(router, str) else router
    senders = sorted(messages)
    matrix = similarities([messages[i].text for i in senders], similarity)
    row_of = {path: row for row, path in enumerate(senders)}
    routes: dict[int, list[tuple[int, float | None]]] = {}
    for own in receivers:
        receiver, row = own.sender, row_of.get(own.sender)
        peers = {path: replace(messages[path], similarity=float(matrix[row, column]) if row is not None else None)
                 for path, column in row_of.items() if path != receiver}
        chosen = list(choose(own, list(peers.values()), k, random.Random(f"{seed}/{receiver}")))
        if len(set(chosen)) != len(chosen) or not set(chosen) <= set(peers):
            raise ValueError(f"the router chose peers {chosen} for path {receiver}; allowed are {sorted(peers)}, each once.")
        routes[receiver] = [(peers[peer].sender, peers[peer].similarity) for peer in chosen]
    return routes
