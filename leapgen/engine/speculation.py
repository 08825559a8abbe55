"""Speculative decoding without a second model: draft tokens are looked up in what the sequence and its relatives have said.

Prompt lookup decoding (Saxena 2023; the n-gram speculation of other engines), with relatives' texts beside the sequence's
own. Draft tokens are computed behind the sequence's last token in the same forward pass. Every position draws its token as
it always does; the draw after a draft token counts only if that draft token was drawn itself. Tokens are therefore those
sampled without drafts; only the number that a step yields differs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from leapgen.engine.sequence import Sequence

SIZES = (5, 2, 1)  # lengths of the n-grams that are looked up, the longest first
SLOTS = 1 << 22  # of the table, four bytes each: 16 MiB, which Linux backs with memory as slots are used
FEW = 4  # sequences: a step of fewer has rows to spare, so that draft tokens cost it next to nothing
MARGIN = 1.5  # the expected gain of a draft token must be this multiple of its cost, which is an estimate
SURE = 0.75  # from this acceptance probability on a token is drafted at any cost
RARE = 0.1  # below this acceptance probability no token is drafted at any cost: an estimate may be far too low
PRIOR = 1.0, 2.0  # accepted guesses, and all guesses, that each kind of guess begins with
FORGET = 0.99  # weight of all older guesses of a kind, at each newer one
SEEN = 3  # repetitions of a token after the same n-gram are counted up to this number


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
    """How long a decode step takes: a least-squares fit over past steps, in which older ones weigh less and less.

    A weak prior says that a draft token adds little. It decides until steps with drafts have been measured, and again once
    the last of these have lost their weight.
    """

    FORGET = 0.99
    UNITS = np.array([1, 32, 32768, 32])  # in which the unknowns are of similar size
    LITTLE = 0.15  # prior cost of a draft token, as a fraction of the cost of a token that is sampled without one
    WEIGHT = 4.0  # of the prior, in steps
    AT_MOST = 1.5  # a step counts as at most this multiple of its prediction: a longer one met something else

    def __init__(self) -> None:
        self._normal, self._moment = np.zeros((4, 4)), np.zeros(4)

    def observe(self, sequences: int, positions: int, drafts: int, seconds: float) -> None:
        """Takes in a measured step.

        Args:
            sequences: decoded in the step; ``positions``: their lengths' sum; ``drafts``: draft tokens of all of them.
        """
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
        # The prior: a draft token costs LITTLE times the step's time divided by its sequences.
        x = np.array([1, sequences, positions, 0]) / self.UNITS
        belief = np.array([*(self.LITTLE * self.UNITS[3] / sequences * x[:3]), -1])
        normal = self._normal + self.WEIGHT * np.outer(belief, belief) + 1e-6 * weight * np.eye(4)
        solution = _non_negative(normal, self._moment)
        return float(solution @ x), float(solution[3]) / self.UNITS[3]


def _non_negative(normal: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """The least-squares solution; a term that would be negative is left out, as nothing makes a step shorter."""
    solution, kept = np.zeros(len(moment)), np.arange(len(moment))
    while len(kept):
        found = np.linalg.solve(normal[np.ix_(kept, kept)], moment[kept])
        if found.min() >= 0:
            solution[kept] = found
            break
        kept = np.delete(kept, found.argmin())
    return solution


class Guessed(NamedTuple):
    """Guesses for a sequence's next tokens, whether or not they were drafted."""

    length: int  # of the sequence when they were made
    tokens: list[int]
    kinds: list[int]


class Drafter:
    """Drafts the tokens that pay: those whose expected gain exceeds their cost.

    Acceptance probabilities are learned from the first guess for every sampled token, drafted or not. So text that does not
    repeat itself costs few drafts, and text that begins to repeat itself is noticed.

    Args:
        most: draft tokens of a sequence at most; in steps of fewer than ``FEW`` sequences, ``FEW`` times as many in all.
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
        """Before the drafts of a step; ``positions`` is the sum of its sequences' lengths."""
        self._before, self._guessed = self._guessed, {}
        self._most = max(self.most, FEW * self.most // sequences)
        step, token = self.times.predict(sequences, positions)
        # The cost of a token that is sampled without a draft is the step's time divided by its sequences. What is all but
        # sure is drafted at any cost: only steps with drafts tell what drafts cost.
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
        """Counts the guesses of the step before: the first one, and each next one if all before it were right."""
        length, tokens, kinds = self._before.get(sequence.id) or Guessed(0, [], [])
        drawn = zip(sequence.tokens[length:], sequence.sampled[length:], strict=True)
        for token, kind, (other, sampled) in zip(tokens, kinds, drawn, strict=False):
            if not sampled:
                break
            self._tried[kind] = FORGET * self._tried[kind] + 1
            self._drawn[kind] = FORGET * self._drawn[kind] + (token == other)
            if token != other:
                break
