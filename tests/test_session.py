"""One generator, many callers: runs side by side, from one thread or several, each as if it were alone."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from itertools import islice

import pytest
from leap_run import LEAP, QUESTION, SAMPLING, generator

from leapgen import BlockEvent, FinishEvent, GenerationFailed, GenerationInterrupted, LeapOutput, OutputEvent, stopping

QUESTIONS = [QUESTION, "Name a prime.", "What is 7 * 8? Explain.", "Is 91 a prime?", "Count to ten."]
SETTINGS = {"n": 3, "leap": LEAP, "sampling": SAMPLING}
SHORT = {"n": 2, "leap": LEAP.replace(interval=6, max_new_tokens=10, summary_tokens=4), "sampling": SAMPLING}  # one block


def tokens(output: LeapOutput) -> list[list[int]]:
    return [path.token_ids for path in output.paths]


@pytest.fixture(scope="module")
def alone() -> dict[str, list[list[int]]]:
    leap = generator()
    return {question: tokens(leap.generate(question, seed=7, **SETTINGS)) for question in QUESTIONS}


@pytest.fixture
def leap():
    leap = generator()
    yield leap
    leap.engine.check_integrity()
    assert leap.engine.pool.num_used == 0 and not leap.engine.has_work


def outputs_of(events) -> list[LeapOutput]:
    return [event.output for event in events if isinstance(event, OutputEvent)]


def test_eight_threads_get_the_tokens_of_each_alone(leap):
    """Would catch: two threads in one step (a crash), events handed to another thread's run, a thread that waits forever."""
    results, barrier = {}, threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait()
        order = QUESTIONS[thread % 5 :] + QUESTIONS[: thread % 5]
        results[thread] = {question: leap.generate(question, seed=7, **SHORT) for question in order}

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    expected = {question: tokens(generator().generate(question, seed=7, **SHORT)) for question in QUESTIONS}
    for outputs in results.values():
        assert {question: tokens(output) for question, output in outputs.items()} == expected
        assert all(output.finished for output in outputs.values())


@pytest.mark.parametrize("first", [1, 3])
def test_interleaved_streams_get_the_tokens_of_each_alone(leap, alone, first):
    """Would catch: one stream's events that move the other's paths; log-probabilities of the other's rows."""
    one, other = (leap.stream(question, seed=7, **SETTINGS) for question in QUESTIONS[:2])
    events = {one: [], other: []}
    while True:
        before = len(events[one]) + len(events[other])
        for run, count in ((one, first), (other, 2)):
            events[run] += islice(run, count)
        if len(events[one]) + len(events[other]) == before:
            break
    assert tokens(outputs_of(events[one])[0]) == alone[QUESTIONS[0]]
    assert tokens(outputs_of(events[other])[0]) == alone[QUESTIONS[1]]
    assert {event.question for run in events.values() for event in run} == {0}


def test_a_generate_inside_a_streams_loop_works(leap, alone):
    """Would catch: a nested call that closes the outer run's paths or takes its events."""
    inner, outer = [], []
    for event in leap.stream(QUESTIONS[0], seed=7, **SETTINGS):
        outer.append(event)
        if isinstance(event, BlockEvent):
            inner.append(leap.generate(QUESTIONS[1], seed=7, **SETTINGS))
    assert len(inner) == 2 and all(tokens(output) == alone[QUESTIONS[1]] for output in inner)
    assert tokens(outputs_of(outer)[0]) == alone[QUESTIONS[0]]


def test_a_generate_inside_a_step_is_refused_in_words(leap):
    """Would catch: a step inside a step, or a thread that waits for itself."""
    def similarity(a: str, b: str) -> float:
        return float(len(leap.generate("Hm?", **SETTINGS).paths))

    with pytest.raises(GenerationFailed, match="in the middle of a step"):
        leap.generate(QUESTION, n=3, leap=LEAP.replace(similarity=similarity), sampling=SAMPLING)


