"""Speculative decoding without a second model: what a sequence may say next, guessed from what was said before.

Prompt lookup decoding (Saxena 2023; the n-gram speculation of other engines), with relatives' texts beside the sequence's
own. A draft is computed behind the sequence's last token in the same forward pass; every position draws its token as it
always does, and a drawn token that equals the draft makes the next position's draw count, too. Tokens are therefore those
drawn without drafts; only how many come out of a step differs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from leapgen.engine.sequence import Sequence

SIZES = (5, 2, 1)  # tokens a guess goes by, the longest first
SLOTS = 1 << 22  # of the table, four bytes each: 16 MiB, which Linux backs as they are used
FEW = 4  # sequences: rows that a step of less leaves unused cost next to nothing
MARGIN = 1.5  # times what it costs that a token of a draft should bring: costs are estimates, and rise by steps
SURE = 0.75  # chance from which a token is drafted whatever it costs
RARE = 0.1  # chance below which none is, however little it seems to cost: times are estimates, and may say nothing at all
PRIOR = 1.0, 2.0  # guesses of a kind that were right, of how many, before there were any
FORGET = 0.99  # what older guesses of a kind count for, with each newer one
SEEN = 3  # how often the same was said after the same is counted so far


class Guess(NamedTuple):
    token: int
    kind: int  # what it was guessed from: size, whose text, how often seen


class History:
    """Which token came last after the newest few, by sequence and by family.

    A table of fixed size: an entry is found by a hash of the tokens before it, and what has the same slot overwrites it.
    Sequences of one family that have the same path number (a fork that goes on as its original would) count as one.
    """

    KINDS = 2 * len(SIZES) * SEEN

    def __init__(self) -> None:
        self._entries = np.zeros(SLOTS, dtype=np.uint32).data  # 10 bits to tell slots apart, 20 a token, 2 a count

    def enter(self, sequence: Sequence) -> None:
        """Takes in the tokens that came since the last time."""
        entries, tokens = self._entries, sequence.tokens
        salts = self._salts(sequence)
        for position in range(max(sequence.num_entered, SIZES[0]), len(tokens)):
            token = tokens[position] & 0xFFFFF
            for size in SIZES:
                before = hash(tuple(tokens[position - size : position]))
                for salt in salts:
                    key = before ^ salt
                    slot, mark = key % SLOTS, key >> 22 & 0x3FF
                    old = entries[slot]
                    again = old >> 2 == (mark << 20 | token)
                    entries[slot] = mark << 22 | token << 2 | (min((old & 3) + 1, SEEN) if again else 1)
        sequence.num_entered = len(tokens)

    @staticmethod
    def _salts(sequence: Sequence) -> tuple[int, int]:
        """What tells apart the sequence's own words and its family's."""
        return hash((sequence.family, sequence.stream.path)), hash((sequence.family,))

    def guess(self, sequence: Sequence, last: list[int]) -> Guess | None:
        """What comes next after these tokens, the newest last, as far as the table has it."""
        entries, salts, kind = self._entries, self._salts(sequence), 0
        for size in SIZES:
            before = hash(tuple(last[-size:]))
            for salt in salts:
                key = before ^ salt
                entry = entries[key % SLOTS]
                if entry and entry >> 22 == key >> 22 & 0x3FF:
                    return Guess(entry >> 2 & 0xFFFFF, kind + (entry & 3) - 1)
                kind += SEEN
        return None


class StepTimes:
    """How long a decode step takes: least squares over the newest steps, older ones counting less and less.

    What a draft adds is taken to be little until steps say more, and again when long none had drafts.
    """

    FORGET = 0.99
    UNITS = np.array([1, 32, 32768, 32])  # in which the unknowns are of similar size
    LITTLE, WEIGHT = 0.15, 4.0  # of what a token costs that is drawn without a draft; steps' worth of belief in it
    AT_MOST = 1.5  # times what was expected: a longer step met something else, such as memory used for the first time

    def __init__(self) -> None:
        self._normal, self._moment = np.zeros((4, 4)), np.zeros(4)

    def observe(self, sequences: int, positions: int, drafts: int, seconds: float) -> None:
        """A step of so many sequences, that many positions long together, with drafts of so many tokens together."""
        step, token = self.predict(sequences, positions)
        if step:
            seconds = min(seconds, self.AT_MOST * (step + token * drafts))
        x = np.array([1, sequences, positions, drafts]) / self.UNITS
        self._normal = self.FORGET * self._normal + np.outer(x, x)
        self._moment = self.FORGET * self._moment + seconds * x

    def predict(self, sequences: int, positions: int) -> tuple[float, float]:
        """Seconds of a step without drafts, and those that a token of a draft adds; zeros before anything is known."""
        weight = np.trace(self._normal)
        if not weight:
            return 0.0, 0.0
        # The belief: 1 / LITTLE times what a unit of drafts adds is what a step of so many sequences takes.
        x = np.array([1, sequences, positions, 0]) / self.UNITS
        belief = np.array([*(self.LITTLE * self.UNITS[3] / sequences * x[:3]), -1])
        normal = self._normal + self.WEIGHT * np.outer(belief, belief) + 1e-6 * weight * np.eye(4)
        solution = _non_negative(normal, self._moment)
        return float(solution @ x), float(solution[3]) / self.UNITS[3]


def _non_negative(normal: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """The least-squares solution without what would be below 0: nothing makes a step shorter."""
    solution, kept = np.zeros(len(moment)), np.arange(len(moment))
    while len(kept):
        found = np.linalg.solve(normal[np.ix_(kept, kept)], moment[kept])
        if found.min() >= 0:
            solution[kept] = found
            break
        kept = np.delete(kept, found.argmin())
    return solution


class Guessed(NamedTuple):
    """What was guessed for a sequence, drafted or not."""

    length: int  # of the sequence then
    tokens: list[int]
    kinds: list[int]


class Drafter:
    """Guesses as many tokens as pay: those whose chance to be drawn exceeds what computing them costs.

    Chances are learned from the first guess for every token that is drawn, drafted or not: text that does not repeat itself
    costs few drafts, and text that begins to is noticed.

    Args:
        most: tokens of a draft at most; in steps of less than ``FEW`` sequences, ``FEW`` times as many together.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.times = StepTimes()
        self._history = History()
        # By kind, for a draft's first token and for those after it.
        self._drawn, self._tried = (np.full(2 * History.KINDS, count) for count in PRIOR)
        self._guessed: dict[int, Guessed] = {}  # in this step, by sequence
        self._before: dict[int, Guessed] = {}  # in the step before
        self._most = most
        self._least = 0.0

    def begin(self, sequences: int, positions: int) -> None:
        """Before the drafts of a step of so many sequences, that many positions long together."""
        self._before, self._guessed = self._guessed, {}
        self._most = max(self.most, FEW * self.most // sequences)
        step, token = self.times.predict(sequences, positions)
        # A token drawn without a draft costs a share of a step. What is all but sure is drafted at any price: only drafts
        # tell what drafts cost.
        self._least = min(max(MARGIN * token * sequences / step, RARE), SURE) if step else 0.0

    def draft(self, sequence: Sequence, most: int) -> list[int]:
        """Tokens that may follow the sequence's own; at most ``most``, and possibly none."""
        self._learn(sequence)
        self._history.enter(sequence)
        last, guessed, chance, drafted = sequence.tokens[-SIZES[0] :], Guessed(len(sequence), [], []), 1.0, 0
        while drafted < min(most, self._most):
            guess = self._history.guess(sequence, last)
            if guess is None:
                break
            kind = guess.kind + (History.KINDS if drafted else 0)
            guessed.tokens.append(guess.token)
            guessed.kinds.append(kind)
            chance *= self._drawn[kind] / self._tried[kind]
            if chance < self._least:
                break
            last.append(guess.token)
            drafted += 1
        self._guessed[sequence.id] = guessed
        return guessed.tokens[:drafted]

    def _learn(self, sequence: Sequence) -> None:
        """From what was drawn since the step before: the first guess, and each next one where those before it were right."""
        length, tokens, kinds = self._before.get(sequence.id) or Guessed(0, [], [])
        drawn = zip(sequence.tokens[length:], sequence.sampled[length:], strict=True)
        for token, kind, (other, sampled) in zip(tokens, kinds, drawn, strict=False):
            if not sampled:
                break
            self._tried[kind] = FORGET * self._tried[kind] + 1
            self._drawn[kind] = FORGET * self._drawn[kind] + (token == other)
            if token != other:
                break
