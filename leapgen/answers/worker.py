"""The process that compares values, from the side of those who ask: it starts when first asked and ends with its parent."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedTooLong
from typing import IO

Pair = tuple[str, str, int]  # two values and how many decimals count: see ``verification.alike``
WAIT = 60.0  # seconds; the process starts within them and limits its work itself
log = logging.getLogger(__name__)


class Worker:
    """Asks a process of its own. A worker that was inherited by a fork starts another."""

    def __init__(self) -> None:
        self._home = 0  # the process that the connection belongs to
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def verdicts(self, pairs: Sequence[Pair]) -> list[bool] | None:
        """Whether the values of each pair are equal; None if the process could not be asked, which the log says."""
        for _ in range(2):  # somebody may have killed it
            connection = self._connected()
            try:
                return connection.ask(pairs).result(WAIT)
            except (WaitedTooLong, OSError):
                connection.close()
        log.error("the process that compares answers by math-verify does not answer: %s", connection.command)
        return None

    def _connected(self) -> _Connection:
        if self._home != os.getpid():  # forked: the lock may be held by a thread that is not here
            if self._connection is not None:
                self._connection.close()
            self._lock, self._connection, self._home = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = _Connection()
            return self._connection


class _Connection:
    """One process, and who waits for which answer of it."""

    def __init__(self) -> None:
        # Not -m, and not from the working directory: the process finds what this one finds.
        code = (f"import sys; sys.path[:] = {sys.path!r}; "
                f"from leapgen.answers.verification import serve; serve({os.getpid()})")
        self.command = [sys.executable, "-c", code]
        self._process = subprocess.Popen(
            self.command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"})
        assert self._process.stdin and self._process.stdout
        self._input, self._writing = self._process.stdin, threading.Lock()
        self._waiting = _Waiting()
        receiver = threading.Thread(target=self._waiting.receive, args=(self._process.stdout,), daemon=True,
                                    name="math-verify")
        receiver.start()
        self.close = weakref.finalize(self, _end, self._process, receiver, os.getpid())

    @property
    def closed(self) -> bool:
        return not self.close.alive or self._process.poll() is not None

    def ask(self, pairs: Sequence[Pair]) -> Future[list[bool]]:
        number, answer = self._waiting.add()
        text = json.dumps([number, pairs]).encode() + b"\n"
        with self._writing:
            while text:
                text = text[os.write(self._input.fileno(), text):]
        return answer


class _Waiting:
    """Those who wait for an answer, by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[int, Future[list[bool]]] = {}
        self._asked = 0
        self._ended = False

    def add(self) -> tuple[int, Future[list[bool]]]:
        answer: Future[list[bool]] = Future()
        with self._lock:
            if self._ended:
                raise OSError("the process has ended")
            self._asked += 1
            self._answers[self._asked] = answer
            return self._asked, answer

    def receive(self, output: IO[bytes]) -> None:
        """Hands out answers until the process has ended, and tells those who still wait."""
        with contextlib.suppress(OSError, ValueError):
            for line in output:
                number, verdicts = json.loads(line)
                with self._lock:
                    answer = self._answers.pop(number)
                answer.set_result(verdicts)
        with self._lock:
            self._ended = True
            left = list(self._answers.values())
        for answer in left:
            answer.set_exception(OSError("the process has ended"))


def _end(process: subprocess.Popen[bytes], receiver: threading.Thread, home: int) -> None:
    if os.getpid() == home:
        process.kill()
        process.wait()
        if receiver is not threading.current_thread():
            receiver.join(1)
    else:  # a fork: the process is its parent's
        process.returncode = 0
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
