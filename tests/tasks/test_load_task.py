"""Tasks by name: problem files, mazes, and what is refused. Named benchmarks and the gym have files of their own."""

import json
import subprocess
import sys

import pytest

from leapgen.config import LeapConfig
from leapgen.tasks import Problem, load_task
from leapgen.tasks.maze import MAZE_SHAPE, Shape, make_maze
from leapgen.tasks.problems import load_problems


def written(file, entries, heading=None):
    lines = ([heading] if heading else []) + entries
    file.write_text("\n".join(map(json.dumps, lines)))
    return str(file)


PROBLEMS = [{"problem": f"{i} + {i}?", "answer": 2 * i} for i in range(5)]


class TestFiles:
    def test_a_task_of_a_file_has_its_problems_and_says_which_file_it_was(self, tmp_path):
        task = load_task(written(tmp_path / "sums.jsonl", PROBLEMS))
        assert [problem.question for problem in task.problems] == [entry["problem"] for entry in PROBLEMS]
        assert task.source["file"] == "sums.jsonl" and len(task.source["sha256"]) == 64 and task.leap == {}
        assert task.grade(task.problems[2], "$4$") and not task.grade(task.problems[2], "5")
        assert not task.grade(task.problems[2], None)

    def test_a_part_of_a_file_keeps_the_ids_of_the_whole(self, tmp_path):
        """Would catch: ids counted anew, with which a study's seeds would change with ``first``."""
        file = written(tmp_path / "sums.jsonl", PROBLEMS)
        assert [p.id for p in load_task(file, first=1, problems=3).problems] == ["1", "2", "3"]
        assert [p.id for p in load_task(file, first=3).problems] == ["3", "4"]

    @pytest.mark.parametrize("form", ["lines", "object"])
    def test_a_file_names_its_grader_once_and_a_problem_another(self, tmp_path, form):
        entries = [{"problem": "a?", "answer": "B", "id": "x"}, {"problem": "b?", "answer": "4", "grader": "exact"}]
        if form == "lines":
            file = written(tmp_path / "file.jsonl", entries, {"grader": "choice"})
        else:
            (tmp_path / "file.json").write_text(json.dumps({"grader": "choice", "problems": entries}, indent=1))
            file = tmp_path / "file.json"
        problems = load_problems(file)
        assert [problem.grader for problem in problems] == ["choice", "exact"]
        assert [problem.id for problem in problems] == ["x", "1"]
        assert problems[0].is_solved_by(r"\text{(B)}") and not problems[0].is_solved_by("A")

    @pytest.mark.parametrize(("text", "message"), [
        ('{"grader": "mth"}\n{"problem": "x", "answer": "1"}', "line 1.*'mth'.*math"),
        ('{"problem": "x", "answer": "1", "grader": "mth"}', "line 1.*'mth'.*math"),
        ('{"problem": "x", "answer": "1", "grader": 3}', "line 1.*'grader'"),
        ('{"problems": 3, "grader": "math"}', "'problems', a list"),
        ('{"problems": [], "graders": "math"}', "'problems', a list.*'graders'"),
        ('{"problems": [], "grader": "exact"}', "no problems"),
        ('{"grader": "exact"}', "no problems"),
    ])
    def test_what_is_wrong_with_a_grader_is_named(self, tmp_path, text, message):
        (tmp_path / "file").write_text(text)
        with pytest.raises(ValueError, match=f"(?s)file.*{message}"):
            load_problems(tmp_path / "file")

    def test_details_do_not_tell_problems_apart(self):
        """Would catch: details in a comparison or a hash, which fails for a dictionary."""
        plain = Problem("1", "q", "a")
        assert plain == Problem("1", "q", "a", details={"index": 3}) and hash(plain) == hash(Problem("1", "q", "a"))


