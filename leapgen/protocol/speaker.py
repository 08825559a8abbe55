"""What a path speaks through: an engine, and how its tokens become text, are drawn and end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from leapgen.config import PathConfig, SamplingConfig
from leapgen.engine import Engine
from leapgen.protocol.endings import Endings
from leapgen.protocol.prompts import SUMMARY_CLOSE, PromptSet
from leapgen.protocol.text import Vocabulary


@dataclass(frozen=True)
class Speaker:
    """One for the paths of a question that share a model and a prompt."""

    engine: Engine
    vocabulary: Vocabulary
    prompts: PromptSet
    endings: Endings
    config: PathConfig
    sampling: SamplingConfig
    prompt: tuple[int, ...]

    def without_answer(self) -> Speaker:
        """For paths that neither write an answer nor are asked for one."""
        return replace(self, config=replace(self.config, write_answer=False, force_answer=False))

    @cached_property
    def answer_phrase(self) -> list[int]:
        """The tokens that ask a path for its answer: the phrase, the end of thinking and the answer's lead."""
        closing = f"\n{self.endings.think_end}" if self.endings.think_end else ""
        return self.vocabulary.encode([self.prompts.forced_answer + closing + self.prompts.answer_lead], after=self.prompt)

    @property
    def forced_answer(self) -> list[int]:
        """The tokens that ask a path out of budget for its answer; none if none is asked for."""
        return self.answer_phrase if self.config.force_answer else []

    @property
    def reserved_positions(self) -> int:
        """Positions to be kept free for a forced answer."""
        return len(self.forced_answer) + self.config.forced_answer_tokens if self.config.force_answer else 0

    @cached_property
    def closing_size(self) -> int:
        """Tokens of the tag that closes a summary."""
        return len(self.vocabulary.encode([f" {SUMMARY_CLOSE}"], after=[]))

    @cached_property
    def frame_size(self) -> int:
        """Tokens around a summary at most: the longest trigger and lead-in, and the closing tag."""
        longest = [max(len(self.vocabulary.encode([text], after=[])) for text in texts)
                   for texts in (self.prompts.triggers, self.prompts.lead_ins)]
        return sum(longest) + 2 + self.closing_size  # 2: a gap before, and a space between
