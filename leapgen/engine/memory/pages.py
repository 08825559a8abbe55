"""Who holds which KV page: reference counts, and which pages are free. No tensors here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

RUN = 16  # pages in a row that a growing sequence gets if it can: memory is read faster in long stretches


class OutOfPagesError(RuntimeError):
    """No page is free. The scheduler preempts before it lets this happen."""


class PagePool:
    """Hands out page numbers 0 .. num_pages - 1 and counts their holders."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.peak_used = 0
        self._counts = [0] * num_pages
        # Ordered; the last are taken first: low numbers before high ones, so that memory is touched as needed.
        self._free = dict.fromkeys(range(num_pages - 1, -1, -1))
        self._used_in_run = [0] * -(-num_pages // RUN)
        self._free_runs = dict.fromkeys(range(len(self._used_in_run) - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free)

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def allocate(self, after: int | None = None) -> int:
        """A free page: the one after page ``after``, else the first of a run that is all free, else any."""
        if not self._free:
            raise OutOfPagesError(f"all {self.num_pages} KV pages are in use")
        page = -1 if after is None else after + 1
        if page not in self._free and self._free_runs:
            page = self._free_runs.popitem()[0] * RUN
        if page in self._free:
            del self._free[page]
        else:
            page, _ = self._free.popitem()
        self._used_in_run[page // RUN] += 1
        self._free_runs.pop(page // RUN, None)
        self._counts[page] = 1
        self.peak_used = max(self.peak_used, self.num_used)
        return page

    def share(self, pages: Iterable[int]) -> None:
        """One more holder for each page."""
        for page in pages:
            self._counts[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """One holder less for each page; a page without holders is free again."""
        for page in pages:
            self._counts[page] -= 1
            if self._counts[page] == 0:
                self._free[page] = None
                self._used_in_run[page // RUN] -= 1
                if not self._used_in_run[page // RUN]:
                    self._free_runs[page // RUN] = None

    def is_shared(self, page: int) -> bool:
        return self._counts[page] > 1

    def check_integrity(self, holders: Iterable[Iterable[int]]) -> None:
        """Raises AssertionError unless the counts are exactly the holders' and every other page is free."""
        held = Counter(page for pages in holders for page in pages)
        for page, count in enumerate(self._counts):
            assert count == held[page], f"page {page}: counted {count} holders, has {held[page]}"
        assert set(self._free) == {page for page, count in enumerate(self._counts) if count == 0}, "a page leaked"
        used = Counter(page // RUN for page in held)
        assert self._used_in_run == [used[run] for run in range(len(self._used_in_run))], "a run is miscounted"
        assert set(self._free_runs) == set(range(len(self._used_in_run))) - set(used), "a free run is missed"
