"""Tasks of reasoning-gym: made alike in every process, graded by the gym's full score, safe from what an answer says.

``LEAPGEN_ALL_GYM=1`` takes every dataset instead of a sample (minutes).
"""

import os
import re
from threading import Thread

import pytest

from leapgen.tasks import load_task
from leapgen.tasks.gym.process import GymProcess
from leapgen.tasks.gym.task import EVALUATED, LENIENT, is_close, is_expression, plain

factory = pytest.importorskip("reasoning_gym.factory")

ALL = sorted(set(factory.DATASETS) - {"composite"})  # which is made of others
SAMPLE = ["coin_flip", "game_of_life_halting", "puzzle24", "rush_hour", "word_ladder"]
SEVERAL = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}  # for which the gym names no answer


@pytest.mark.parametrize("gym", ALL if os.environ.get("LEAPGEN_ALL_GYM") else SAMPLE)
def test_a_dataset_is_the_gyms_and_only_its_full_score_is_right(gym):
    """Would catch: other problems in another process, a wrong answer's score of 0.01 that counts, an answer that is no text,
    a scorer that takes everything."""
    task = load_task(f"gym:{gym}", problems=2, first=1, seed=7)
    again = load_task(f"gym:{gym}", problems=3, seed=7)
    assert list(task.problems) == list(again.problems[1:])
    for problem, other in zip(task.problems, task.problems[::-1], strict=True):
        assert problem.question.strip() and problem.id.startswith(f"{gym}/7/")
        assert task.grade(problem, problem.answer) == (gym not in SEVERAL)
        for wrong in {"", "no", "-87654321", "[]", "0", other.answer} - {problem.answer, problem.answer.removesuffix(".0")}:
            assert not task.grade(problem, wrong), wrong
        assert not task.grade(problem, None)


@pytest.fixture(scope="module")
def sums():
    return load_task("gym:chain_sum", problems=2, seed=3)


@pytest.fixture(scope="module")
def countdown():
    return load_task('gym:countdown?min_numbers=3&max_numbers=3&operators=["+","*"]', problems=3, seed=3)


class TestGrading:
    def test_what_a_box_asks_for_is_no_part_of_the_answer(self, sums):
        answer = sums.problems[0].answer
        for dressed in (f"${answer}$", rf"\text{{{answer}}}", f" {answer} ", rf"$\mathrm{{{answer}}}$"):
            assert sums.grade(sums.problems[0], dressed), dressed
        assert plain(r"\frac{1}{2}") == r"\frac{1}{2}" and plain(r"\text{a} and \text{b}") == r"\text{a} and \text{b}"

    def test_any_solution_counts_not_only_the_gyms(self, countdown):
        """Would catch: a comparison with the one answer that the gym gives."""
        problem = countdown.problems[0]
        assert countdown.grade(problem, f"(({problem.answer}))") and not countdown.grade(problem, f"({problem.answer}) * 1")

    def test_a_vote_goes_by_words(self, sums):
        assert sums.groups(sums.problems[0], ["12", "$12$", "1 2", "12 ", "1  2", "x"]) == [[0, 1, 3], [2, 4], [5]]

    def test_a_problem_knows_no_grader_but_its_task(self, sums):
        """Would catch: a gym's problem graded by spelling where somebody forgets the task."""
        with pytest.raises(ValueError, match="gym"):
            sums.problems[0].is_solved_by("1")

    def test_settings_reach_the_dataset(self, countdown):
        assert all(re.sub(r"[^-+*/]", "", problem.answer) in ("++", "+*", "*+", "**") for problem in countdown.problems)
        assert countdown.source["settings"] == {"min_numbers": 3, "max_numbers": 3, "operators": ["+", "*"]}

    @pytest.mark.parametrize(("expected", "answer", "close"), [
        ("0.65625", "21/32", True), ("0.65625", "0.65625", True), ("0.65625", "0", False), ("0.65625", "0.65", False),
        ("0.5", "1/0", False), ("0.5", "1e999999999", False), ("0.5", "..", False), ("0.5", "half", False),
    ])
    def test_a_probability_is_a_number_near_the_gyms(self, expected, answer, close):
        """Would catch: 0 for 0.65625, which the gym takes for right; a number that takes for ever to write down."""
        assert is_close(expected, answer) == close


