"""Questions to the process that holds a dataset of reasoning-gym."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from threading import Lock
from typing import Any

SECONDS = 10.0  # that an answer may take to be scored


class GymProcess:
    """One of reasoning-gym's datasets, in a process of its own.

    The process has a fixed hash seed, as some datasets draw from sets; and it can be ended, as some scorers evaluate the
    answer's text. It starts at the first request, and anew where it was ended or this process is a fork. Threads may share
    it.

    Args:
        opening: arguments of ``leapgen.tasks.gym.child.opened``.
    """

    def __init__(self, **opening: Any) -> None:
        self._opening = opening
        self._process: subprocess.Popen[str] | None = None
        self._home = 0  # the process that started it
        self._version = ""
        self._scores: dict[tuple[int, str], float] = {}
        self._lock = Lock()

    def open(self) -> str:
        """The version of reasoning-gym.

        Raises:
            ValueError: there is no such dataset or setting, or a value is not allowed.
        """
        with self._lock:
            return self._started()

    def make(self, index: int) -> tuple[str, str]:
        """A problem's question and an answer that solves it.

        Raises:
            ValueError: the dataset cannot make it.
        """
        with self._lock:
            self._started()
            reply = self._ask("make", {"index": index})
        if reply is None:
            raise ValueError(f"{self._opening['name']}: reasoning-gym failed to make problem {index}.")
        return reply["question"], reply["answer"]

    def score(self, index: int, answer: str) -> float:
        """The gym's score of an answer to a problem, at best 1; 0 if it took too long."""
        key = index, answer
        with self._lock:
            if key not in self._scores:
                self._started()
                reply = self._ask("score", {"index": index, "answer": answer, "seconds": SECONDS})
                self._scores[key] = reply["score"] if reply else 0.0
            return self._scores[key]

    def _started(self) -> str:
        if self._process is None or self._home != os.getpid():
            code = f"import sys; sys.path[:] = {sys.path!r}; from leapgen.tasks.gym.child import main; main()"
            environment = {**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], text=True, encoding="utf-8", env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)  # Ctrl-C is not meant for it
            self._home = os.getpid()
            self._end = weakref.finalize(self, _end, self._process, self._home)
            reply = self._ask("open", self._opening)
            if reply is None:
                raise ValueError(f"{self._opening['name']}: the process that holds reasoning-gym could not be started.")
            if "error" in reply:
                self._close()
                raise ValueError(reply["error"])
            self._version = reply["version"]
        return self._version

    def _ask(self, verb: str, values: Mapping[str, Any]) -> Any:
        """The reply; None if the process ended instead."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps([verb, values]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if line.endswith("\n"):
            return json.loads(line)
        self._close()
        return None

    def _close(self) -> None:
        self._end()
        self._process = None


def _end(process: subprocess.Popen[str], home: int) -> None:
    if os.getpid() == home:
        process.kill()
        process.communicate()
