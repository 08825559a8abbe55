"""The page pool against a plain Counter."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leapgen.engine.memory.pages import RUN, OutOfPagesError, PagePool


class PoolMachine(RuleBasedStateMachine):
    """``self.holders`` is the whole specification: lists of pages, each entry one hold."""

    @initialize(num_pages=st.integers(1, 12) | st.integers(2 * RUN - 1, 2 * RUN + 2), page_size=st.integers(1, 5))
    def start(self, num_pages, page_size):
        self.pool = PagePool(num_pages, page_size)
        self.holders = []
        self.peak = 0

    @property
    def counts(self):
        return Counter(page for pages in self.holders for page in pages)

    @rule(index=st.none() | st.integers(0, 99), follow=st.booleans())
    def allocate(self, index, follow):
        used = set(self.counts)
        if len(used) == self.pool.num_pages:
            with pytest.raises(OutOfPagesError, match=str(self.pool.num_pages)):
                self.pool.allocate()
            return
        if index is None or not self.holders:
            self.holders.append([])
            index = -1
        holder = self.holders[index % len(self.holders)]
        after = holder[-1] if holder and follow else None
        page = self.pool.allocate(after)
        assert 0 <= page < self.pool.num_pages
        assert page not in used, "a page in use was handed out"
        assert after is None or page == after + 1 or after + 1 in used or after + 1 == self.pool.num_pages
        holder.append(page)
        self.peak = max(self.peak, len(used) + 1)

    @precondition(lambda self: self.holders)
    @rule(index=st.integers(0, 99), length=st.integers(0, 12))
    def share(self, index, length):
        twin = self.holders[index % len(self.holders)][:length]
        self.pool.share(iter(twin))
        self.holders.append(twin)

    @precondition(lambda self: self.holders)
    @rule(index=st.integers(0, 99), keep=st.integers(0, 12))
    def release(self, index, keep):
        pages = self.holders[index % len(self.holders)]
        self.pool.release(iter(pages[keep:]))
        del pages[keep:]

    @invariant()
    def agrees_with_the_counter(self):
        counts = self.counts
        assert self.pool.num_used == len(counts)
        assert self.pool.num_free == self.pool.num_pages - len(counts)
        assert self.pool.peak_used == self.peak
        assert [self.pool.is_shared(page) for page in range(self.pool.num_pages)] == [
            counts[page] > 1 for page in range(self.pool.num_pages)]
        self.pool.check_integrity(self.holders)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=100, stateful_step_count=40)
TestPool.__doc__ = """Would catch: a page handed out twice, freed while held, not freed, or a peak that is missed."""


def test_every_page_can_be_had_and_not_one_more():
    """Would catch: a pool that keeps a page back, or that hands out a number past its tensors."""
    pool = PagePool(3, 16)
    assert sorted(pool.allocate() for _ in range(3)) == [0, 1, 2]
    with pytest.raises(OutOfPagesError, match="all 3 KV pages are in use"):
        pool.allocate()
    pool.release([1])
    assert pool.allocate() == 1


def test_sequences_that_grow_side_by_side_have_their_pages_in_rows():
    """Would catch: pages handed out in turn, which lie apart from each other and are read a third slower."""
    pool = PagePool(8 * RUN, 16)
    growing = [[pool.allocate()] for _ in range(4)]
    for _ in range(2 * RUN - 1):
        for pages in growing:
            pages.append(pool.allocate(after=pages[-1]))
    assert pool.num_free == 0
    for pages in growing:
        for row in (pages[:RUN], pages[RUN:]):
            assert row == list(range(row[0], row[0] + RUN))


def test_peak_stays_when_pages_go_back():
    """Would catch: a peak that follows the current use down, or that counts holders instead of pages."""
    pool = PagePool(8, 4)
    pages = [pool.allocate() for _ in range(5)]
    pool.share(pages)
    pool.release(pages * 2)
    pool.allocate()
    assert pool.peak_used == 5


@pytest.mark.parametrize(("num_tokens", "pages"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_pages_for_rounds_up(num_tokens, pages):
    """Would catch: a page too many at exact multiples, or one too few just past them."""
    assert PagePool(4, 16).pages_for(num_tokens) == pages


def held_pool():
    pool = PagePool(6, 4)
    pages = [pool.allocate() for _ in range(3)]
    pool.share(pages[:2])
    holders = [pages, pages[:2]]
    pool.check_integrity(holders)
    return pool, holders


def test_integrity_catches_a_leak():
    """Would catch: a check that lets a page stay counted when its holder is gone."""
    pool, holders = held_pool()
    with pytest.raises(AssertionError, match="page 2: counted 1 holders, has 0"):
        pool.check_integrity([holders[0][:2], holders[1]])


@pytest.mark.parametrize("damage", [
    lambda pool, holders: pool.share([0]),
    lambda pool, holders: pool.release([0]),
    lambda pool, holders: pool.release([5]),  # a page nobody holds
    lambda pool, holders: holders.append([1]),
    lambda pool, holders: holders.append([4]),
], ids=["shared", "released", "released twice", "held uncounted", "held while free"])
def test_integrity_catches_a_wrong_count(damage):
    """Would catch: a check that only looks at whether pages are free, not at how many hold them."""
    pool, holders = held_pool()
    damage(pool, holders)
    with pytest.raises(AssertionError, match=r"page \d: counted"):
        pool.check_integrity(holders)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda pool: pool._free.popitem(), "leaked"),
    (lambda pool: pool._free.update({0: None}), "leaked"),
    (lambda pool: pool._free_runs.popitem(), "a free run is missed"),
    (lambda pool: pool._used_in_run.reverse(), "a run is miscounted"),
], ids=["missing", "in use", "run missing", "run counted wrong"])
def test_integrity_catches_wrong_free_pages(damage, message):
    """Would catch: a check of the counts alone; a page in use that is thought free is one day two sequences' page."""
    pool = PagePool(RUN + 1, 4)
    holders = [[pool.allocate()]]
    pool.check_integrity(holders)
    damage(pool)
    with pytest.raises(AssertionError, match=message):
        pool.check_integrity(holders)
