"""``finished_share``: who takes part in a block follows from tokens, whatever the steps they came in."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leapgen import EngineConfig, GenerationInterrupted, LeapConfig, LeapGenerator, LeapOutput
from leapgen.tasks.maze import MAZE_SETTINGS, MAZE_SHAPE, make_maze


def by_answer(receiver, messages, k, rng):
    """A router that goes by what peers say: their answers so far must not depend on steps either."""
    return [message.sender for message in sorted(messages, key=lambda message: (message.answer or "", message.sender))][:k]


LEAPS = [LeapConfig(**MAZE_SETTINGS), LeapConfig(**MAZE_SETTINGS, router=by_answer)]
LEAP = LEAPS[0]
QUESTIONS = [make_maze(f"share/{i}", MAZE_SHAPE).question for i in range(8)]
PATHS = 6
EXAMPLES = int(os.environ.get("LEAPGEN_EXAMPLES", "2"))
SMALL_POOL, LARGE_POOL = 704, 1 << 16  # tokens: a path and its fork fit, six paths do not


@lru_cache
def generator(draft_tokens: int = 0, max_step_tokens: int = 2048, pool: int = LARGE_POOL) -> LeapGenerator:
    bytes_per_token = 8192
    return LeapGenerator.from_pretrained("maze", dtype=torch.float32, engine=EngineConfig(
        draft_tokens=draft_tokens, max_step_tokens=max_step_tokens, kv_cache_bytes=pool * bytes_per_token))


def tokens(output: LeapOutput) -> list[list[int]]:
    return [path.token_ids for path in output.paths]


@lru_cache
def alone(question: int, seed: int, config: LeapConfig = LEAP) -> list[list[int]]:
    return tokens(generator().generate(QUESTIONS[question], PATHS, leap=config, seed=seed))


def stopped_after(leap: LeapGenerator, steps: int, questions: list[str], seed: int,
                  config: LeapConfig = LEAP) -> list[LeapOutput]:
    step, count = leap.engine.step, itertools.count()

    def stopping_step() -> list:
        if next(count) >= steps:
            raise KeyboardInterrupt
        return step()

    leap.engine.step = stopping_step
    try:
        return leap.generate(questions, PATHS, leap=config, seed=seed)
    except GenerationInterrupted as interrupted:
        return interrupted.outputs
    finally:
        leap.engine.step = step


@settings(max_examples=EXAMPLES)
@given(question=st.integers(0, len(QUESTIONS) - 1), seed=st.integers(0, 3), draft_tokens=st.sampled_from([0, 4, 8]),
       max_step_tokens=st.sampled_from([64, 2048]), pool=st.sampled_from([SMALL_POOL, LARGE_POOL]), batch=st.booleans(),
       steps=st.none() | st.integers(1, 260), config=st.sampled_from(LEAPS))
def test_tokens_are_the_same_whatever_the_steps(question, seed, draft_tokens, max_step_tokens, pool, batch, steps, config):
    """Would catch: a path that shares or not by how many steps its answer has taken when the others reach a block."""
    leap = generator(draft_tokens, max_step_tokens, pool)
    questions = [QUESTIONS[question], *([QUESTIONS[question - 1], QUESTIONS[question - 2]] if batch else [])]
    output = stopped_after(leap, steps if steps is not None else 1 << 30, questions, seed, config)[0]
    if not output.finished:
        output = leap.resume(output, leap=config)
    assert tokens(output) == alone(question, seed, config)
    assert leap.engine.pool.num_used == 0


@settings(max_examples=EXAMPLES)
@given(question=st.integers(0, len(QUESTIONS) - 1), seed=st.integers(0, 3), steps=st.integers(1, 200))
def test_a_stopped_run_resumes_to_the_same_tokens(question, seed, steps):
    """Would catch: a resumed path that comes to a block a step earlier or later than it did, and is counted otherwise."""
    leap = generator(4)
    output = stopped_after(leap, steps, [QUESTIONS[question]], seed)[0]
    if not output.finished:
        output = leap.resume(LeapOutput.from_dict(output.to_dict()))
    assert tokens(output) == alone(question, seed)


def test_a_path_that_is_answering_shares():
    """Would catch: a block that leaves out who has ended its thinking and is still writing its answer."""
    shared = 0
    for seed, question in itertools.product(range(2), QUESTIONS[:3]):
        for block, ended in blocks_and_ended(question, seed):
            assert ended <= set(block.summaries) and not ended & set(block.routes)
            shared += len(ended)
    assert shared > 0


def blocks_and_ended(question: str, seed: int):
    """Each block, and the paths that had ended their thinking by themselves before it."""
    output = generator().generate(question, PATHS, leap=LEAP, seed=seed)
    for block in output.blocks:
        yield block, {path.index for path in output.paths
                      if path.finish_reason in ("stop", "length")
                      and path.state["own_tokens"] <= (block.index + 1) * LEAP.interval and path.state["concluded"]}


@pytest.mark.skipif(EXAMPLES <= 2, reason="six processes; set LEAPGEN_EXAMPLES to more than 2")
def test_six_processes_make_one_result():
    script = ("import test_finished_share as t; "
              "print([t.tokens(o) for o in t.generator(4).generate(t.QUESTIONS[:4], t.PATHS, leap=t.LEAP)])")
    results = {subprocess.run([sys.executable, "-c", script], cwd=os.path.dirname(__file__), check=True, text=True,
                              capture_output=True).stdout for _ in range(6)}
    assert len(results) == 1
