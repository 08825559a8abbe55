"""What tasks with repeats score: every path of a question, and their vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter

from leapgen import answers

KEEP_ALL = "leap_all_paths"


@register_filter(KEEP_ALL)
class AllPaths(Filter):
    """Hands every repeat's text on; the filters of lm-eval hand on the first, or the first k."""

    def apply(self, resps: Any, docs: Any) -> list[Sequence[str]]:
        return list(resps)


def exact(doc: dict[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Pass@1 and Maj@n by spelling, for answers such as AIME's."""
    return scores(doc, results[0], "exact")


def mathematics(doc: dict[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Pass@1 and Maj@n by the grader ``math``, which needs math-verify."""
    return scores(doc, results[0], "math")


def scores(doc: dict[str, Any], texts: Sequence[str], name: str) -> dict[str, float]:
    """``pass@1``: the share of paths that are right; ``maj@n``: whether the answer most of them gave is.

    Args:
        doc: has the right answer in the field ``answer``, in any case.
        texts: of one question's paths.
        name: of the grader.
    """
    grader = answers.grader(name)
    expected = str(next(value for key, value in doc.items() if key.lower() == "answer"))
    given = [answer for answer in map(answers.extract_answer, texts) if answer is not None]
    groups = grader.groups(given)
    vote = given[max(groups, key=len)[0]] if groups else None
    return {"pass@1": sum(grader.same(expected, answer) for answer in given) / len(texts),
            "maj@n": float(vote is not None and grader.same(expected, vote))}
