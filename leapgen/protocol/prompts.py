"""Every sentence the protocol puts into a path. Tags and the ``Peer i:`` form are fixed: trained checkpoints know them."""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapgen.answers import all_answers, normalize_answer

SUMMARY_OPEN, SUMMARY_CLOSE = "<summarize>", "</summarize>"
COMMENT_OPEN, COMMENT_CLOSE = "<comment>", "</comment>"
TAGS = (SUMMARY_OPEN, SUMMARY_CLOSE, COMMENT_OPEN, COMMENT_CLOSE)
log = logging.getLogger(__name__)

_TRIGGERS = (
    "Let me pause here and put down where I stand, so that others can check it.",
    "Before I go further, I should state what I have so far.",
    "This is a good moment to gather my findings for the people working beside me.",
    "I will stop for a moment and write up my progress.",
    "Let me collect the main points of my reasoning up to now.",
    "It would help to have my current progress in a few sentences.",
    "Others are working on this too, so let me tell them what I have found.",
)
_LEAD_INS = (
    "<summarize> In short, so far I have",
    "<summarize> My approach up to this point:",
    "<summarize> What I know by now is that",
    "<summarize> To sum up my work so far,",
    "<summarize> The key steps and results I have are:",
    "<summarize> Here is where my reasoning stands:",
)
_NUDGE = ("Let me compare what my peers found with my own work, check whatever differs, and continue from what holds up.")
_NO_COMMENTS = "There are no comments from peers this time."
_PLAIN = "{question}\n\nReason step by step, and put your final answer within \\boxed{}."
# The example ends without a box and in letters: small models take a number that stands there for their own answer.
_EXPLANATION = """Solve the problem below. You are one of several people who solve it side by side, each on their own.

From time to time you will pause and write a short summary of your progress between <summarize> and </summarize>. Then \
you will be shown summaries from some of the others between <comment> and </comment>. They can be right or wrong. \
Check them against your own work: take over what you can verify, say what is wrong with the rest, and go on reasoning.

This is how it looks, for the problem "A box holds r red and b blue pens. Two are taken out together. In how many ways \
can they have different colours?":

... One red pen and one blue pen. Taking a pen first and another second, I count r * b + b * r ways.

Let me pause here and put down where I stand. <summarize> In short, so far I have counted the ordered choices of one red \
and one blue pen and got r * b + b * r. </summarize>

<comment> Peer 1: "The two pens leave the box together, so order does not matter: r * b ways."
Peer 2: "There are r + b pens, and any pair of them can be taken." </comment>

Peer 2 counts every pair, also those of one colour. Peer 1 is right that order does not matter, and I counted each pair \
twice: half of what I had is r * b, which agrees.

Now the problem:

{question}

Reason step by step, and put your final answer within \\boxed{}."""
_START_OVER = " If you come to think that you have made a mistake, start again from scratch."
_OPENING = "I will work through this carefully, sum up my progress when I am asked to, and check what my peers report.\n\n"
_FORCED = "\n\nI have no time left, so I will give the best answer I have."


