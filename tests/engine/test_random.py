"""The random streams: Philox as published, and numbers that depend on seed, path, branch and position alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapgen.engine import Stream
from leapgen.engine.sampling import random as stream
from leapgen.engine.sampling.random import philox4x32, uniforms

WORD = st.integers(0, (1 << 32) - 1)
STREAMS = st.builds(Stream, st.integers(0, (1 << 64) - 1), WORD, WORD)


def words(text):
    return np.array([[int(word, 16)] for word in text.split()], dtype=np.uint64)


@pytest.mark.parametrize(("counter", "key", "expected"), [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
])
def test_philox_gives_the_published_answers(counter, key, expected):
    """Would catch: swapped words, a missing round, a wrong constant. Vectors: Random123's kat_vectors."""
    assert (philox4x32(words(counter), words(key)) == words(expected)).all()


def philox_of_one(counter, key):
    """Section 3.3 of the paper in Python integers, one counter at a time."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second >> 32 ^ c[1] ^ k[0], second % (1 << 32), first >> 32 ^ c[3] ^ k[1], first % (1 << 32)]
        k = [(k[0] + 0x9E3779B9) % (1 << 32), (k[1] + 0xBB67AE85) % (1 << 32)]
    return c


@settings(max_examples=50)
@given(st.lists(st.tuples(*[WORD] * 6), min_size=1, max_size=9))
def test_philox_of_many_counters_is_philox_of_each(rows):
    """Would catch: overflow in the vector form, or columns that leak into each other."""
    many = np.array(rows, dtype=np.uint64).T
    expected = np.array([philox_of_one(row[:4], row[4:]) for row in rows], dtype=np.uint64).T
    assert (philox4x32(many[:4], many[4:]) == expected).all()


@settings(max_examples=50)
@given(st.lists(st.tuples(STREAMS, WORD), min_size=1, max_size=20), st.data())
def test_a_number_does_not_depend_on_the_batch_around_it(pairs, data):
    """Would catch: one generator for all rows, so that a path's tokens change with who else is running."""
    together = uniforms([s for s, _ in pairs], [p for _, p in pairs])
    assert together.dtype == np.float64
    order = data.draw(st.permutations(range(len(pairs))))
    shuffled = uniforms([pairs[i][0] for i in order], [pairs[i][1] for i in order])
    assert (shuffled == together[order]).all()
    for (s, position), number in zip(pairs, together, strict=True):
        assert uniforms([s], [position])[0] == number


def test_every_part_of_the_stream_and_the_position_matter():
    """Would catch: a branch or the upper half of a seed that is dropped, parts that are added up or change places."""
    values = [0, 1, 2, 7, 1 << 16, (1 << 32) - 1]
    seeds = [*values, 1 << 32, 2 << 32, (1 << 64) - 1]
    cases = list(itertools.product(seeds, values, values, values))
    numbers = uniforms([Stream(*case[:3]) for case in cases], [case[3] for case in cases])
    assert len(set(numbers)) == len(cases)


def test_a_default_stream_is_one_particular_stream():
    """Would catch: numbers drawn from a global generator or from the clock."""
    state = np.random.get_state()[1].copy()
    assert uniforms([Stream()], [5])[0] == uniforms([Stream(0, 0, 0)], [5])[0]
    assert (np.random.get_state()[1] == state).all()


AXES = {
    "position": lambda i: (Stream(1, 2, 3), i), "path": lambda i: (Stream(1, i, 3), 9),
    "branch": lambda i: (Stream(1, 2, i), 9), "seed": lambda i: (Stream(i, 2, 3), 9),
    "seed's upper half": lambda i: (Stream(i << 32, 2, 3), 9),
}


@pytest.mark.parametrize("axis", AXES)
def test_numbers_are_uniform_and_uncorrelated_along(axis):
    """Would catch: too few rounds, bits put together in a way that leaves gaps, neighbours that draw alike.

    Kolmogorov-Smirnov at p = 0.001 (1.95 / sqrt(n)), chi-square over 256 cells (mean 255) below 331 (p = 0.001), also
    of the lower bits, correlation of neighbours within 3.3 / sqrt(n). The numbers are fixed: so is the verdict.
    """
    n = 20_000
    streams, positions = zip(*map(AXES[axis], range(n)), strict=True)
    numbers = uniforms(streams, positions)
    steps = np.arange(1, n + 1) / n
    ranked = np.sort(numbers)
    assert max((steps - ranked).max(), (ranked - steps + 1 / n).max()) < 1.95 / n**0.5
    for part in (numbers, numbers * (1 << 20) % 1, numbers * (1 << 40) % 1):
        counts = np.bincount((part * 256).astype(int), minlength=256)
        assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 331
    for lag in (1, 2, 16):
        assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 3.3 / n**0.5


@pytest.mark.parametrize(("word", "expected"), [(0, 0.0), (0xFFFFFFFF, 1 - 2.0**-53)])
def test_the_extreme_words_stay_in_zero_to_one(monkeypatch, word, expected):
    """Would catch: a conversion that rounds up to 1.0, which draws a token past the end."""
    monkeypatch.setattr(stream, "philox4x32", lambda counter, key: np.full(counter.shape, word, dtype=np.uint64))
    assert uniforms([Stream()], [0])[0] == expected < 1


def test_numbers_have_53_bits():
    """Would catch: a 32-bit or float32 number, too coarse for the tail of a large vocabulary."""
    scaled = uniforms([Stream(4, i) for i in range(1000)], [0] * 1000) * 2.0**53
    assert (scaled == np.floor(scaled)).all()
    low = scaled.astype(np.uint64) & np.uint64((1 << 20) - 1)
    assert len(set(low.tolist())) > 990
