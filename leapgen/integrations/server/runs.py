"""The newest runs, by their ids, for whoever wants to look at one."""

from __future__ import annotations

import gzip
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from leapgen.record.run import LeapOutput

MOST_BYTES = 256 << 20  # of all of them, compressed


class Runs:
    """Keeps runs compressed: those asked for or added last, ``most`` of them and 256 MiB at most. For any thread."""

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._packed: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._packed)

    def __contains__(self, run: str) -> bool:
        return run in self._packed

    def add(self, run: str, output: LeapOutput) -> None:
        """Keeps a run as it stands; one of that id is replaced."""
        packed = gzip.compress(json.dumps(output.to_dict()).encode(), compresslevel=1)
        with self._lock:
            self._drop(run)
            self._packed[run] = packed
            self._size += len(packed)
            while self._packed and (len(self._packed) > self._most or self._size > MOST_BYTES):
                self._drop(next(iter(self._packed)))

    def get(self, run: str) -> Mapping[str, Any] | None:
        """The run as ``LeapOutput.to_dict`` gives it; None if it is not kept (any more)."""
        with self._lock:
            packed = self._packed.get(run)
            if packed is None:
                return None
            self._packed.move_to_end(run)
        found: Mapping[str, Any] = json.loads(gzip.decompress(packed))
        return found

    def _drop(self, run: str) -> None:
        self._size -= len(self._packed.pop(run, b""))