class TestHostile:
    @pytest.mark.parametrize("answer", [
        "__import__('os').system('touch {}')", "open('{}', 'w')", "(open)('{}', 'w')", "[open][0]('{}', 'w')",
        "(open #\n('{}', 'w'))", "eval(chr(111))", "().__class__", "x.y", "(lambda: 0)()", "print \\\n(1)",
        "ｏpen('{}', 'w')",
    ])
    def test_an_answer_is_not_run(self, answer, countdown, tmp_path):
        """Would catch: eval of a model's words: nine of the gym's scorers do it."""
        answer = answer.replace("{}", str(tmp_path / "there"))
        assert not is_expression(answer) and not countdown.grade(countdown.problems[0], answer)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("answer", ["(3 + 4) * 5 / 2 - 1", "[['a', 'b'], [\"c\", 1]]", "x**3/3 + sin(2*x) + C",
                                        "0 1\n1 0", "exp(x)*(x - 1)", "_ Q\nQ _"])
    def test_what_is_to_be_evaluated_is(self, answer):
        assert is_expression(answer)

    def test_an_answer_takes_a_bounded_time_also_in_a_thread(self, monkeypatch, countdown):
        """Would catch: a hang, or a limit by signals, which works in the main thread alone."""
        monkeypatch.setattr("leapgen.tasks.gym.process.SECONDS", 1.0)
        problem, verdicts = countdown.problems[0], []
        hostile = ["10**10**10", "9" * 5000 + "**" + "9" * 5000, "(" * 10_000, "[[0]*10**9]*10**9"]
        thread = Thread(target=lambda: verdicts.extend(countdown.grade(problem, answer) for answer in hostile), daemon=True)
        thread.start()
        thread.join(60)
        assert verdicts == [False] * 4
        assert countdown.grade(problem, problem.answer)  # by a new process, if need be

    def test_a_process_that_was_killed_is_started_anew(self, sums):
        """Would catch: every later answer wrong after one that broke the gym, or an exception in the middle of a study."""
        sums.gym._process.kill()
        assert not sums.grade(sums.problems[0], "no") and sums.grade(sums.problems[1], sums.problems[1].answer)


class TestRefused:
    @pytest.mark.parametrize(("name", "message"), [
        ("gym:coutdown", "no task 'coutdown'.*did you mean countdown.*chain_sum"),
        ("gym:countdown?min_number=3", "no field 'min_number'.*min_numbers.*Fields:"),
        ("gym:countdown?min_numbers=three", "min_numbers='three'.*int"),
        ("gym:countdown?min_numbers=7&max_numbers=3", "max_numbers must be"),
        ("gym:composite?seed=3", "seed cannot be set here"),
    ])
    def test_what_is_not_there_is_told_with_the_nearest(self, name, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            load_task(name, problems=1)

    def test_without_reasoning_gym_it_is_said_how_to_get_it(self, monkeypatch):
        monkeypatch.setattr("leapgen.tasks.gym.task.find_spec", lambda name: None)
        with pytest.raises(ModuleNotFoundError, match=r"leapgen\[gym\]"):
            load_task("gym:countdown")

    def test_datasets_that_are_treated_apart_are_there(self):
        """Would catch: a name that the gym no longer has."""
        assert {*EVALUATED, *LENIENT} <= set(ALL)


def test_a_process_ends_with_its_task():
    gym = GymProcess(name="gym:chain_sum", gym="chain_sum", settings={}, seed=0, size=1)
    gym.open()
    process = gym._process
    del gym
    assert process.poll() is not None
