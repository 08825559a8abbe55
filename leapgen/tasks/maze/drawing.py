"""A maze to look at, with the walks of one or several paths in it: for the terminal, and as a PNG where matplotlib is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from math import cos, pi, sin

from rich.text import Text

from leapgen.tasks.maze.maze import Maze

_TRY = re.compile(r"\bAt \w+(?: not[ \d]+| go)?:(?: \d+:)? ((?:\w+[.:] ?)+)")


def walked(maze: Maze, text: str) -> list[str]:
    """The rooms a path entered, in the order in which its words first say so; what is no room of the maze is left out."""
    rooms = set(maze.rooms)
    return list(dict.fromkeys(room for tried in _TRY.findall(text) for room in re.findall(r"\w+", tried) if room in rooms))


def draw(maze: Maze, walks: Sequence[Iterable[str]] = ()) -> Text:
    """The maze as a tree, one corridor a line.

    Rooms nobody entered are dim, the exit and the way to it green. Behind each corridor stand the numbers of the walks
    that went into it.
    """
    entered = [set(walk) for walk in walks]
    solution = set(maze.solution)
    text = Text(f"{maze.start}\n", style="bold")

    def room_style(room: str) -> str:
        seen = not entered or any(room in walk for walk in entered)
        return ("bold green" if room in solution else "") if seen else "dim green" if room in solution else "dim"

    for d, door in enumerate(maze.doors):
        last_door = d == len(maze.doors) - 1
        text.append("└─" if last_door else "├─").append(door, room_style(door)).append("\n")
        for c, room in enumerate(maze.next_rooms(door)):
            corridor = [room]
            while maze.next_rooms(corridor[-1]):
                corridor.append(maze.next_rooms(corridor[-1])[0])
            text.append(("  " if last_door else "│ ") + ("└─" if c == len(maze.next_rooms(door)) - 1 else "├─"))
            for i, each in enumerate(corridor):
                text.append("─" if i else "").append(each, room_style(each))
            text.append(*((" ★ exit", "bold green") if corridor[-1] == maze.exit else (" ✗", "dim")))
            visitors = [str(i) for i, walk in enumerate(entered) if room in walk]
            text.append("  " + " ".join(visitors) if visitors else "", "cyan").append("\n")
    return text


def plot(maze: Maze, file: str | os.PathLike[str], runs: Mapping[str, Sequence[Iterable[str]]] | None = None) -> None:
    """Writes the maze as a picture: rays from the start in the middle, one panel for each run.

    The more walks of a run went through a passage, the wider it is; their numbers stand at the ends of the corridors.

    Args:
        runs: by title, the walks of a run's paths; without any, the maze alone.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; says how to install it.
        ValueError: matplotlib does not know the file's kind.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a picture of the maze needs matplotlib: pip install matplotlib") from error
    places = _places(maze)
    runs = runs or {"": []}
    figure = Figure(figsize=(5 * len(runs), 5))
    for panel, (title, walks) in enumerate(runs.items(), 1):
        axes = figure.add_subplot(1, len(runs), panel)
        entered = [set(walk) for walk in walks]
        for room, to in maze.passages:
            visitors = [str(i) for i, walk in enumerate(entered) if to in walk]
            colour = "0.8" if not visitors else "tab:green" if to in maze.solution else "tab:red"
            (x0, y0), (x1, y1) = places[room], places[to]
            axes.plot([x0, x1], [y0, y1], color=colour, linewidth=1 + 5 * len(visitors) / max(len(entered), 1), zorder=1)
            if visitors and not maze.next_rooms(to):
                axes.text(1.12 * x1, 1.12 * y1, " ".join(visitors), fontsize=6, ha="center", va="center")
        for room, (x, y) in places.items():
            mark = "*" if room == maze.exit else "s" if room == maze.start else "o"
            axes.scatter(x, y, marker=mark, s=90 if mark != "o" else 14, zorder=2,
                         color="tab:green" if room == maze.exit else "black")
        axes.set_title(title, fontsize=9)
        axes.set_aspect("equal")
        axes.axis("off")
    figure.savefig(file, dpi=120, bbox_inches="tight")


def _places(maze: Maze) -> dict[str, tuple[float, float]]:
    """x, y of each room: corridors are rays, told apart by their angle; doors stand in the middle of theirs."""
    places = {maze.start: (0.0, 0.0)}
    total = sum(len(maze.next_rooms(door)) for door in maze.doors)
    ray = 0
    for door in maze.doors:
        first = ray
        for room in maze.next_rooms(door):
            angle, distance = 2 * pi * ray / total, 2
            while room:
                places[room] = (distance * cos(angle), distance * sin(angle))
                room, distance = next(iter(maze.next_rooms(room)), ""), distance + 1
            ray += 1
        angle = pi * (first + ray - 1) / total
        places[door] = (cos(angle), sin(angle))
    return places
