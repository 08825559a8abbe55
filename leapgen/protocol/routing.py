"""Who hears from whom: similarity of summaries and the choice of peers (arXiv 2505.07787, section 2.2)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rapidfuzz.distance import Indel, Levenshtein
from rapidfuzz.process import cdist

# A router gets the receiver's similarity to each peer (the receiver itself is not among them), how many to choose, and
# a random generator; it returns peers in the order they are read.
Router = Callable[[Mapping[int, float], int, random.Random], Sequence[int]]

SCORERS = {"levenshtein": Levenshtein.normalized_similarity, "indel": Indel.normalized_similarity}


def similarities(summaries: Sequence[str], similarity: str | Callable[[str, str], float]) -> np.ndarray:
    """All pairs, [n, n] float64, 1 where equal.

    ``levenshtein`` is Eq. 4, ``1 - lev(a, b) / max(|a|, |b|)`` on characters; ``indel`` allows no substitutions, which
    is what the published code computes (``Levenshtein.ratio``).
    """
    if callable(similarity):
        return np.array([[1.0 if i == j else float(similarity(a, b)) for j, b in enumerate(summaries)]
                         for i, a in enumerate(summaries)]).reshape(len(summaries), len(summaries))
    return cdist(summaries, summaries, scorer=SCORERS[similarity], dtype=np.float64)


def dispersed(peers: Mapping[int, float], k: int, rng: random.Random) -> list[int]:
    """Eq. 1: the k least similar."""
    return sorted(peers, key=lambda peer: (peers[peer], peer))[:k]


def clustered(peers: Mapping[int, float], k: int, rng: random.Random) -> list[int]:
    """Eq. 2: the k most similar."""
    return sorted(peers, key=lambda peer: (-peers[peer], peer))[:k]


def hybrid(peers: Mapping[int, float], k: int, rng: random.Random) -> list[int]:
    """Eq. 3: the k/2 most similar and the k/2 least similar of the others (the odd one, if any, is dissimilar)."""
    similar = clustered(peers, k // 2, rng)
    others = {peer: value for peer, value in peers.items() if peer not in similar}
    return similar + dispersed(others, k - k // 2, rng)


def uniform(peers: Mapping[int, float], k: int, rng: random.Random) -> list[int]:
    """k peers at random (appendix C.1)."""
    return rng.sample(sorted(peers), min(k, len(peers)))


def everyone(peers: Mapping[int, float], k: int, rng: random.Random) -> list[int]:
    """All peers, whatever k."""
    return sorted(peers)


ROUTERS: dict[str, Router] = {"dispersed": dispersed, "clustered": clustered, "hybrid": hybrid, "random": uniform,
                              "all": everyone}


def route(summaries: Mapping[int, str], receivers: Sequence[int], router: str | Router, k: int,
          similarity: str | Callable[[str, str], float], seed: str) -> dict[int, list[tuple[int, float | None]]]:
    """For each receiver the peers whose summaries it gets, with their similarity to its own.

    Args:
        summaries: text by path index; a path without one sends nothing.
        receivers: paths to choose peers for; one without a summary of its own counts as equally like everybody.
        seed: makes ``random`` routing repeatable.

    Raises:
        ValueError: a router of the user's chose the receiver, an unknown peer or one twice.
    """
    choose = ROUTERS[router] if isinstance(router, str) else router
    senders = sorted(summaries)
    matrix = similarities([summaries[i] for i in senders], similarity)
    row_of = {path: row for row, path in enumerate(senders)}
    routes: dict[int, list[tuple[int, float | None]]] = {}
    for receiver in receivers:
        own = row_of.get(receiver)
        peers = {path: float(matrix[own, row]) if own is not None else 0.0
                 for path, row in row_of.items() if path != receiver}
        chosen = list(choose(peers, k, random.Random(f"{seed}/{receiver}")))
        if len(set(chosen)) != len(chosen) or not set(chosen) <= set(peers):
            raise ValueError(f"the router chose peers {chosen} for path {receiver}; allowed are {sorted(peers)}, each once.")
        routes[receiver] = [(peer, peers[peer] if own is not None else None) for peer in chosen]
    return routes
