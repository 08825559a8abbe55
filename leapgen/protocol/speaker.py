"""What paths speak through: an engine, and how its tokens become text, are drawn and end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from leapgen.config import PathConfig, SamplingConfig, config_from, plain_values
from leapgen.engine import Engine
from leapgen.protocol.endings import Endings
from leapgen.protocol.prompts import SUMMARY_CLOSE, PromptSet
from leapgen.protocol.text import Vocabulary
from leapgen.validation import is_int, require


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


@dataclass(frozen=True)
class SpeakerConfig:
    """Some of a question's paths, where they do not all speak alike: ``generate(..., speakers=[SpeakerConfig(...), ...])``.

    Args:
        paths: how many; ``None`` for an equal share of those that other speakers leave.
        prompts: their sentences, the prompt's explanation among them; ``None`` for the generator's.
        sampling: how their tokens are drawn; ``None`` for the run's.

    Raises:
        ValueError, TypeError: a value that is not allowed.
    """

    paths: int | None = None
    prompts: PromptSet | None = None
    sampling: SamplingConfig | None = None

    def __post_init__(self) -> None:
        require(self.paths is None or is_int(self.paths, 1), "paths", self.paths, "an integer >= 1, or None for a share")
        for name, kind in (("prompts", PromptSet), ("sampling", SamplingConfig)):
            if not isinstance(getattr(self, name), (kind, type(None))):
                raise TypeError(f"{name} must be None or a {kind.__name__}, not {getattr(self, name)!r:.80}.")

    def note(self) -> dict[str, Any]:
        """As JSON values."""
        return {"paths": self.paths, "prompts": self.prompts and plain_values(self.prompts),
                "sampling": self.sampling and plain_values(self.sampling)}

    @classmethod
    def noted(cls, notes: Sequence[Mapping[str, Any]]) -> list[SpeakerConfig]:
        """Those that ``note`` gave; one for all paths where nothing is noted.

        Raises:
            ValueError: one had a callable of the user's.
        """
        return [cls(note["paths"], PromptSet(**note["prompts"]) if note["prompts"] else None,
                    config_from(SamplingConfig, note["sampling"], "speakers") if note["sampling"] else None)
                for note in notes] or [cls()]


def shared_out(speakers: Sequence[SpeakerConfig] | None, n: int) -> list[SpeakerConfig]:
    """The speakers with their numbers of paths: the first ones speak for the first paths.

    Raises:
        ValueError: they do not come to ``n`` paths. TypeError: it is no list of speakers.
    """
    if speakers is None:
        return [SpeakerConfig(n)]
    if not isinstance(speakers, (list, tuple)) or not all(isinstance(one, SpeakerConfig) for one in speakers):
        raise TypeError(f"speakers must be None or a list of SpeakerConfig, not {speakers!r:.80}.")
    left, sharing = n - sum(one.paths or 0 for one in speakers), sum(one.paths is None for one in speakers)
    if not speakers or left < sharing or (left and not sharing):
        raise ValueError(f"speakers with {[one.paths for one in speakers]} paths do not make n={n}: their numbers must add "
                         "up to n, and None take at least one path each of those that are left.")
    shares = iter(left // sharing + (i < left % sharing) for i in range(sharing))
    return [one if one.paths else replace(one, paths=next(shares)) for one in speakers]
