"""Training texts: walks through mazes in every situation the protocol puts a path into. All synthetic, no run of LeaP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from leapgen.config import LeapConfig
from leapgen.protocol.chat import prompt_tokens
from leapgen.protocol.prompts import SUMMARY_CLOSE, PromptSet
from leapgen.tasks.maze.maze import Maze, Shape, make_maze
from leapgen.tasks.maze.tokenizer import END, THINK_END, THINK_START
from leapgen.tasks.maze.walk import Report, Walk, asked, labels, numbered

IGNORED = -100  # the label of tokens without loss


@dataclass(frozen=True)
class Mix:
    """How often each situation occurs; probabilities unless said otherwise.

    Args:
        shapes: mazes, drawn alike.
        explain: the prompt that explains the tags.
        blocks: LeaP blocks in a sample: weights of 0, 1, 2, ...
        interval: own tokens between blocks, least and most.
        heed: a walker takes a comment into account; otherwise it ignores it.
        share: a walker that has found the exit is asked for a summary before it answers.
        near: a peer began behind the door where the walker stands, so that its report matters at once.
        forced: the walk is cut short and the answer asked for.
        drills: no walk, but rooms looked up in random order and doors tried to their end.
        told: part of the drills in which peers have told of dead ends and routes.
    """

    shapes: tuple[Shape, ...] = tuple(Shape(d, c, n) for d in (3, 4, 5, 6) for c in (2, 3, 4, 5) for n in (1, 2)
                                      if 12 <= d * c * n <= 50)
    explain: float = 0.5
    blocks: tuple[float, ...] = (0.1, 0.3, 0.35, 0.25)
    interval: tuple[int, int] = (24, 100)
    heed: float = 0.9
    share: float = 0.8
    near: float = 0.5
    forced: float = 0.35
    drills: float = 0.35
    told: float = 0.6


@dataclass
class Sample:
    """Token ids and labels of one text."""

    token_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, token_ids: list[int], learned: bool) -> None:
        self.token_ids += token_ids
        self.labels += token_ids if learned else [IGNORED] * len(token_ids)


def summary_text(report: Report, maze: Maze) -> str:
    """How the model words its own report: dead ends and routes by the ways that lead there."""
    if report.route:
        return f" found: {_ways(report, maze)}."
    return f" dead ends: {_ways(report, maze)}." if report.dead else " nothing yet."


def hint_text(report: Report, maze: Maze, rng: random.Random) -> str:
    """The same, in one of several wordings a peer might use."""
    ways = _ways(report, maze)
    if report.route:
        return rng.choice((f" the way is {ways}.", f" go {ways}.", f" I see the exit by {ways}.",
                           f" found the way: {ways}."))
    if report.dead:
        return rng.choice((f" {ways} are dead ends.", f" avoid {ways}.", f" I tried {ways} and no exit.",
                           f" no way through {ways}.", f" {ways} leads nowhere."))
    return rng.choice((" I am lost.", " I see no way.", " I am still looking.", " not sure yet.", ""))


def _ways(report: Report, maze: Maze) -> str:
    """A route is told by the two choices on it."""
    return labels(maze, report.route[1:3] or report.dead)


class SampleMaker:
    """Makes samples one after another from a seed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mix: Mix | None = None, prompts: PromptSet | None = None,
                 seed: int | str = 0) -> None:
        self.tokenizer, self.mix, self.prompts = tokenizer, mix or Mix(), prompts or PromptSet()
        self.rng = random.Random(f"samples/{seed}")

    def __iter__(self) -> Iterator[Sample]:
        while True:
            yield self.make()

    def make(self, shape: Shape | None = None) -> Sample:
        rng, mix = self.rng, self.mix
        maze = make_maze(f"train/{rng.getrandbits(48)}", shape or rng.choice(mix.shapes))
        sample, walk = Sample(), Walk(maze, rng)
        leap = LeapConfig(explain=rng.random() < mix.explain)
        sample.add(prompt_tokens(self.tokenizer, maze.question, leap, self.prompts, THINK_START), False)
        if rng.random() < mix.drills:
            if rng.random() < mix.told:
                self._block(sample, walk, told=True)
                self._choose_everywhere(sample, walk)
            else:
                self._look_up(sample, maze)
                self._choose_everywhere(sample, walk)
            return sample
        blocks = rng.choices(range(len(mix.blocks)), mix.blocks)[0]
        limit = rng.randint(*mix.interval) if blocks else 0
        gap = ""
        for _ in range(blocks):
            if not self._reason(sample, walk, limit, gap):
                gap = ""  # the exit was found within the interval
                if rng.random() < mix.share:
                    self._block(sample, walk)
                break
            self._block(sample, walk)
            gap = "\n\n"
        stop = rng.randint(1, 240) if rng.random() < mix.forced else None
        position = self._reason_to_end(sample, walk, stop, gap)
        if position is None:
            sample.add(self._encode(f"{THINK_END}{self.prompts.answer_lead}"), True)
            position = maze.solution
        else:
            sample.add(self._encode(f"{self.prompts.forced_answer}\n{THINK_END}{self.prompts.answer_lead}"), False)
        sample.add(self._encode(f" {' '.join(position)}}}{END}"), True)
        return sample

    # -- drills: nothing tells which room is asked for, so asking is not learned -------------------------------------

    def _look_up(self, sample: Sample, maze: Maze) -> None:
        """Corridors, step by step, in random order."""
        rng = self.rng
        rooms = [room for room in maze.rooms if len(maze.next_rooms(room)) <= 1]
        for room in rng.sample(rooms, min(len(rooms), 24)):
            following = " ".join(maze.next_rooms(room)) or ("exit" if room == maze.exit else "dead end")
            sample.add(self._encode(f" {room}:"), False)
            sample.add(self._encode(f" {following}."), True)

    def _choose_everywhere(self, sample: Sample, walk: Walk) -> None:
        """All ways out of all rooms that have several, in random turns: what was tried or told of has to be looked up."""
        rng, maze = self.rng, walk.maze
        turns = [room for room in maze.rooms if len(maze.next_rooms(room)) > 1
                 for _ in range(len(maze.next_rooms(room)) + 1)]
        for room in rng.sample(turns, len(turns)):
            without = walk.without(room)
            left = [way for way in maze.next_rooms(room) if way not in without]
            goal = next((way for way in walk.reported_goal() or () if way in maze.next_rooms(room)), None)
            if goal in walk.tried.get(room, ()):
                goal = None
            words = asked(maze, room, goal=True) if goal else asked(maze, room, without)
            way = goal or (rng.choice(left) if left else None)
            if not way and rng.random() < 0.6:
                continue
            sample.add(self._encode(f"\n\nAt {room}"), False)
            sample.add(self._encode(words.removeprefix(f"At {room}")
                                    + (f"{numbered(maze, way)}." if way else " nothing left.")), True)
            if way:
                walk.tried.setdefault(room, []).append(way)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _reason(self, sample: Sample, walk: Walk, limit: int, gap: str) -> bool:
        """Whole paragraphs of at most ``limit`` tokens, as a cut leaves them; False if thinking ends before it."""
        count = self._add_gap(sample, gap)
        while not walk.found:
            tokens = self._encode("".join(text for text, _ in walk.paragraph()))
            sample.add(tokens, True)
            count += len(tokens)
            # The paragraph that runs over the limit is taken in whole: there is always one more to learn from.
            if count >= limit:
                return not walk.found or self.rng.random() < 0.5
        return False

    def _reason_to_end(self, sample: Sample, walk: Walk, stop: int | None, gap: str) -> tuple[str, ...] | None:
        """Walks on until the exit is found (None), or for ``stop`` tokens (the route to where the walker then stands)."""
        count = self._add_gap(sample, gap)
        position = walk.position()
        while not walk.found:
            for text, after in walk.paragraph():
                tokens = self._encode(text)
                if stop is not None and count + len(tokens) > stop:
                    kept = tokens[: stop - count]
                    sample.add(kept, True)
                    return walk_answer(walk, position)
                sample.add(tokens, True)
                count, position = count + len(tokens), after
        return None

    def _add_gap(self, sample: Sample, gap: str) -> int:
        tokens = self._encode(gap)
        sample.add(tokens, True)
        return len(tokens)

    def _block(self, sample: Sample, walk: Walk, told: bool = False) -> None:
        """A summary and peers' comments; ``told``: by four peers, and heeded."""
        rng, prompts = self.rng, self.prompts
        sample.add(self._encode(f"{rng.choice(prompts.triggers)} {rng.choice(prompts.lead_ins)}"), False)
        sample.add(self._encode(summary_text(walk.report(), walk.maze) + f" {SUMMARY_CLOSE}"), True)
        peers = 4 if told else rng.choices((0, 1, 2, 3, 4), (0.06, 0.12, 0.16, 0.16, 0.5))[0]
        said = [self._peer(walk) for _ in range(peers)]
        frame = prompts.comment(peers)
        text = "\n\n" + frame[0]
        for (_, words), following in zip(said, frame[1:], strict=True):
            text += words + following
        sample.add(self._encode(text), False)
        if told or rng.random() < self.mix.heed:
            walk.hear(report for report, _ in said)

    def _peer(self, walk: Walk) -> tuple[Report, str]:
        """A peer's report and its words."""
        rng = self.rng
        kind = rng.choices(("walker", "solver", "false dead", "false route", "stranger", "useless"),
                           (0.68, 0.12, 0.06, 0.04, 0.06, 0.04))[0]
        maze = walk.maze
        if kind == "walker":
            peer = Walk(maze, rng)
            if walk.door and rng.random() < self.mix.near:
                peer.door = walk.door
            size = len(maze.next_rooms(maze.doors[0])) + 2
            for _ in range(rng.randint(1, 2 * size)):
                before = peer.report()
                peer.paragraph()
                if peer.found:
                    break
            report = before if peer.found else peer.report()
        elif kind == "solver":
            report = Report(route=maze.solution)
        elif kind == "false dead":
            inner = [room for door in maze.doors for room in (door, *maze.next_rooms(door))]
            report = Report(dead=tuple(rng.sample(inner, min(rng.randint(1, 4), len(inner)))))
        elif kind == "false route":
            wrong = [room for room in maze.rooms if not maze.next_rooms(room) and room != maze.exit]
            report = Report(route=maze.route_to(rng.choice(wrong)))
        else:
            report = Report()
        if kind == "stranger":  # tells of another maze
            maze = make_maze(f"stranger/{rng.getrandbits(48)}", Shape(4, 4, 1))
            rooms = [room for door in maze.doors for room in (door, *maze.next_rooms(door))]
            report = Report(dead=tuple(rng.sample(rooms, rng.randint(1, 5))))
        if rng.random() < 0.7:
            words = summary_text(report, maze).strip()
            lead_in = rng.choice(self.prompts.lead_ins).removeprefix("<summarize>").strip()
            return report, f"{lead_in} {words}"
        return report, hint_text(report, maze, rng)


def walk_answer(walk: Walk, position: tuple[str, ...]) -> tuple[str, ...]:
    """The best a walker can say that has not seen the exit: a route reported to it, else the way to where it stands."""
    goal = next((route for route in walk.routes if len(route) > 2 and route[0] == walk.maze.start
                 and route[1] in walk.maze.doors and route[1] not in walk.dead
                 and route[2] in walk.maze.next_rooms(route[1])), None)
    return goal or position
