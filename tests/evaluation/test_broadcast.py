"""Broadcast: paths are told which answers others have found, and nothing else."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from leap_run import LEAP, QUESTION, SAMPLING, generator

from leapgen import EngineConfig, LeapOutput, stopping
from leapgen.answers import normalize_answer
from leapgen.evaluation.arms import arm
from leapgen.evaluation.broadcast import Broadcast
from leapgen.tasks.loading import load_task
from leapgen.tasks.maze import Maze

N, SETTINGS = 6, LEAP.replace(max_new_tokens=60, min_new_tokens=40)


class Says:
    """Some paths state 7 or 8 after their second own token, which of them by their first; and some end at the 41st."""

    def __init__(self, leap):
        self.start = len(leap.prompt_token_ids(QUESTION, SETTINGS))
        self.end = leap.tokenizer.eos_token_id
        self.words = [leap.tokenizer.encode(f" \\boxed{{{answer}}}.", add_special_tokens=False) for answer in (7, 8)]

    def __call__(self, input_ids, scores):
        own = input_ids[0, self.start :].tolist()
        forced = None
        if own and own[0] % 3:
            words = self.words[own[0] % 3 - 1]
            forced = words[len(own) - 2] if 0 <= len(own) - 2 < len(words) else None
        if forced is not None:
            scores = torch.full_like(scores, -torch.inf)
            scores[0, forced] = 0.0
        return scores


def run(leap, /, seed=5, **options):
    options = {"protocol": Broadcast, "leap": SETTINGS, **options}
    sampling = SAMPLING.replace(logits_processors=(Says(leap),), top_k=None, top_p=1.0)
    return leap.generate(QUESTION, N, sampling=sampling, seed=seed, **options), sampling


@pytest.fixture(scope="module")
def leap():
    return generator(thinking=True)


@pytest.fixture(scope="module")
def whole(leap):
    return run(leap)[0]


def tokens(output):
    return [(path.token_ids, path.provenance, path.finish_reason) for path in output.paths]


def test_each_answer_of_others_is_told_once(whole):
    """Would catch: an answer told twice, one's own told back, words of a summary, a path told what nobody has said."""
    normal = [{reader: [block.summaries[route.peer].answer for route in routes] for reader, routes in block.routes.items()}
              for block in whole.blocks]
    assert len(normal) > 1
    for index in range(N):
        told = [answer for block in normal for answer in block.get(index, ())]
        assert len(set(told)) == len(told)
    stated = {sender: message.answer for sender, message in whole.blocks[0].summaries.items()}
    assert set(stated.values()) == {"7", "8"} and len(stated) < N, "the seed must make both answers, and silent paths"
    for path in whole.paths:
        routes = [route.peer for route in whole.blocks[0].routes[path.index]]
        answers = [stated[peer] for peer in routes]
        assert path.index not in routes and len(set(answers)) == len(answers)
        assert set(answers) == {answer for sender, answer in stated.items() if sender != path.index}
        read = next(segment for segment in path.segments if segment.kind == "comment" and segment.block == 0)
        assert read.text.count("Peer") == len(answers) == len(read.sources)
        assert all(f'"The answer is \\boxed{{{answer}}}."' in read.text for answer in answers)
        assert path.count("summary", "trigger") == 0


def test_who_has_ended_tells_its_answer(leap):
    """Would catch: an answer that is lost with the path that found it, or told or not by how fast it was written."""
    config = SETTINGS.replace(min_new_tokens=0, stop_strings=(".",))
    output = run(leap, leap=config, seed=6)[0]
    ended = {path.index: path.answer for path in output.paths if path.finish_reason == "stop_string" and path.answer}
    assert ended and any(block.routes for block in output.blocks)
    for block in output.blocks:
        told = {index: message.answer for index, message in block.summaries.items() if index in ended}
        assert told == {index: ended[index] for index in told}
        assert not set(ended) & set(block.routes) or block.index == 0


