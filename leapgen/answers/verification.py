"""The process that compares values with math-verify: ``serve`` answers questions on standard input, a fork for each.

A fork starts from one warm state whatever was asked before, so that a verdict depends on its question alone. It is limited
in memory and in processor time, which other load does not shorten. This process computes nothing itself and is never killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import time
from dataclasses import dataclass
from typing import Any

from leapgen.answers.worker import Pair

CPU_SECONDS = 0.25
SECONDS = 3.0  # of a fork that gets no processor
MEMORY = 1 << 30  # bytes more than the warm process has
AT_ONCE = 4
_WARM: list[Pair] = [
    ("\\frac { \\sqrt { 8 } + x ^ { 2 } } { 2 }", "\\sqrt { 2 } + \\frac { x ^ { 2 } } { 2 }", 0),
    ("\\sin ( \\pi / 4 )", "\\frac { 1 } { \\sqrt { 2 } }", 0), ("\\log _ { 2 } 8 - 3 !", "- 3", 0),
    ("0.5 \\cdot e", "1.359141", 6), ("( x - 1 ) \\cdot ( x + 1 )", "x ^ { 2 } - 1", 0),
    ("2 \\sin x \\cos x", "\\sin ( 2 x )", 0), ("\\binom { 5 } { 2 }", "10", 0),
    ("a _ { 1 } / b", "\\frac { a _ { 1 } } { b }", 0),
    ("\\sqrt { 3 + 2 \\sqrt { 2 } }", "1 + \\sqrt { 2 }", 0), ("\\frac { y ^ { 3 } - 1 } { y - 1 }", "y ^ { 2 } + y + 1", 0)]
_POINTS = ((0.618, 1.272, 2.236, 0.377), (1.732, 0.443, 0.871, 2.618), (2.303, 1.849, 0.529, 1.117))


def serve(parent: int) -> None:
    """Answers lines ``[number, pairs]`` with ``[number, verdicts]``, in any order, until the input or the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for pair in _WARM:
        alike(*pair)
    pages = int(_statm()) * resource.getpagesize()
    waiting: list[tuple[int, list[Pair]]] = []
    running: dict[int, _Fork] = {}
    unread = b""
    while os.getppid() == parent:
        while waiting and len(running) < AT_ONCE:
            fork = _Fork.start(*waiting.pop(0), pages + MEMORY)
            running[fork.pipe] = fork
        ready = select.select([0, *running], [], [], 0.05 if running else 1.0)[0]
        for pipe in ready:
            if pipe:
                running[pipe].read()
            else:
                received = os.read(0, 1 << 16)
                if not received:
                    return
                *lines, unread = (unread + received).split(b"\n")
                waiting += map(json.loads, lines)
        for fork in list(running.values()):
            if fork.ended or time.monotonic() > fork.deadline:
                del running[fork.pipe]
                os.write(1, json.dumps([fork.number, fork.finish()]).encode() + b"\n")


def _statm() -> str:
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return file.read().split()[0]
    return "0"


@dataclass
class _Fork:
    """One question in a process of its own."""

    number: int
    pid: int
    pipe: int
    questions: int
    deadline: float
    verdicts: bytes = b""
    ended: bool = False

    @classmethod
    def start(cls, number: int, pairs: list[Pair], memory: int) -> _Fork:
        pipe, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _limit(memory)
                for pair in pairs:
                    os.write(end, b"1" if alike(*pair) else b"0")
            finally:
                os._exit(0)
        os.close(end)
        return cls(number, pid, pipe, len(pairs), time.monotonic() + SECONDS)

    def read(self) -> None:
        received = os.read(self.pipe, 1 << 10)
        self.verdicts += received
        self.ended = not received

    def finish(self) -> list[bool]:
        """Ends the process; what it did not come to is not the same."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pipe)
        return [verdict == ord("1") for verdict in self.verdicts.ljust(self.questions, b"0")]


def _limit(memory: int) -> None:
    """The kernel ends this process at the limit, whatever it is doing; SIGPROF is not caught."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)  # should the process that watches this one be gone


def alike(one: str, other: str, places: int) -> bool:
    """Whether two values are equal.

    They must agree at three points to twelve digits, then math-verify must find them equal both ways. The points are no
    luxury: math-verify rounds to six decimals, by which ``10^{-8}`` is 0, and cuts off what is small.

    Args:
        one, other: as ``tokens.latex`` writes them.
        places: decimals to which a rounded value stands for an exact one; 0: none is rounded.
    """
    from math_verify import verify

    with contextlib.suppress(Exception):
        first, second = _parsed(one), _parsed(other)
        if not all(_close(first, second, point, places) for point in _POINTS):
            return False
        options: dict[str, Any] = {"float_rounding": places or 12, "timeout_seconds": None}
        return bool(verify([first], [second], **options) and verify([second], [first], **options))
    return False


def _parsed(latex: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import parse
    from math_verify.parser import LatexExtractionConfig

    plain = NormalizationConfig(basic_latex=False, boxed="last")
    config = LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0, normalization_config=plain)
    (value,) = parse(f"\\boxed{{{latex}}}", [config], fallback_mode="no_fallback", parsing_timeout=None)
    return value


def _close(one: Any, other: Any, point: tuple[float, ...], places: int) -> bool:
    from sympy import Abs, Float, Rational, oo

    names = sorted({symbol.name for symbol in one.free_symbols | other.free_symbols})
    at = {name: Rational(str(point[i % len(point)])) + i // len(point) for i, name in enumerate(names)}
    a, b = (value.doit().evalf(30, subs={s: at[s.name] for s in value.free_symbols}) for value in (one, other))
    if a in (oo, -oo) or b in (oo, -oo):
        return bool(a == b)
    difference, largest = Abs(a - b).evalf(30), max(Abs(a).evalf(30), Abs(b).evalf(30))
    allowed = Float(10) ** -places * 0.5000001 if places else largest * Float("1e-12")
    return bool(difference <= allowed)
