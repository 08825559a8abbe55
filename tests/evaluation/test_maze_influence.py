"""Types of communication against what is known: in a maze, a path's own words say what it has found, and by whose report."""

from __future__ import annotations

import torch

from leapgen import EngineConfig, LeapConfig, LeapGenerator
from leapgen.answers import grader
from leapgen.evaluation.influence import ProbedRun, mean_influence, types
from leapgen.evaluation.placebos import Scrambled
from leapgen.evaluation.probed import probed
from leapgen.evaluation.probes import probes_of
from leapgen.tasks.maze import MAZE_SETTINGS, MAZE_SHAPE, make_maze
from leapgen.tasks.maze.drawing import walked

MAZES = [make_maze(f"test/{i}", MAZE_SHAPE) for i in range(12)]
THINK = 24  # the way to a reported exit, in words


def own_words(path, block):
    """Before the comment of a block, and after it up to the next."""
    at = next(i for i, segment in enumerate(path.segments) if segment.kind == "comment" and segment.block == block)
    before = "".join(segment.text for segment in path.segments[:at] if segment.kind == "own")
    return before, "".join(segment.text for segment in path.segments[at + 1 : at + 2] if segment.kind == "own")


def test_who_states_an_exit_that_it_was_told_of_was_influenced():
    """Guards against probes at another place than they say, peers mixed up, and answers that are not the path's."""
    generator = LeapGenerator.from_pretrained("maze", dtype=torch.float32, engine=EngineConfig(kv_cache_bytes=1 << 30))
    outputs = generator.generate([maze.question for maze in MAZES], n=8, leap=LeapConfig(**MAZE_SETTINGS), seed=7,
                                 protocol=probed(placebo=Scrambled, think=THINK))
    runs = [ProbedRun(maze.question, probes_of(output.probes), output.answers, maze.is_solved_by, grader("exact").groups)
            for maze, output in zip(MAZES, outputs, strict=True)]
    agree = []
    for maze, output, run in zip(MAZES, outputs, runs, strict=True):
        for one in run.communications():
            before, after = own_words(output.paths[one.path], one.block)
            if one.right_after and maze.exit not in walked(maze, before):
                told = f"At {maze.start} go:" in after or f"At {maze.solution[1]} go:" in after  # by a reported route
                agree.append((one.type == "influenced") == told)
    print(f"types agree with the paths' own words in {sum(agree)} of {len(agree)} cases")
    assert len(agree) >= 40 and sum(agree) >= 0.95 * len(agree)
    influenced = types(runs)["influenced"].mean
    assert influenced > types(runs, "placebo")["influenced"].mean + 0.1 > types(runs, "alone")["influenced"].mean
    assert mean_influence(runs).low > 1