class TestMaze:
    def test_mazes_are_those_of_the_evidence_whatever_the_seed(self):
        """Would catch: other mazes than in examples/evidence, so that figures could not be compared."""
        task = load_task("maze", problems=2, first=7, seed=3)
        mazes = [make_maze(f"held-out/{i}", MAZE_SHAPE) for i in (7, 8)]
        assert [problem.question for problem in task.problems] == [maze.question for maze in mazes]
        assert [problem.id for problem in task.problems] == ["held-out/7", "held-out/8"]
        for problem, maze in zip(task.problems, mazes, strict=True):
            assert task.grade(problem, " ".join(maze.solution)) and task.grade(problem, ", ".join(maze.solution))
            assert not task.grade(problem, "".join(maze.solution)) and not task.grade(problem, None)
            assert not task.grade(problem, " ".join(maze.solution[:-1]))
        assert len(load_task("maze").problems) == 100

    def test_the_shape_is_the_demos_with_what_the_name_changes(self):
        task = load_task("maze?doors=3&length=1", problems=1)
        assert task.problems[0].question == make_maze("held-out/0", Shape(3, MAZE_SHAPE.corridors, 1)).question
        assert task.source["maze"] == {"doors": 3, "corridors": MAZE_SHAPE.corridors, "length": 1}
        LeapConfig(**task.leap)

    def test_words_are_the_rooms_a_summary_speaks_of(self):
        task = load_task("maze", problems=1)
        assert task.words.sub("*", " dead ends: ant 2 and moss; found.") == " dead ends: * 2 and *; found."

    def test_a_vote_goes_by_rooms(self):
        task = load_task("maze", problems=1)
        assert task.groups(task.problems[0], ["ant ape", "bee", "ant, ape", "antape"]) == [[0, 2], [1], [3]]

    @pytest.mark.parametrize(("name", "message"), [
        ("maze?door=3", "no field 'door'.*doors.*Fields: doors, corridors, length"),
        ("maze?doors=many", "doors='many'.*int"),
        ("maze?doors=0", "doors=0"),
        ("maze?doors", "field=value"),
        ("maze?doors=3&doors=4", "each field once"),
        ("maze?doors=90&corridors=90", "cannot be named"),
    ])
    def test_settings_that_are_not_allowed_are_named(self, name, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            load_task(name, problems=1)


class TestRefused:
    @pytest.mark.parametrize(("name", "kind", "message"), [
        ("aime2024", ValueError, "no task 'aime2024'.*aime24.*Tasks: maze, gym:NAME.*or a file"),
        ("mazes", ValueError, "did you mean maze"),
        ("gym", ValueError, "gym:NAME"),
        ("", ValueError, "no task"),
    ])
    def test_an_unknown_name_is_told_with_the_nearest(self, name, kind, message):
        with pytest.raises(kind, match=f"(?s){message}"):
            load_task(name)

    def test_a_missing_file_is_told_with_the_nearest_beside_it(self, tmp_path):
        written(tmp_path / "problems.jsonl", PROBLEMS)
        with pytest.raises(FileNotFoundError, match=r"problms\.jsonl: there is no such file.*problems\.jsonl"):
            load_task(tmp_path / "problms.jsonl")

    @pytest.mark.parametrize(("options", "message"), [
        ({"problems": 6}, "has 5 problems; problems=6"),
        ({"problems": 3, "first": 3}, "has 5 problems.*first=3"),
        ({"first": 5}, "has 5 problems"),
        ({"first": -1}, "first=-1"),
        ({"problems": 0}, "problems=0"),
        ({"problems": True}, "problems=True"),
        ({"seed": "x"}, "seed='x'"),
    ])
    def test_more_than_there_is_and_numbers_that_are_none_are_refused(self, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            load_task(written(tmp_path / "sums.jsonl", PROBLEMS), **options)

    def test_an_empty_file_is_refused(self, tmp_path):
        (tmp_path / "empty.jsonl").write_text("\n")
        with pytest.raises(ValueError, match=r"empty\.jsonl has no problems"):
            load_task(tmp_path / "empty.jsonl")


def test_tasks_cost_no_heavy_import():
    """Would catch: torch, datasets or reasoning_gym imported with leapgen.tasks, or a gym in the caller's own process."""
    code = ("import sys; from leapgen.tasks import load_task; load_task('maze', problems=1);"
            "print([name for name in ('torch', 'transformers', 'datasets', 'reasoning_gym') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
