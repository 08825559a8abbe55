"""When blocks are held: after which of a path's intervals."""

from __future__ import annotations

from dataclasses import dataclass

from leapgen.config import LeapConfig


@dataclass(frozen=True)
class Schedule:
    """Intervals of ``interval`` own tokens, counted from 0; ``blocks`` names those that end in a block, None all of them."""

    interval: int
    blocks: tuple[int, ...] | None
    max_blocks: int | None

    @classmethod
    def of(cls, config: LeapConfig) -> Schedule:
        return cls(config.interval, config.blocks, config.max_blocks)

    def next_block(self, held: int) -> int | None:
        """The interval that ends in the next block once ``held`` were held; None if none is to come."""
        if self.max_blocks is not None and held >= self.max_blocks:
            return None
        if self.blocks is None:
            return held
        return self.blocks[held] if held < len(self.blocks) else None

    def is_last(self, block: int) -> bool:
        """Whether no other follows the block with this index."""
        return self.next_block(block + 1) is None

    def stretch(self, held: int, tokens: int) -> int | None:
        """Own tokens up to the next block for a path that has sampled ``tokens`` since the last; None if none is to come."""
        block = self.next_block(held)
        if block is None:
            return None
        first = held if self.blocks is None or held == 0 else self.blocks[held - 1] + 1  # the interval it is in, or begins
        return (block - first + 1) * self.interval - tokens
