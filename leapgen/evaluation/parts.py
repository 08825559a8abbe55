"""Finished units on a folder: a file for each worker, a line for each unit."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapgen.evaluation.records import Record
from leapgen.evaluation.units import Unit

log = logging.getLogger(__name__)


class Parts:
    """Records of finished units in files ``WORKER.jsonl``, as all workers write them.

    A line counts once it is whole. Of a unit that was done twice the record of the first generation counts, whoever reads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, int] = {}  # bytes of each file
        self._found: dict[Unit, tuple[tuple[int, str], Record]] = {}  # (generation, file) first

    def __contains__(self, unit: Unit) -> bool:
        return unit in self._found

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, unit: Unit) -> Record:
        return self._found[unit][1]

    def refresh(self) -> None:
        """Reads what has been written since."""
        if not self.folder.is_dir():
            return
        for entry in os.scandir(self.folder):
            if entry.name.endswith(".jsonl") and os.stat(entry.path).st_size > self._read.get(entry.name, 0):
                self._read_on(entry.name)

    def _read_on(self, name: str) -> None:
        with (self.folder / name).open("rb") as file:
            file.seek(self._read.get(name, 0))
            whole = file.read().rpartition(b"\n")[0]
        self._read[name] = self._read.get(name, 0) + len(whole) + bool(whole)
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                rank, record = (int(entry["generation"]), name), Record.from_dict(entry["record"])
            except (ValueError, TypeError, KeyError) as error:
                log.warning("%s: a line is no record and does not count: %s", self.folder / name, error)
                continue
            if record.unit not in self._found or rank < self._found[record.unit][0]:
                self._found[record.unit] = rank, record

    def append(self, worker: str, generation: int, record: Record) -> None:
        """Adds a finished unit to the worker's file; it is on disk when this returns.

        Raises:
            OSError: it could not be written. Then the worker must not append again: half a line may stand there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        line: Mapping[str, Any] = {"generation": generation, "record": record.to_dict()}
        with (self.folder / f"{worker}.jsonl").open("ab", buffering=0) as file:
            data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            if file.write(data) != len(data):
                raise OSError(f"{file.name}: a record could not be written as a whole; is the disk full?")
            os.fsync(file.fileno())
