"""Who holds which KV page: reference counts and a free list. No tensors here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class OutOfPagesError(RuntimeError):
    """No page is free. The scheduler preempts before it lets this happen."""


class PagePool:
    """Hands out page numbers 0 .. num_pages - 1 and counts their holders."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.peak_used = 0
        self._counts = [0] * num_pages
        self._free = list(range(num_pages - 1, -1, -1))  # low numbers first, so memory is touched as needed

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free)

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def allocate(self) -> int:
        if not self._free:
            raise OutOfPagesError(f"all {self.num_pages} KV pages are in use")
        page = self._free.pop()
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
                self._free.append(page)

    def is_shared(self, page: int) -> bool:
        return self._counts[page] > 1

    def check_integrity(self, holders: Iterable[Iterable[int]]) -> None:
        """Raises AssertionError unless the counts are exactly the holders' and every other page is free."""
        held = Counter(page for pages in holders for page in pages)
        for page, count in enumerate(self._counts):
            assert count == held[page], f"page {page}: counted {count} holders, has {held[page]}"
        assert len(self._free) == len(set(self._free)), "a page is twice on the free list"
        assert set(self._free) == {page for page, count in enumerate(self._counts) if count == 0}, "a page leaked"
