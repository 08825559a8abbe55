"""Who works on which unit: claims on a folder that any number of processes share."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BEAT = 10.0  # seconds between heartbeats at most
BEATS = 4  # heartbeats before a claim would be stale


@dataclass(frozen=True)
class Claim:
    """The right to work on a unit, for as long as its heartbeat goes on."""

    unit: str
    generation: int
    file: Path


class Claims:
    """Claims of one process on the files ``UNIT.GENERATION`` of a folder.

    Making such a file is the claim, and only one process can make it. Its modification time is the heartbeat, which a thread
    of its own keeps, so that long steps do not matter. A claim is stale when its heartbeat is older than ``stale`` seconds,
    or its process is known to be dead; whoever makes the file of the next generation takes the unit over. All times are the
    file system's: clocks of machines may differ.

    A process that was only suspended goes on with a unit that others have taken over. So a finished unit counts once,
    however often it is done (see ``Parts``).

    Args:
        clock: for tests; sets a file's modification time to now, and returns it.
    """

    def __init__(self, folder: Path, stale: float, clock: Callable[[Path], float] | None = None) -> None:
        self.folder, self.stale = folder, stale
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        folder.mkdir(parents=True, exist_ok=True)
        self._touch = clock or touch
        self._clock_file = folder / f".{self.worker}"
        self._clock_file.touch()
        self._held: dict[str, Claim] = {}
        self._holders: dict[Path, str] = {}  # what claims of others say
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Claims:
        self._thread = threading.Thread(target=self._beat, daemon=True, name="leapgen heartbeat")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives every claim back."""
        self._stopped.set()
        for claim in list(self._held.values()):
            self.drop(claim)
        self._clock_file.unlink(missing_ok=True)
        if self._thread is not None:
            self._thread.join()

    @property
    def held(self) -> int:
        """Claims that this process holds."""
        return len(self._held)

    def take(self, unit: str, standing: dict[str, tuple[int, bool]]) -> Claim | None:
        """Claims a unit if nobody works on it; ``standing`` is what ``look`` said. None: somebody does, or was faster."""
        generation, live = standing.get(unit, (-1, False))
        if live:
            return None
        claim = Claim(unit, generation + 1, self.folder / f"{unit}.{generation + 1}")
        try:
            descriptor = os.open(claim.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w") as file:
            json.dump({"worker": self.worker, "machine": machine(), "pid": os.getpid()}, file)
        self._touch(claim.file)
        self._held[unit] = claim
        return claim

    def drop(self, claim: Claim) -> None:
        """Gives a claim back, and clears away those before it: its unit is finished, or free again."""
        self._held.pop(claim.unit, None)
        for generation in range(claim.generation, -1, -1):
            (self.folder / f"{claim.unit}.{generation}").unlink(missing_ok=True)

    def look(self) -> dict[str, tuple[int, bool]]:
        """Of every unit with a claim: the newest generation, and whether it is live."""
        newest: dict[str, tuple[int, os.DirEntry[str]]] = {}
        for entry in os.scandir(self.folder):
            unit, _, generation = entry.name.rpartition(".")
            if unit and generation.isdecimal() and int(generation) > newest.get(unit, (-1,))[0]:
                newest[unit] = int(generation), entry
        now = self._touch(self._clock_file)
        return {unit: (generation, unit in self._held or self._is_live(Path(entry.path), now))
                for unit, (generation, entry) in newest.items()}

    def beat(self) -> None:
        """One heartbeat of all claims held. A claim that is gone was finished by who took it over."""
        for claim in list(self._held.values()):
            with suppress(OSError):
                self._touch(claim.file)

    def _beat(self) -> None:
        while not self._stopped.wait(min(BEAT, self.stale / BEATS)):
            self.beat()

    def _is_live(self, file: Path, now: float) -> bool:
        try:
            if now - file.stat().st_mtime > self.stale:
                return False
            if not self._holders.get(file):  # empty while it is being written
                self._holders[file] = file.read_text()
            holder = json.loads(self._holders[file])
        except FileNotFoundError:
            return False
        except ValueError:
            return True
        return holder["machine"] != machine() or is_alive(holder["pid"])


def touch(file: Path) -> float:
    """Sets a file's modification time to the file system's now, and returns it."""
    os.utime(file)
    return file.stat().st_mtime


def machine() -> str:
    """Within which process numbers are unique: host, and on Linux the namespace that counts them."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    return socket.gethostname()


def is_alive(pid: int) -> bool:
    """Whether a process of this machine exists; True where that cannot be told."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True
