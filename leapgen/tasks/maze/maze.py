"""A maze of one-way passages: a start, doors behind it, corridors behind each door, one of which ends at the exit."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_WORDS = (
    "ant ape ark arm axe bag bay bee bell bin boat box bug bus can cap cat clay coal cow crab cub dam deer dew dish "
    "dog dove duck dust egg elm fan farm fig fin fish flag fog fox frog gate gem goat hat hawk hen hill hook hut ice "
    "iris iron jam jay jug key kite lake lamp lark lily lime loft mask mast mill mint moon moss mule net nut oar oat "
    "owl park path pear pen pin plum pond ram reed road rock root rose rye salt seal seed ship shoe snow")
NAMES = tuple(_WORDS.split())  # every one a single token

QUESTION = "Find the way from {start} to {exit}. Passages:{passages}"
_QUESTION = re.compile(r"\s*Find the way from (\w+) to (\w+)\. Passages:((?: [a-z]\w*(?: [0-9]+)? [a-z]\w*[;.])+)\s*")


@dataclass(frozen=True)
class Shape:
    """How large a maze is: ``doors`` behind the start, ``corridors`` behind each door, ``length`` rooms in each corridor."""

    doors: int = 5
    corridors: int = 4
    length: int = 3

    def __post_init__(self) -> None:
        for name in ("doors", "corridors", "length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} is not allowed: it must be an integer >= 1.")
        if self.rooms > len(NAMES):
            raise ValueError(f"a maze of {self.rooms} rooms cannot be named: there are {len(NAMES)} names. "
                             "Use fewer doors, fewer corridors or shorter ones.")

    @property
    def rooms(self) -> int:
        return 1 + self.doors * (1 + self.corridors * self.length)


@dataclass(frozen=True)
class Maze:
    """Rooms joined by one-way passages that form a tree.

    Args:
        start, exit: room names.
        passages: (from, to) in the order the question lists them.

    Raises:
        ValueError: it is no such maze; says why.
    """

    start: str
    exit: str
    passages: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        entered = [to for _, to in self.passages]
        twice = sorted({room for room in entered if entered.count(room) > 1})
        if twice:
            raise ValueError(f"malformed maze: {twice[0]!r} has two ways in; every room but the start has one.")
        if self.start in entered:
            raise ValueError(f"malformed maze: a passage leads back to the start {self.start!r}.")
        if self.exit not in entered:
            raise ValueError(f"malformed maze: no passage leads to the exit {self.exit!r}.")
        for room in {room for passage in self.passages for room in passage}:
            seen = {room}
            while room != self.start:
                before = self._way_in.get(room)
                if before is None or before in seen:
                    raise ValueError(f"malformed maze: {sorted(seen)[0]!r} cannot be reached from {self.start!r}.")
                room = before
                seen.add(room)

    @cached_property
    def _way_in(self) -> dict[str, str]:
        return {to: room for room, to in self.passages}

    @cached_property
    def _ways_out(self) -> dict[str, tuple[str, ...]]:
        ways: dict[str, list[str]] = defaultdict(list)
        for room, to in self.passages:
            ways[room].append(to)
        return {room: tuple(to) for room, to in ways.items()}

    def next_rooms(self, room: str) -> tuple[str, ...]:
        """Where one can go from a room; nothing from a dead end, and nothing from a name that is no room."""
        return self._ways_out.get(room, ())

    def route_to(self, room: str) -> tuple[str, ...]:
        """The rooms from the start to this one, both included."""
        route = [room]
        while route[-1] != self.start:
            route.append(self._way_in[route[-1]])
        return tuple(reversed(route))

    @cached_property
    def solution(self) -> tuple[str, ...]:
        return self.route_to(self.exit)

    @property
    def rooms(self) -> list[str]:
        return [self.start, *(to for _, to in self.passages)]

    @property
    def doors(self) -> tuple[str, ...]:
        return self.next_rooms(self.start)

    def label(self, room: str) -> str:
        """How one gets into a room: the room before it and, where there are several ways on, the number of the way.

        Ways are numbered from 1 in the order the question lists them.
        """
        before, number = self._way_in[room], self.number(room)
        return f"{before} {number}" if number else before

    def number(self, room: str) -> int:
        """The number of the way into a room; 0 where there is only one way on."""
        ways = self.next_rooms(self._way_in[room])
        return ways.index(room) + 1 if len(ways) > 1 else 0

    @property
    def question(self) -> str:
        listed = ";".join(f" {self.label(to)} {to}" for _, to in self.passages)
        return QUESTION.format(start=self.start, exit=self.exit, passages=listed + ".")

    @classmethod
    def parse(cls, question: str) -> Maze:
        """Reads what ``question`` wrote.

        Raises:
            ValueError: the text is no maze, or a malformed one; says what is expected.
        """
        found = _QUESTION.fullmatch(question)
        if not found:
            form = QUESTION.format(start="a", exit="c", passages=" a 1 b; a 2 d; b c.")
            raise ValueError(f"not a maze: {question!r:.120}. Expected the form {form!r}.")
        listed = [passage.split() for passage in re.split("[;.]", found[3]) if passage.strip()]
        maze = cls(found[1], found[2], tuple((passage[0], passage[-1]) for passage in listed))
        for *label, to in listed:
            if " ".join(label) != maze.label(to):
                raise ValueError(f"malformed maze: the way to {to!r} is numbered {' '.join(label)!r}, not "
                                 f"{maze.label(to)!r}; ways are numbered from 1 in the order they are listed, and only "
                                 "where there are several.")
        return maze

    def is_solved_by(self, answer: str | Sequence[str] | None) -> bool:
        """Whether an answer is the whole route from start to exit, room by room: exact, whatever separates the rooms."""
        if answer is None:
            return False
        rooms = re.findall(r"\w+", answer) if isinstance(answer, str) else list(answer)
        return tuple(rooms) == self.solution


def make_maze(seed: int | str, shape: Shape | None = None) -> Maze:
    """The maze of a seed: names, exit and the order of passages are drawn at random, so that none gives the way away."""
    shape = shape or Shape()
    rng = random.Random(f"maze/{seed}/{shape.doors}/{shape.corridors}/{shape.length}")
    names = iter(rng.sample(NAMES, shape.rooms))
    start = next(names)
    passages, ends = [], []
    for _ in range(shape.doors):
        door = next(names)
        passages.append((start, door))
        for _ in range(shape.corridors):
            room = door
            for _ in range(shape.length):
                room, previous = next(names), room
                passages.append((previous, room))
            ends.append(room)
    rng.shuffle(passages)
    return Maze(start, rng.choice(ends), tuple(passages))
