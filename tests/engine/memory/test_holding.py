"""Holdings: any order of verbs leaves each with its own positions, and the pool with exact counts."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from leapgen.engine.memory.holding import Holding
from leapgen.engine.memory.pages import PagePool
from leapgen.engine.sequence import Phases

PAGE, PAGES = 4, 12


class Holdings(RuleBasedStateMachine):
    """Each position a holding has is written with a number nobody else writes; a plain list says what must be read."""

    holdings = Bundle("holdings")

    def __init__(self):
        super().__init__()
        self.pool, self.memory, self.written = PagePool(PAGES, PAGE), {}, 0
        self.expected = {}

    @rule(target=holdings)
    def begin(self):
        return self.enter(Holding(self.pool, self.copy_page), [])

    def copy_page(self, source, target):
        for offset in range(PAGE):
            self.memory[target * PAGE + offset] = self.memory.get(source * PAGE + offset)

    def enter(self, holding, numbers):
        self.expected[holding] = numbers
        return holding

    @rule(holding=holdings, count=st.integers(1, 3 * PAGE))
    def write(self, holding, count):
        start = holding.length
        before, free = list(holding.pages), self.pool.num_free
        if not holding.reserve(start, start + count):
            shared = any(self.pool.is_shared(page) for page in holding.pages[start // PAGE :])
            assert (list(holding.pages), self.pool.num_free) == (before, free), "a reservation that failed changed something"
            assert self.pool.pages_for(start + count) - len(before) + shared > free, "it failed with room to spare"
            return
        for position in range(start, start + count):
            self.written += 1
            self.memory[self.slot(holding, position)] = self.written
            self.expected[holding].append(self.written)
        holding.length = start + count

    @staticmethod
    def slot(holding, position):
        return holding.pages[position // PAGE] * PAGE + position % PAGE

    @rule(target=holdings, holding=holdings)
    def fork(self, holding):
        if len(self.expected) > 6:
            return multiple()
        return self.enter(holding.fork(), self.expected[holding][:])

    @rule(holding=holdings, other=holdings, data=st.data())
    def share(self, holding, other, data):
        length = data.draw(st.integers(0, other.length))
        numbers = self.expected[other][:length]
        holding.share(other, length)
        self.expected[holding] = numbers

    @rule(holding=holdings, data=st.data())
    def crop(self, holding, data):
        length = data.draw(st.integers(0, holding.length + 2))
        assert holding.crop(length) == holding.length == min(length, len(self.expected[holding]))
        del self.expected[holding][length:]

    @rule(holding=holdings, ahead=st.integers(0, PAGE))
    def reserve_and_trim(self, holding, ahead):
        if holding.reserve(holding.length, holding.length + 2 * PAGE):
            holding.trim(ahead)
            assert len(holding.pages) == self.pool.pages_for(holding.length + ahead)

    @rule(holding=consumes(holdings))
    def release(self, holding):
        exclusive, free = holding.num_exclusive, self.pool.num_free
        holding.release()
        holding.release()
        assert self.pool.num_free == free + exclusive
        del self.expected[holding]

    @invariant()
    def everybody_reads_what_it_wrote(self):
        for holding, numbers in self.expected.items():
            assert [self.memory[self.slot(holding, position)] for position in range(holding.length)] == numbers
        self.pool.check_integrity(holding.pages for holding in self.expected)


TestHoldings = Holdings.TestCase
TestHoldings.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_phases_say_of_every_position_what_was_stated_last():
    """Would catch: seconds of a comment counted as reasoning; labels that outlive a crop."""
    phases, expected = Phases([0], ["prompt"]), ["prompt"] * 5
    for name, count in (("reason", 3), ("summarize", 0), ("summarize", 2), ("summarize", 1), ("comment", 4), ("reason", 2)):
        phases.set(len(expected), name)
        expected += [name] * count
    twin = phases.copy()
    for length in (len(expected), 13, 11, 9, 8, 4):
        twin.crop(length)
        for start in range(length):
            for end in range(start, length + 1):
                counted = [name for name, count in list(twin.counts(start, end))[::-1] for _ in range(count)]
                assert counted == expected[start:end]
    assert [name for name, count in list(phases.counts(0, 17))[::-1] for _ in range(count)] == expected
