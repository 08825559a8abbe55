"""What one sequence keeps on the devices."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from leapgen.engine.memory.pages import PagePool


def no_pages() -> array[int]:
    """Pages are int64 in a row: a step takes them over as they are, in a time that does not depend on how many."""
    return array("q")


class Holding:
    """The KV pages of one sequence; it alone changes them.

    The first ``length`` positions can be attended to. Pages may reach further, where the next step writes. Pages may be
    shared with other holdings; none writes into a page that another holds.

    Args:
        pool: where pages come from and go back to.
        copy_page: copies the contents of one page to another, ``(source, target)``.
    """

    def __init__(self, pool: PagePool, copy_page: Callable[[int, int], None]) -> None:
        self.length = 0
        self.pages = no_pages()
        self.num_copied = 0  # pages copied so far, because others hold them, too
        self._pool, self._copy_page = pool, copy_page

    def fork(self) -> Holding:
        """One that shares every page; nothing is copied until one of the two writes."""
        twin = Holding(self._pool, self._copy_page)
        twin.share(self, self.length)
        return twin

    def share(self, other: Holding, length: int) -> None:
        """In place of its own pages, those that hold another's first ``length`` positions."""
        pages = other.pages[: self._pool.pages_for(length)]
        self._pool.share(pages)
        self._pool.release(self.pages)
        self.pages, self.length = pages, length

    def crop(self, length: int) -> int:
        """Keeps the first ``length`` positions at most; returns how many it has now."""
        self.length = min(self.length, length)
        self.trim()
        return self.length

    def trim(self, ahead: int = 0) -> None:
        """Gives back pages that no position of the first ``length + ahead`` lies in."""
        keep = self._pool.pages_for(self.length + ahead)
        if keep < len(self.pages):
            self._pool.release(self.pages[keep:])
            del self.pages[keep:]

    def reserve(self, start: int, end: int) -> bool:
        """Pages of its own for positions ``start .. end - 1``: new ones, and copies of shared ones.

        Returns:
            False where too few pages are free; then nothing has changed.
        """
        pool, pages, size = self._pool, self.pages, self._pool.page_size
        needed = pool.pages_for(end)
        shared = [i for i in range(start // size, min(needed, len(pages))) if pool.is_shared(pages[i])]
        if len(shared) + max(needed - len(pages), 0) > pool.num_free:
            return False
        for i in shared:
            page = pool.allocate(after=pages[i - 1] if i else None)
            if i * size < start or min((i + 1) * size, self.length) > end:  # it holds positions that stay
                self._copy_page(pages[i], page)
                self.num_copied += 1
            pool.release([pages[i]])
            pages[i] = page
        while len(pages) < needed:
            pages.append(pool.allocate(after=pages[-1] if pages else None))
        return True

    def release(self) -> None:
        """Gives everything back. Releasing twice is allowed."""
        self._pool.release(self.pages)
        self.pages, self.length = no_pages(), 0

    @property
    def num_exclusive(self) -> int:
        """Pages that no other holding has: as many are free once this one is released."""
        return sum(not self._pool.is_shared(page) for page in self.pages)
