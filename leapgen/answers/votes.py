"""Puts answers that are one together, for a vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def grouped(answers: Sequence[str], spelled: Callable[[str], str],
            same: Callable[[str, str], bool] | None = None) -> list[list[int]]:
    """Places of answers that are one, in order of first appearance.

    Equal spellings are one. With ``same``, the first answer of each spelling then joins the first group whose own first
    answer is the same: ``same`` need not be transitive, and the groups still follow from the order of the answers alone.
    """
    spellings: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        spellings.setdefault(spelled(answer), []).append(place)
    if same is None:
        return list(spellings.values())
    groups: list[list[int]] = []
    for places in spellings.values():
        joined = next((group for group in groups if same(answers[group[0]], answers[places[0]])), None)
        if joined is None:
            groups.append(places)
        else:
            joined.extend(places)
    return [sorted(group) for group in groups]
