"""The page pool against a plain Counter."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leapgen.engine.pages import OutOfPagesError, PagePool


class PoolMachine(RuleBasedStateMachine):
    """``self.holders`` is the whole specification: lists of pages, each entry one hold."""

    @initialize(num_pages=st.integers(1, 12), page_size=st.integers(1, 5))
    def start(self, num_pages, page_size):
        self.pool = PagePool(num_pages, page_size)
        self.holders = []
        self.peak = 0

    @property
    def counts(self):
        return Counter(page for pages in self.holders for page in pages)

    @rule(index=st.none() | st.integers(0, 99))
    def allocate(self, index):
        used = set(self.counts)
        if len(used) == self.pool.num_pages:
            with pytest.raises(OutOfPagesError, match=str(self.pool.num_pages)):
                self.pool.allocate()
            return
        page = self.pool.allocate()
        assert 0 <= page < self.pool.num_pages
        assert page not in used, "a page in use was handed out"
        if index is None or not self.holders:
            self.holders.append([page])
        else:
            self.holders[index % len(self.holders)].append(page)
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
    (lambda free: free.append(free[0]), "twice on the free list"),
    (lambda free: free.pop(), "leaked"),
    (lambda free: free.append(0), "leaked"),
], ids=["twice", "missing", "in use"])
def test_integrity_catches_a_wrong_free_list(damage, message):
    """Would catch: a check of the counts alone; a page twice on the list is one day two sequences' page."""
    pool, holders = held_pool()
    damage(pool._free)
    with pytest.raises(AssertionError, match=message):
        pool.check_integrity(holders)