@dataclass(frozen=True)
class PromptSet:
    """The sentences of one style of LeaP prompting.

    Args:
        triggers: announce a summary; one is drawn for each path and block.
        lead_ins: begin the summary; each opens with ``<summarize>``.
        nudge: follows the comments.
        no_comments: stands in the comment when no peer has anything to say.
        explanation: user prompt that explains the tags; holds ``{question}``.
        plain: chain-of-thought user prompt; holds ``{question}``.
        start_over: follows the user prompt where ``LeapConfig.start_over`` says so.
        opening: prefilled at the start of the assistant's turn (after ``<think>``), with ``explanation`` only.
        forced_answer: what a path out of budget says; thinking is closed and ``answer_lead`` follows.
        answer_lead: begins the forced answer.

    Raises:
        ValueError: a part is missing or of the wrong form.
    """

    triggers: tuple[str, ...] = _TRIGGERS
    lead_ins: tuple[str, ...] = _LEAD_INS
    nudge: str = _NUDGE
    no_comments: str = _NO_COMMENTS
    explanation: str = _EXPLANATION
    plain: str = _PLAIN
    start_over: str = _START_OVER
    opening: str = _OPENING
    forced_answer: str = _FORCED
    answer_lead: str = "\n\n**Final answer:** \\boxed{"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name not in ("triggers", "lead_ins") and not isinstance(getattr(self, field.name), str):
                raise ValueError(f"{field.name} must be a string, not {getattr(self, field.name)!r}.")
        for name in ("triggers", "lead_ins"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not value or not all(isinstance(s, str) and s.strip() for s in value):
                raise ValueError(f"{name} must be a list of non-empty strings, not {value!r}.")
            object.__setattr__(self, name, tuple(s.rstrip() for s in value))
        for lead_in in self.lead_ins:
            if not lead_in.lstrip().startswith(SUMMARY_OPEN):
                raise ValueError(f"lead-in {lead_in!r} must open with {SUMMARY_OPEN}.")
        for name in ("explanation", "plain"):
            if "{question}" not in getattr(self, name):
                raise ValueError(f"{name} must contain {{question}}.")

    def comment(self, peers: int) -> list[str]:
        """The pieces around ``peers`` summaries: one more than there are peers; the summaries go between."""
        if peers == 0:
            return [f"{COMMENT_OPEN} {self.no_comments} {COMMENT_CLOSE}\n\n{self.nudge}"]
        heads = [f'Peer {i}: "' for i in range(1, peers + 1)]
        return [f"{COMMENT_OPEN} {heads[0]}", *(f'"\n{head}' for head in heads[1:]), f'" {COMMENT_CLOSE}\n\n{self.nudge}']

    @classmethod
    def load(cls, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> PromptSet:
        """Reads a set from JSON (this class's field names) or from a published ``prompts.py``.

        A Python file is parsed, never run: only constants assigned at its top level are seen. What they are is told by
        their form: lists whose items open with ``<summarize>`` are lead-ins, lists whose name speaks of triggers or
        summaries are triggers; anything else is named by ``names``, a mapping from field to variable.

        Raises:
            ValueError: nothing usable is found; says what the file holds.
        """
        path = Path(path)
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            fields = _fields_from_python(text, path, names or {})
        else:
            try:
                fields = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{path} is not JSON: {error}") from error
            if not isinstance(fields, dict):
                raise ValueError(f"{path} must hold a JSON object with fields of PromptSet.")
        known = {field.name for field in dataclasses.fields(cls)}
        if set(fields) - known:
            raise ValueError(f"{path}: unknown fields {sorted(set(fields) - known)}; known are {sorted(known)}.")
        return cls(**fields)


def example_answers(prompts: PromptSet) -> frozenset[str]:
    """The answers that stand in a set's explanation besides the question, as ``normalize_answer`` spells them."""
    answers = (normalize_answer(answer) for part in prompts.explanation.split("{question}") for answer in all_answers(part))
    return frozenset(answers) - {""}


def warn_of_example(vote: str | None, prompts: PromptSet) -> None:
    """Warns if a vote among paths that were shown ``prompts.explanation`` is an answer that stands in it."""
    if vote is not None and normalize_answer(vote) in example_answers(prompts):
        log.warning("the majority answered %r, which is an answer in the prompt's own example: the model may have copied "
                    "it. Use a PromptSet whose explanation has no answer in it, or explain=False.", vote)


def _fields_from_python(text: str, path: Path, names: Mapping[str, str]) -> dict[str, Any]:
    constants: dict[str, Any] = {}
    try:
        body = ast.parse(text, filename=str(path)).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is not Python: {error}") from error
    for node in body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if len(targets) == 1 and isinstance(targets[0], ast.Name) and node.value is not None:
            try:
                constants[targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                continue  # computed, not a constant
    missing = sorted(set(names.values()) - set(constants))
    if missing:
        raise ValueError(f"{path} assigns no constants {missing}; it has {sorted(constants)}.")
    fields = {field: constants[variable] for field, variable in names.items()}
    known = {field.name for field in dataclasses.fields(PromptSet)}
    for variable, value in constants.items():
        name = variable.lower()
        if name in known:
            fields.setdefault(name, value)
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
            if all(item.lstrip().startswith(SUMMARY_OPEN) for item in value):
                fields.setdefault("lead_ins", value)
            elif "trigger" in name or "summar" in name:
                fields.setdefault("triggers", value)
    if not fields:
        raise ValueError(f"{path} holds no prompts that can be told by their form; it has {sorted(constants)}. "
                         "Say which is which with names={'triggers': 'VARIABLE', ...}.")
    return fields
