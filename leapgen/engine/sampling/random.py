"""Counter-based random streams: a number depends on (seed, path, branch, position) and on nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leapgen.engine.stream import Stream

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Philox-4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Args:
        counter: [4, n] uint64 holding 32-bit words.
        key: [2, n] uint64 holding 32-bit words.

    Returns:
        [4, n] uint64 holding 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return np.stack([c0, c1, c2, c3])


def uniforms(streams: Sequence[Stream], positions: Sequence[int]) -> np.ndarray:
    """One number in [0, 1) for each stream at its position; [n] float64 with 53 random bits."""
    words = np.array(
        [(s.path, s.branch, position, 0, s.seed & 0xFFFFFFFF, (s.seed >> 32) & 0xFFFFFFFF)
         for s, position in zip(streams, positions, strict=True)], dtype=np.uint64).reshape(-1, 6).T
    high, low = philox4x32(words[:4], words[4:])[:2]
    numbers: np.ndarray = ((high >> np.uint64(5)) * 67108864.0 + (low >> np.uint64(6))) / 9007199254740992.0
    return numbers


class UniformBlocks:
    """``uniforms``, computed for a block of positions at a time: a path asks for one position after the other."""

    SIZE = 64
    MOST = 4096  # blocks kept

    def __init__(self) -> None:
        self._blocks: dict[tuple[Stream, int], np.ndarray] = {}

    def __call__(self, streams: Sequence[Stream], positions: Sequence[int]) -> np.ndarray:
        """[n] float64, the same bits as ``uniforms`` gives."""
        keys = [(stream, position // self.SIZE) for stream, position in zip(streams, positions, strict=True)]
        missing = list(dict.fromkeys(key for key in keys if key not in self._blocks))
        if missing:
            if len(self._blocks) > self.MOST:
                self._blocks = {key: self._blocks[key] for key in keys if key in self._blocks}
            everyone = [stream for stream, _ in missing for _ in range(self.SIZE)]
            numbers = uniforms(everyone, [block * self.SIZE + i for _, block in missing for i in range(self.SIZE)])
            self._blocks |= zip(missing, numbers.reshape(-1, self.SIZE), strict=True)
        return np.array([self._blocks[key][position % self.SIZE]
                         for key, position in zip(keys, positions, strict=True)])
