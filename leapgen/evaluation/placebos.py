"""Placebos: paths that read something else than their peers' summaries, so that a gain can be told from mere pausing.

Each is a protocol: ``generate(..., protocol=OwnSummary)``. Routing, and how much is read, are LeaP's.
"""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from leapgen.protocol.base import Group
from leapgen.protocol.leap import Leap
from leapgen.protocol.path import Path
from leapgen.protocol.text import decode
from leapgen.record.message import Message


class Placebo(Leap):
    """LeaP in which ``instead`` says what a path reads."""

    def told(self, path: Path, messages: Sequence[Message]) -> Sequence[Message]:
        group = self.group
        rng = random.Random(f"{group.seed}/{list(group.speaker.prompt)}/{path.index}/{len(group.blocks)}")
        return self.instead(path, messages, rng) if messages else messages

    @abstractmethod
    def instead(self, path: Path, messages: Sequence[Message], rng: random.Random) -> list[Message]:
        """As many messages as the path was sent, or as many as there are."""


class OwnSummary(Placebo):
    """A path gets its own summary back, as often as there would be peers."""

    def instead(self, path: Path, messages: Sequence[Message], rng: random.Random) -> list[Message]:
        return [self.group.blocks[-1].summaries[path.index]] * len(messages)


class Strangers(Placebo):
    """A path gets summaries of paths that worked on other problems: ``protocol=functools.partial(Strangers, bank=bank)``.

    Args:
        bank: summaries by prompt (token ids) and block, as in a real run.
    """

    def __init__(self, group: Group, bank: Mapping[tuple[int, ...], Sequence[Sequence[str]]]) -> None:
        super().__init__(group)
        self.bank = bank

    def instead(self, path: Path, messages: Sequence[Message], rng: random.Random) -> list[Message]:
        block = self.group.blocks[-1].index
        others = [blocks[block] for prompt, blocks in self.bank.items()
                  if prompt != self.group.speaker.prompt and len(blocks) > block and blocks[block]]
        return [Message(-1, rng.choice(rng.choice(others)), block) for _ in messages] if others else []


class Scrambled(Placebo):
    """A path gets its peers' summaries with every word that ``words`` matches replaced by another of the question's.

    Args:
        words: a pattern of what carries meaning, such as the rooms of a maze.
    """

    def __init__(self, group: Group, words: re.Pattern[str] = re.compile(r"\w+")) -> None:
        super().__init__(group)
        self.words = words

    def instead(self, path: Path, messages: Sequence[Message], rng: random.Random) -> list[Message]:
        question = decode(self.group.speaker.vocabulary.tokenizer, self.group.speaker.prompt)
        choices = sorted(set(self.words.findall(question)))
        return [Message(m.sender, self.words.sub(lambda _: rng.choice(choices), m.text), m.block) for m in messages]