def test_one_runs_error_leaves_the_others_alone(leap, alone):
    """Would catch: a user's callable that ends somebody else's run."""
    def broken(a: str, b: str) -> float:
        raise ZeroDivisionError("user code")

    bad = leap.stream("Hm?", n=2, leap=LEAP.replace(similarity=broken), sampling=SAMPLING)
    good = leap.stream(QUESTION, seed=7, **SETTINGS)
    events = []
    with pytest.raises(GenerationFailed, match="user code") as caught:
        while True:
            next(bad)
            events.append(next(good))
    assert all(path.count("own") for path in caught.value.outputs[0].paths)
    assert tokens(outputs_of([*events, *good])[0]) == alone[QUESTION]
    assert list(bad) == []


def nan_after(length: int):
    def processor(input_ids, scores):
        return scores if input_ids.shape[1] < length else scores * float("nan")

    return processor


def raising_after(length: int):
    def processor(input_ids, scores):
        if input_ids.shape[1] >= length:
            raise ZeroDivisionError("user code")
        return scores

    return processor


@pytest.mark.parametrize("fault", [nan_after, raising_after])
def test_an_error_in_a_step_ends_the_run_it_concerns(leap, alone, fault):
    """Would catch: NaN in one path's logits, or a processor that raises, that ends everybody's runs."""
    length = len(leap.prompt_token_ids("Hm?", LEAP)) + 10
    sampling = SAMPLING.replace(logits_processors=(fault(length),))
    bad = leap.stream("Hm?", n=2, leap=LEAP, sampling=sampling)
    good = leap.stream(QUESTION, seed=7, **SETTINGS)
    events = [next(good)]
    with pytest.raises(GenerationFailed, match=r"user code|no token to draw"):
        list(bad)
    assert tokens(outputs_of([*events, *good])[0]) == alone[QUESTION]


def test_a_run_that_nobody_holds_any_more_is_closed(leap):
    """Would catch: pages kept for a stream whose loop was left by a break or an error."""
    for event in leap.stream(QUESTION, **SETTINGS):
        if isinstance(event, BlockEvent):
            break
    gc.collect()
    leap.engine.check_integrity()
    assert leap.engine.pool.num_used == 0


def test_closed_runs_give_no_events_and_can_be_closed_again(leap):
    run = leap.stream(QUESTION, **SETTINGS)
    next(run)
    run.close()
    run.close()
    assert list(run) == [] and leap.engine.pool.num_used == 0
    unused = leap.stream(QUESTION, **SETTINGS)
    unused.close()
    assert list(unused) == []
    with leap.stream(QUESTION, **SETTINGS) as run:
        next(run)
    assert leap.engine.pool.num_used == 0


def test_the_model_is_in_its_own_mode_again_once_all_runs_have_ended(leap):
    """Would catch: a model left in eval mode, or put back into training mode while another run goes on."""
    leap.model.train()
    try:
        one, other = (leap.stream(question, seed=7, **SETTINGS) for question in QUESTIONS[:2])
        next(one), next(other)
        assert not leap.model.training
        one.close()
        assert not leap.model.training
        list(other)
        assert leap.model.training
    finally:
        leap.model.eval()


# -- one thread that serves many --------------------------------------------------------------------------------------------


def test_a_thread_that_steps_for_all_gets_the_tokens_of_each_alone(leap, alone):
    """Would catch: runs that move only when they are asked for events; a run that begins in the middle and disturbs."""
    runs, events = [leap.stream(question, seed=7, **SETTINGS) for question in QUESTIONS[:3]], [[], [], []]
    assert not leap.step() and all(run.take() == [] for run in runs)
    for steps, run in enumerate(runs):
        run.begin()
        run.begin()  # nothing more happens
        for _ in range(9 * steps):
            assert leap.step()
            for got, one in zip(events, runs, strict=True):
                got += one.take()
    while leap.step():
        for got, one in zip(events, runs, strict=True):
            got += one.take()
    assert all(run.ended and run.take() == [] for run in runs)
    for question, got in zip(QUESTIONS, events, strict=False):
        assert tokens(outputs_of(got)[0]) == alone[question]


