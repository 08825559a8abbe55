"""Several questions on one engine, each a run of its own with its own settings and seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from leapgen.record.run import LeapOutput
from leapgen.session import Run


def side_by_side(runs: Iterator[Run], most: int) -> Iterator[LeapOutput]:
    """The outputs of runs of one question each, in the order of the runs.

    Args:
        most: runs that go on at a time; when one ends, the next begins.

    Raises:
        GenerationFailed, GenerationInterrupted: of the first run that raises it; the others are closed.
    """
    going: deque[Run] = deque()
    ended: set[Run] = set()
    try:
        while True:
            while len(going) - len(ended) < most and (run := next(runs, None)) is not None:
                going.append(run)
                next(run)  # it begins
            if not going:
                return
            if going[0] not in ended and next(going[0], None) is None:
                ended.add(going[0])
            for run in going:
                while run not in ended and run.ready:
                    if next(run, None) is None:
                        ended.add(run)
            while going and going[0] in ended:
                ended.discard(going[0])
                yield going.popleft().output(0)
    finally:
        for run in going:
            run.close()
