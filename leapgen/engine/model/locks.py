"""Locks for what a step changes for a while in objects that are the user's: configs, modules."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import count
from operator import attrgetter
from weakref import WeakValueDictionary


class _Lock:
    """An object's lock; it keeps the object, so that while the lock is known no other object has its id."""

    def __init__(self, of: object) -> None:
        self.of, self.number, self.lock = of, next(_numbers), threading.RLock()


class Locks:
    """Holds objects for one thread, so that engines of a process that share some never change one at the same time.

    Locks are taken in an order that is the same for all. What a thread holds it may hold again.
    """

    def __init__(self, objects: Iterable[object]) -> None:
        with _guard:
            locks = {id(one): _known.get(id(one)) or _known.setdefault(id(one), _Lock(one)) for one in objects}
        self._kept = sorted(locks.values(), key=attrgetter("number"))  # known for as long as somebody keeps them
        self._locks = [one.lock for one in self._kept]

    def __enter__(self) -> None:
        taken = 0
        try:
            for lock in self._locks:
                lock.acquire()
                taken += 1
        except BaseException:
            for lock in self._locks[:taken]:
                lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        for lock in reversed(self._locks):
            lock.release()


_guard, _numbers = threading.Lock(), count()
_known: WeakValueDictionary[int, _Lock] = WeakValueDictionary()  # of engines that live, by the object's id