def test_an_error_is_taken_once_after_the_events_before_it(leap):
    """Would catch: an error that hides what came before it, or one that a server never hears of."""
    length = len(leap.prompt_token_ids("Hm?", LEAP)) + 10
    run = leap.stream("Hm?", n=2, leap=LEAP, sampling=SAMPLING.replace(logits_processors=(nan_after(length),)))
    run.begin()
    events = []
    while leap.step():
        events += run.take()
    assert isinstance(events[-1], OutputEvent) and not run.ended
    with pytest.raises(GenerationFailed, match="no token to draw"):
        run.take()
    assert run.ended and run.take() == []


def test_runs_that_other_threads_close_leave_no_page(leap, alone):
    """Would catch: a run closed at the moment it enters the engine, whose paths stay there for good."""
    stop, kept = threading.Event(), leap.stream(QUESTIONS[0], seed=7, **SETTINGS)
    kept.begin()

    def step() -> None:
        while not stop.is_set():
            leap.step()

    stepping = threading.Thread(target=step)
    stepping.start()
    for turn in range(60):
        run = leap.stream(QUESTIONS[1], seed=turn, **SHORT)
        beginning, closing = threading.Thread(target=run.begin), threading.Thread(target=run.close)
        for thread in (beginning, closing) if turn % 2 else (closing, beginning):
            thread.start()
        for thread in (beginning, closing):
            thread.join()
        assert run.ended and run.take() == []
    while not kept._job.ended:
        time.sleep(0.001)
    stop.set()
    stepping.join()
    assert tokens(outputs_of(kept.take())[0]) == alone[QUESTIONS[0]]


def test_a_run_knows_how_many_positions_it_may_come_to_hold(leap):
    """Would catch: an estimate that a run exceeds, so that a server lets in more than the pool holds."""
    for config in (LEAP, LEAP.replace(max_blocks=0)):
        run = leap.stream(QUESTION, n=3, leap=config, sampling=SAMPLING, seed=7)
        most, prompt = run.most_positions, len(leap.prompt_token_ids(QUESTION, config))
        (output,) = (event.output for event in run if isinstance(event, OutputEvent))
        held = prompt + sum(len(path.token_ids) - prompt for path in output.paths)
        sources = [source for path in output.paths for segment in path.segments for source in segment.sources]
        read = sum(source.end - source.start for source in sources)
        sampled = sum(output.blocks[source.block].summaries[source.sender].num_tokens for source in sources)
        assert held - read + sampled <= most < 2 * held
        assert bool(sources) == config.communicates


# -- stopping ---------------------------------------------------------------------------------------------------------------


def test_a_stopped_run_keeps_what_there_is_and_can_be_resumed(leap, alone):
    """Would catch: outputs lost with the run, paths called finished that are not."""
    run, events = leap.stream(QUESTION, seed=7, **SETTINGS), []
    for event in run:
        events.append(event)
        if isinstance(event, BlockEvent):
            run.stop()
    output = outputs_of(events)[0]
    assert not output.finished and len(output.blocks) == 1
    assert {path.finish_reason for path in output.paths} == {"stopped"}
    assert leap.engine.pool.num_used == 0
    assert tokens(leap.resume(output)) == alone[QUESTION]


@pytest.mark.parametrize(("until", "least", "most"), [
    (stopping.token_limit(40), 40, 46), (lambda progress: progress.blocks == 1, 36, 90), (stopping.time_limit(0), 1, 6),
    (stopping.any_of(stopping.time_limit(1e9), stopping.token_limit(40)), 40, 46)])
def test_a_condition_stops_each_question_by_itself(leap, until, least, most):
    """Would catch: a condition asked only at the end, or one question's that ends the others."""
    outputs = leap.generate(QUESTIONS[:2], until=until, **SETTINGS)
    assert all(not output.finished and least <= output.ledger.decoded <= most for output in outputs)


