"""kill -9 at random moments of a real run. Takes half a minute a kill: LEAPGEN_KILLS says how many."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from leapgen import LeapOutput
from leapgen.tasks.maze import MAZE_SHAPE, make_maze
from leapgen.terminal.cli import main

KILLS = int(os.environ.get("LEAPGEN_KILLS", "0"))
SETTINGS = ["--model", "maze", "--dtype", "float32", "--n", "16", "--interval", "36", "--max-new-tokens", "216",
            "--summary-tokens", "32", "--forced-answer-tokens", "16", "--written-answer-tokens", "16", "--finished-share"]
# Tells of each step and block over the file descriptor it is given, at the moment it is done.
PROGRAM = """
import os, sys
from leapgen.engine import Engine
from leapgen.protocol.leap import Leap
from leapgen.terminal.cli import main
def telling(function, sign):
    def told(self, *arguments):
        result = function(self, *arguments)
        os.write(int(sys.argv[1]), sign)
        return result
    return told
Engine.step, Leap._end_block = telling(Engine.step, b"s"), telling(Leap._end_block, b"b")
sys.exit(main(sys.argv[2:]))
"""
STEPS = 300  # a run takes about as many


@pytest.mark.skipif(not KILLS, reason="set LEAPGEN_KILLS to the number of runs to kill")
def test_a_killed_run_loses_a_block_at_most_and_resumes_to_the_same_tokens(tmp_path):
    """Would catch: a file that is written in place, or only at the end; a state that resumes to other tokens."""
    question, rng, lengths = make_maze("killed", MAZE_SHAPE).question, random.Random(0), []
    assert main(["run", question, *SETTINGS, "--save", str(tmp_path / "whole.json"), "--quiet"]) == 0
    whole = [path.token_ids for path in LeapOutput.load(tmp_path / "whole.json").paths]
    for kill in range(KILLS):
        file = tmp_path / f"{kill}.json"
        held, saved = killed(question, file, rng.randint(1, STEPS), rng.uniform(0, 0.02))
        lengths.append((held, saved))
        assert held - saved <= 1, "a block that was held before the newest one is not on disk"
        assert main(["resume", str(file), "--quiet"]) == 0
        assert [path.token_ids for path in LeapOutput.load(file).paths] == whole
    print(f"blocks held and on disk when killed: {lengths}")


def killed(question: str, file: os.PathLike, steps: int, seconds: float) -> tuple[int, int]:
    """Kills a run some seconds after so many of its steps: blocks held then, and blocks on disk."""
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(write), "run", question, *SETTINGS, "--save", str(file)],
                               pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    told = b""
    while told.count(b"s") < steps and (new := os.read(read, 1)):
        told += new
    time.sleep(seconds)
    process.kill()
    process.wait()
    while new := os.read(read, 64):
        told += new
    os.close(read)
    return told.count(b"b"), len(LeapOutput.load(file).blocks)
