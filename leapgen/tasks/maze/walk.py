"""A walk through a maze in words: depth first, door by door, with dead ends, ways back and what others have reported."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from leapgen.tasks.maze.maze import Maze

Pieces = list[tuple[str, tuple[str, ...]]]  # of text, each with the route to where the walker stands after it


@dataclass
class Report:
    """What a walker or a peer says of a maze; it may be false."""

    dead: tuple[str, ...] = ()  # doors and first rooms of corridors that lead nowhere
    route: tuple[str, ...] = ()  # from the start to the exit


@dataclass
class Walk:
    """One walker. It goes through a random untried door, tries that door's corridors in random order, and comes back.

    Reports change the order: what is reported dead is left for the very end, and a reported route is walked first, so that
    a false one is found out. ``Recheck`` begins when nothing is left but reports, which are then ignored.
    """

    maze: Maze
    rng: random.Random
    dead: list[str] = field(default_factory=list)  # doors, in the order they were given up
    tried: dict[str, list[str]] = field(default_factory=dict)  # first rooms of corridors that were walked, by door
    door: str | None = None  # where the walker stands; None at the start
    reported: set[str] = field(default_factory=set)  # dead by report
    routes: list[tuple[str, ...]] = field(default_factory=list)  # reported, not yet walked
    rechecks: bool = False
    found: bool = False

    def hear(self, reports: Iterable[Report]) -> None:
        """Takes over what others report."""
        for report in reports:
            self.reported.update(report.dead)
            if report.route:
                self.routes.append(report.route)
        if self.door in self.reported and not self.rechecks:
            self.door = None

    def report(self) -> Report:
        """What this walker has seen for itself: doors it gave up, and corridors behind the door where it stands."""
        if self.found:
            return Report(route=self.maze.solution)
        return Report(dead=(*self.dead, *(self.tried.get(self.door, ()) if self.door else ())))

    def position(self) -> tuple[str, ...]:
        """The route to where the walker stands between two paragraphs."""
        if self.found:
            return self.maze.solution
        return (self.maze.start, self.door) if self.door else (self.maze.start,)

    def paragraph(self) -> Pieces:
        """The next paragraph."""
        goal, door = self.reported_goal(), self.door
        if door is None or (goal and goal[0] != door):
            return self._choose_door(goal)
        without = self.without(door)
        if goal and goal[1] in self.maze.next_rooms(door):
            return self._walk(door, goal[1], asked(self.maze, door, goal=True))
        left = [room for room in self.maze.next_rooms(door) if room not in without]
        if not left:
            return self._give_up(door, asked(self.maze, door, without))
        return self._walk(door, self.rng.choice(left), asked(self.maze, door, without))

    def without(self, room: str) -> list[str]:
        """Ways out of a room that are not worth trying: given up, tried or, until a recheck, reported dead."""
        seen = {*self.dead, *self.tried.get(room, ()), *(() if self.rechecks else self.reported)}
        return [way for way in self.maze.next_rooms(room) if way in seen]

    def reported_goal(self) -> tuple[str, str] | None:
        """Door and corridor of a reported route that may still be true."""
        for route in self.routes:
            if len(route) > 2 and route[1] in self.maze.doors and route[1] not in self.dead and (
                    route[2] in self.maze.next_rooms(route[1]) and route[2] not in self.tried.get(route[1], ())):
                return route[1], route[2]
        return None

    def _choose_door(self, goal: tuple[str, str] | None) -> Pieces:
        start, without = self.maze.start, self.without(self.maze.start)
        left = [door for door in self.maze.doors if door not in without]
        if not left and not goal:
            self.rechecks = True
            self.dead = [door for door in self.dead
                         if set(self.maze.next_rooms(door)) <= set(self.tried.get(door, ()))]
            return [(f"{asked(self.maze, start, without)} nothing left.", (start,)), (" Recheck.", (start,)),
                    ("\n\n", (start,))]
        self.door = door = goal[0] if goal else self.rng.choice(left)
        words = asked(self.maze, start, goal=True) if goal else asked(self.maze, start, without)
        return [(words, (start,)), (f"{numbered(self.maze, door)}.\n\n", (start, door))]

    def _give_up(self, door: str, words: str) -> Pieces:
        start = self.maze.start
        self.dead.append(door)
        self.door = None
        return [(f"{words} nothing left.", (start, door)), (f" Dead: {labels(self.maze, self.dead)}.", (start,)),
                ("\n\n", (start,))]

    def _walk(self, door: str, room: str, words: str) -> Pieces:
        route = [self.maze.start, door]
        pieces: Pieces = [(words, tuple(route))]
        tried = self.tried.setdefault(door, [])
        tried.append(room)
        while room:
            route.append(room)
            pieces.append((f"{numbered(self.maze, room)}:", tuple(route)))
            room = next(iter(self.maze.next_rooms(room)), "")
        self.found = route[-1] == self.maze.exit
        if self.found:
            return [*pieces, (" exit.", tuple(route)), ("\n\n", tuple(route))]
        return [*pieces, (" dead end.", tuple(route)), (f" Dead: {labels(self.maze, tried)}.", tuple(route[:2])),
                ("\n\n", tuple(route[:2]))]


def labels(maze: Maze, rooms: Iterable[str]) -> str:
    """Ways into rooms, as walks and summaries list them."""
    return " ".join(maze.label(room) for room in rooms)


def asked(maze: Maze, room: str, without: Iterable[str] = (), goal: bool = False) -> str:
    """Where a choice is made, and by what: the numbers of ways not worth trying, or a reported route."""
    numbers = "".join(f" {maze.number(way)}" for way in maze.next_rooms(room) if way in without)
    return f"At {room} go:" if goal else f"At {room} not{numbers}:" if numbers else f"At {room}:"


def numbered(maze: Maze, room: str) -> str:
    """The way into a room, and the room."""
    number = maze.number(room)
    return f" {number}: {room}" if number else f" {room}"
