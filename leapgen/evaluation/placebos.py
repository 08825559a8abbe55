"""Placebos: paths that read something else than their peers' summaries, so that a gain can be told from mere pausing.

Put one in the protocol's place with ``generator.group_class = OwnSummary``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import ClassVar

from leapgen.protocol.group import Group
from leapgen.protocol.path import Path
from leapgen.record.run import Summary


class ControlGroup(Group):
    """A group in which ``instead`` says what a path reads. Routing, and how much is read, stay as they are."""

    def instead(self, path: Path, peers: Sequence[Summary], rng: random.Random) -> list[Summary]:
        raise NotImplementedError

    def _comment(self, path: Path, peers: list[Summary], closing: list[int]) -> list[int]:
        rng = random.Random(f"{self.seed}/{self.prompt}/{path.index}/{len(self.blocks)}")
        return super()._comment(path, self.instead(path, peers, rng) if peers else peers, closing)


class OwnSummary(ControlGroup):
    """A path gets its own summary back, as often as there would be peers."""

    def instead(self, path: Path, peers: Sequence[Summary], rng: random.Random) -> list[Summary]:
        return [self.blocks[-1].summaries[path.index]] * len(peers)


class Strangers(ControlGroup):
    """A path gets summaries of paths that worked on other problems. Make a subclass that has them.

    ``bank``: summaries by prompt (token ids) and block, as in a real run.
    """

    bank: ClassVar[dict[tuple[int, ...], list[list[str]]]] = {}

    def instead(self, path: Path, peers: Sequence[Summary], rng: random.Random) -> list[Summary]:
        block = self.blocks[-1].index
        others = [blocks[block] for prompt, blocks in self.bank.items()
                  if prompt != tuple(self.prompt) and len(blocks) > block and blocks[block]]
        return [Summary(rng.choice(rng.choice(others)), 0, True) for _ in peers] if others else []


class Scrambled(ControlGroup):
    """A path gets its peers' summaries with every word that ``words`` matches replaced by another of the question's.

    ``words``: a pattern of what carries meaning, such as the rooms of a maze.
    """

    words: ClassVar[re.Pattern[str]] = re.compile(r"\w+")

    def instead(self, path: Path, peers: Sequence[Summary], rng: random.Random) -> list[Summary]:
        question = str(self.vocabulary.tokenizer.decode(self.prompt))
        choices = sorted(set(self.words.findall(question)))
        return [Summary(self.words.sub(lambda _: rng.choice(choices), peer.text), peer.num_tokens, True) for peer in peers]