def test_a_guess_at_the_end_of_a_budget_is_not_told(leap):
    """Would catch: a path that ran out of budget early and whose forced answer is told as one that was found."""
    guess = leap.tokenizer.encode("9}", add_special_tokens=False)
    phrase = leap.tokenizer.encode("boxed{", add_special_tokens=False)

    def answer_nine(input_ids, scores):
        ids = input_ids[0].tolist()
        for count, token in enumerate(guess):
            if ids[len(ids) - count - len(phrase) : len(ids)] == [*phrase, *guess[:count]]:
                scores = torch.full_like(scores, -torch.inf)
                scores[0, token] = 0.0
        return scores

    sampling = SAMPLING.replace(logits_processors=(answer_nine,), top_k=None, top_p=1.0)
    output = leap.generate(QUESTION, 2, leap=SETTINGS, sampling=sampling, seed=5, protocol=Broadcast,
                           beginning=[list(range(30, 75)), None])
    assert (output.paths[0].finish_reason, output.paths[0].answer) == ("forced", "9")
    assert len(output.blocks) == 4 and not any(block.summaries for block in output.blocks)


def test_nobody_is_interrupted_where_nothing_is_found(leap):
    """Would catch: a comment about nothing, a cut for nothing."""
    alone = leap.generate(QUESTION, 2, leap=SETTINGS.replace(max_blocks=0), sampling=SAMPLING, seed=5)
    output = leap.generate(QUESTION, 2, leap=SETTINGS, sampling=SAMPLING, seed=5, protocol=Broadcast)
    assert tokens(output) == tokens(alone) and len(output.blocks) == 4 and output.ledger.discarded == 0


@pytest.mark.parametrize("engine", [{"draft_tokens": 4, "kv_cache_bytes": 1 << 18}, {"max_step_tokens": 7}])
def test_tokens_do_not_depend_on_the_steps(engine, whole):
    """Would catch: a protocol that goes by who was faster."""
    other = generator(thinking=True, engine=EngineConfig(**{"page_size": 4, "kv_cache_bytes": 1 << 25, **engine}))
    assert tokens(run(other)[0]) == tokens(whole)
    assert other.engine.pool.num_used == 0


@pytest.mark.parametrize("begun", [None, list(range(30, 47))])
@pytest.mark.parametrize("stop", [1, 40, 110, 180])
def test_a_stopped_run_resumes_to_the_same_tokens(stop, begun, leap):
    """Would catch: a block held twice, or an interval too late."""
    beginning = [begun, None] * (N // 2)
    whole = run(leap, beginning=beginning)[0]
    part, sampling = run(leap, beginning=beginning, until=stopping.token_limit(stop))
    assert not part.finished
    part = LeapOutput.from_dict(json.loads(json.dumps(part.to_dict())))
    assert tokens(leap.resume(part, protocol=Broadcast, sampling=sampling)) == tokens(whole)


def test_how_an_answer_is_told_can_be_said(leap):
    """Would catch: a wording that is not asked for, or that changes which answers are the same."""
    output = run(leap, protocol=partial(Broadcast, told="found: {}".format))[0]
    assert any('"found: 7"' in path.text for path in output.paths)
    assert all(normalize_answer(message.answer) == message.answer for message in output.blocks[0].summaries.values())


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"protocol": partial(Broadcast, told="found it")}, TypeError, "told must be a function"),
    ({"leap": SETTINGS.replace(blocks=(0,), paths_after=1)}, ValueError, "paths_after=1 is not allowed in a broadcast"),
    ({"leap": SETTINGS.replace(interval=60)}, ValueError, "no LeaP block would be held")])
def test_what_cannot_be_told_is_refused_before_any_work(leap, options, error, message):
    """Would catch: settings that do nothing, and an error in the first block."""
    with pytest.raises(error, match=message):
        run(leap, **options)


def test_the_arm_tells_in_the_tasks_words():
    """Would catch: a model that is told in words it does not know, a route that is none told as one, a misspelled arm."""
    task = load_task("maze", problems=1)
    problem, one = task.problems[0], arm("broadcast")
    assert one.prepare and one.leap == {} and one.after == ()
    told = one.prepare(SimpleNamespace(task=task), problem, 0)["protocol"].keywords["told"]
    maze = Maze.parse(problem.question)
    assert told(problem.answer) == f"found the way: {' '.join(map(maze.label, maze.solution[1:3]))}."
    assert told(", ".join(maze.solution)) == told(problem.answer)
    for wrong in ("", maze.start, maze.exit, "nowhere", " ".join(reversed(maze.solution))):
        assert told(wrong) == f"The answer is \\boxed{{{wrong}}}."
    with pytest.raises(ValueError, match=r"no arm 'brodcast' \(did you mean broadcast"):
        arm("brodcast")