def test_consensus_counts_votes_among_all_paths():
    """Would catch: a vote of the first path to end; answers that differ by spelling only counted apart."""
    def progress(*answers, paths=4):
        return stopping.Progress(1.0, 9, 0, list(answers), paths)

    reached = stopping.consensus(0.5)
    assert not reached(progress("42")) and not reached(progress("42", "42")) and not reached(progress("1", "2", None))
    assert reached(progress("42", "$42$", "042")) and reached(progress("7", paths=1))
    for share in (0, 1, 50):
        with pytest.raises(ValueError, match="share"):
            stopping.consensus(share)


def test_outputs_can_be_read_at_any_time(leap, alone):
    """Would catch: a snapshot that goes on changing, or that cannot be resumed."""
    run = leap.stream(QUESTION, seed=7, **SETTINGS)
    for event in run:
        if isinstance(event, FinishEvent):
            break
        snapshot = run.outputs()[0].to_dict()
    part = LeapOutput.from_dict(snapshot)
    list(run)
    assert part.to_dict() == snapshot and not part.finished
    assert tokens(leap.resume(part)) == alone[QUESTION]


def test_the_callback_sees_every_event(leap):
    """Would catch: a callback that misses what comes last."""
    seen = []
    output = leap.generate(QUESTION, seed=7, callback=seen.append, progress=True, **SETTINGS)
    *streamed, last = leap.stream(QUESTION, seed=7, **SETTINGS)
    assert seen[:-1] == streamed and type(seen[-1]) is type(last) is OutputEvent and seen[-1].output is output


# -- signals ----------------------------------------------------------------------------------------------------------------


def test_a_signal_is_heard_between_two_steps(leap, alone):
    """Would catch: Ctrl-C inside a step, which leaves a path with a token and no log-probability, and other runs lost."""
    other = leap.stream(QUESTIONS[1], seed=7, **SETTINGS)
    next(other)
    step, count = leap.engine.step, iter(range(30))

    def signalled_step():
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return step()

    leap.engine.step = signalled_step
    with pytest.raises(GenerationInterrupted) as caught:
        leap.generate(QUESTION, seed=7, **SETTINGS)
    leap.engine.step = step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert tokens(leap.resume(caught.value.outputs[0])) == alone[QUESTION]
    assert tokens(outputs_of(other)[0]) == alone[QUESTIONS[1]], "a run beside the interrupted one goes on"


def test_a_second_signal_does_not_wait(leap):
    """Would catch: a step that hangs, and Ctrl-C that nobody hears."""
    def hanging_step():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    step, leap.engine.step = leap.engine.step, hanging_step
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        leap.generate(QUESTION, seed=7, **SETTINGS)
    leap.engine.step = step
    assert time.monotonic() - began < 30


# -- checkpoints ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_there_from_the_start_and_moves_with_every_block(leap, alone, tmp_path):
    """Would catch: nothing on disk until the end; a file that resumes to other tokens."""
    file, states = tmp_path / "run.json", []

    def look(event) -> None:
        part = LeapOutput.load(file)
        if not states or len(part.blocks) > len(states[-1].blocks):
            states.append(part)

    output = leap.generate(QUESTION, seed=7, checkpoint=file, callback=look, **SETTINGS)
    assert [len(part.blocks) for part in states] == [0, 1, 2]
    assert LeapOutput.load(file) == output and output.finished
    for part in states:
        assert tokens(leap.resume(part)) == alone[QUESTION]


def test_several_questions_have_a_file_each(leap, alone, tmp_path):
    """Would catch: one file that every question overwrites."""
    leap.generate(QUESTIONS[:2], seed=7, checkpoint=tmp_path / "runs", **SETTINGS)
    for i in range(2):
        assert tokens(LeapOutput.load(tmp_path / "runs" / f"{i}.json")) == alone[QUESTIONS[i]]
    with pytest.raises(ValueError, match="must be a file"):
        leap.generate(QUESTION, checkpoint=tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match="must be a folder"):
        leap.generate(QUESTIONS[:2], checkpoint=tmp_path / "runs" / "0.json", **SETTINGS)
    with pytest.raises(ValueError, match="does not exist"):
        leap.generate(QUESTION, checkpoint=tmp_path / "none" / "run.json", **SETTINGS)
