"""Benchmarks by name: files on the disk, and ``datasets`` with a folder in place of the hub. Nothing is downloaded."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from leapgen.tasks import load_task
from leapgen.tasks.benchmarks import BENCHMARKS
from leapgen.tasks.choices import choice_problem

GPQA = [{"Record ID": f"rec{i}", "Question": f"Which one is {i}?", "Correct Answer": f"right {i}\n",
         **{f"Incorrect Answer {k}": f"wrong {i}.{k}" for k in (1, 2, 3)}} for i in range(12)]
ZEBRA = [{"id": f"lgp-test-2x2-{i}#mc-0", "puzzle": "Two houses.", "question": "Who lives in House 1?",
          "choices": ["Arnold", "Eric"], "answer": ("Arnold", "Eric")[i % 2]} for i in range(4)]
MATHS = [{"problem": "Halve one.", "answer": r"\frac{1}{2}", "unique_id": "test/algebra/1.json"},
         {"problem": "Twice two?", "answer": "4", "unique_id": "test/algebra/2.json"}]
AIME = [{"id": 60 + i, "problem": f"Find {i}.", "answer": f"{i:03}", "solution": "", "year": "2024"} for i in range(3)]


def lines(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)))


class TestFiles:
    @pytest.mark.parametrize(("name", "file"), [("aime24", "aime.json"), ("aime24", "aime24.jsonl"), ("aimo25", "aimo.json"),
                                                ("aime25", "aime_2025.json"), ("math500", "math500.json")])
    def test_a_file_goes_before_the_hub_under_the_published_names_too(self, tmp_path, name, file):
        (tmp_path / file).write_text(json.dumps([{"problem": "6 * 7?", "answer": 42}]))
        task = load_task(name, data=tmp_path)
        assert (task.name, task.problems[0].answer, task.problems[0].grader) == (name, "42", "math")
        assert task.source["file"] == file and task.grade(task.problems[0], "042")

    def test_the_folder_may_come_from_the_environment(self, tmp_path, monkeypatch):
        (tmp_path / "aimo.json").write_text(json.dumps([{"id": "a", "problem": "6 * 7?", "answer": 42}]))
        monkeypatch.setenv("LEAPGEN_DATA", str(tmp_path))
        assert load_task("aimo25").problems[0].id == "a"

    def test_columns_may_be_capitalised_as_in_other_copies(self, tmp_path):
        (tmp_path / "aime24.csv").write_text("ID,Problem,Solution,Answer\n2024-II-4,\"Find, x\",,33\n")
        (problem,) = load_task("aime24", data=tmp_path).problems
        assert (problem.id, problem.question, problem.answer) == ("2024-II-4", "Find, x", "33")

    def test_a_parquet_file_is_read(self, tmp_path):
        parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.Table.from_pylist(ZEBRA), tmp_path / "zebralogic.parquet")
        assert len(load_task("zebralogic", data=tmp_path).problems) == 4

    @pytest.mark.parametrize(("name", "rows", "message"), [
        ("aime24", [{"problem": "x"}], "aime24.jsonl, line 1.*'answer'"),
        ("aime24", [3], "aime24.jsonl, line 1.*'problem' and 'answer'"),
        ("gpqa-diamond", [{**GPQA[0], "Incorrect Answer 2": None}], "gpqa-diamond.jsonl, line 1.*choices"),
        ("gpqa-diamond", [{"problem": "x", "answer": "A"}], "gpqa-diamond.jsonl, line 1.*choices"),
        ("zebralogic", [{**ZEBRA[0], "answer": "___"}], "masked.*WildEval/ZebraLogic"),
        ("zebralogic", [{**ZEBRA[0], "answer": "Bob"}], "'choices'"),
        ("math500", [MATHS[0], MATHS[0]], "same id"),
        ("math500", [], "no problems"),
    ])
    def test_a_malformed_row_is_named(self, tmp_path, name, rows, message):
        lines(tmp_path / f"{BENCHMARKS[name].files[0]}.jsonl", rows)
        with pytest.raises(ValueError, match=f"(?s){message}"):
            load_task(name, data=tmp_path)

    def test_a_folder_that_is_none_is_refused(self, tmp_path):
        with pytest.raises(NotADirectoryError, match=r"data=.*nowhere"):
            load_task("aime24", data=tmp_path / "nowhere")


class TestChoices:
    def task(self, tmp_path, rows=GPQA, **options):
        lines(tmp_path / "gpqa_diamond.jsonl", rows)
        return load_task("gpqa-diamond", data=tmp_path, **options)

    def test_the_right_choice_stands_at_its_letter_and_the_letters_differ(self, tmp_path):
        """Would catch: the published file's order, in which every right choice is A."""
        task = self.task(tmp_path)
        for problem, row in zip(task.problems, GPQA, strict=True):
            choices = problem.details["choices"]
            assert choices[problem.answer] == row["Correct Answer"].strip() and list(choices) == list("ABCD")
            assert all(f"{letter}) {text}" in problem.question.splitlines() for letter, text in choices.items())
            assert problem.question.startswith(row["Question"]) and "ANSWER: $LETTER" in problem.question
        assert len({problem.answer for problem in task.problems}) > 2

    def test_the_order_follows_from_seed_and_id_alone(self, tmp_path):
        """Would catch: one stream for all problems, or a global one: a problem's order would change with those before it."""
        questions = {p.id: p.question for p in self.task(tmp_path, seed=5).problems}
        assert questions == {p.id: p.question for p in self.task(tmp_path, GPQA[::-1], seed=5).problems}
        assert self.task(tmp_path, seed=5, first=7, problems=1).problems[0].question == questions["rec7"]
        assert questions != {p.id: p.question for p in self.task(tmp_path, seed=6).problems}
        assert choice_problem("7", "q", "r", ["s", "t", "u"], 0).answer == "D"  # this very order, on any Python

    def test_the_published_file_is_the_same_benchmark(self, tmp_path):
        row = {"problem": "Which?", "options": {"A": "r", "B": "s", "C": "t", "D": "u"}, "answer": "A", "domain": "x"}
        problems = self.task(tmp_path, [row] * 1 + [{**row, "answer": "C"}]).problems
        assert [p.details["choices"][p.answer] for p in problems] == ["r", "t"]

    def test_a_choice_counts_by_its_letter_or_its_text(self, tmp_path):
        task = self.task(tmp_path)
        problem = task.problems[0]
        wrong = next(letter for letter in "ABCD" if letter != problem.answer)
        for answer in (problem.answer, f"({problem.answer})", rf"\text{{({problem.answer})}}", "right 0", "$right 0$"):
            assert task.grade(problem, answer), answer
        for answer in (wrong, problem.details["choices"][wrong], "right", "", None):
            assert not task.grade(problem, answer), answer

    def test_a_letter_is_a_letter_even_where_it_is_a_choices_text(self, tmp_path):
        """Would catch: a text before a letter; one of GPQA's questions has the choices c, a, b and d."""
        row = {"Question": "Which?", "Correct Answer": "c", **{f"Incorrect Answer {i}": "abd"[i - 1] for i in (1, 2, 3)}}
        task = self.task(tmp_path, [{**row, "Record ID": str(i)} for i in range(8)])
        for problem in task.problems:
            assert [task.grade(problem, letter) for letter in "ABCD"] == [letter == problem.answer for letter in "ABCD"]

    def test_votes_for_a_letter_and_its_text_are_votes_for_one(self, tmp_path):
        task = self.task(tmp_path)
        letter = task.problems[0].answer
        other = next(other for other in "ABCD" if other != letter)
        assert task.groups(task.problems[0], [other, "right 0", letter, "none"]) == [[0], [1, 2], [3]]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a folder that ``datasets`` loads in the place of a benchmark's repository."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("LEAPGEN_DATA", raising=False)

    def put(name, rows, suffix="jsonl"):
        place, folder = BENCHMARKS[name].hub, tmp_path / name
        folder.mkdir()
        table, file = datasets.Dataset.from_list(rows), folder / f"{place.split}.{suffix}"
        table.to_parquet(file) if suffix == "parquet" else table.to_json(file)
        if place.config:
            (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {place.config}\n  data_files:\n"
                                              f"  - split: {place.split}\n    path: {file.name}\n---\n")
        monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], hub=replace(place, id=str(folder))))

    return put


class TestHub:
    @pytest.mark.parametrize(("name", "rows", "suffix", "first"), [
        ("aime24", AIME, "parquet", ("60", "Find 0.", "000")),
        ("aime25", [{"problem": "Find it.", "answer": "70", "id": "0"}], "jsonl", ("0", "Find it.", "70")),
        ("math500", MATHS, "jsonl", ("test/algebra/1.json", "Halve one.", r"\frac{1}{2}")),
    ])
    def test_rows_of_the_hub_become_problems(self, hub, name, rows, suffix, first):
        hub(name, rows, suffix)
        task = load_task(name)
        problem = task.problems[0]
        assert (problem.id, problem.question, problem.answer) == first and len(task.problems) == len(rows)
        hub = BENCHMARKS[name].hub
        assert (task.source["revision"], task.source["split"]) == (hub.revision, hub.split)

    def test_gpqa_and_zebralogic_are_choices(self, hub, monkeypatch):
        import huggingface_hub

        hub("gpqa-diamond", GPQA, "jsonl")
        hub("zebralogic", ZEBRA, "parquet")
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, id: type("Info", (), {"sha": "5ea1"}))
        assert [p.id for p in load_task("gpqa-diamond").problems] == [row["Record ID"] for row in GPQA]
        zebra = load_task("zebralogic")
        assert [p.details["choices"][p.answer] for p in zebra.problems] == [row["answer"] for row in ZEBRA]
        assert zebra.problems[0].question.startswith("Two houses.\n\nWho lives in House 1?\n\n")

    def test_the_newest_revision_is_noted_where_none_is_pinned(self, hub, monkeypatch):
        """Would catch: a study that cannot be repeated, as nothing says what it was made from."""
        import huggingface_hub

        hub("zebralogic", ZEBRA)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, id: type("Info", (), {"sha": "5ea1"}))
        assert BENCHMARKS["zebralogic"].hub.revision is None
        assert load_task("zebralogic").source["revision"] == "5ea1"

    def test_pinned_revisions_are_whole_commits(self):
        pinned = [benchmark.hub.revision for benchmark in BENCHMARKS.values() if benchmark.hub and benchmark.hub.revision]
        assert len(pinned) == 4 and all(len(commit) == 40 and int(commit, 16) for commit in pinned)


def offline(code, **environment):
    """What a process without a network prints."""
    environment = {key: value for key, value in os.environ.items() if key not in ("LEAPGEN_DATA", "HF_TOKEN")} | environment
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           env={**environment, "HF_HUB_OFFLINE": "1"})
    assert not found.returncode, found.stderr
    return found.stdout


class TestNotToBeHad:
    def test_without_a_network_it_is_said_what_to_put_where(self, tmp_path):
        pytest.importorskip("datasets")
        said = offline("""if True:
            from leapgen.tasks import load_task
            for name in ("math500", "gpqa-diamond", "aimo25", "zebralogic"):
                try:
                    load_task(name)
                except FileNotFoundError as error:
                    print(error)""", HF_HOME=str(tmp_path)).splitlines()
        assert len(said) == 4 and all("data= or $LEAPGEN_DATA" in line for line in said)
        assert "HuggingFaceH4/MATH-500" in said[0] and "put math500.jsonl" in said[0] and "'problem' and 'answer'" in said[0]
        assert "It is gated" in said[1] and "HF_TOKEN" in said[1] and "'Incorrect Answer 1'" in said[1]
        assert "not on the hub" in said[2] and "put aimo25.jsonl" in said[2] and "gated" not in said[3]

    def test_a_gated_set_says_what_to_do(self, monkeypatch):
        """Would catch: the hub's own words alone, which do not say that the file will do, too."""
        datasets = pytest.importorskip("datasets")

        def refuse(*arguments, **options):
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub. "
                                                           "You must be authenticated to access it.")

        monkeypatch.setattr(datasets, "load_dataset", refuse)
        monkeypatch.delenv("LEAPGEN_DATA", raising=False)
        with pytest.raises(FileNotFoundError, match=r"gated dataset on the Hub.*accept its terms at "
                           r"https://huggingface\.co/datasets/Idavidrein/gpqa.*HF_TOKEN.*put gpqa-diamond\.jsonl"):
            load_task("gpqa-diamond")

    def test_without_datasets_it_is_said_how_to_get_it(self, monkeypatch, tmp_path):
        monkeypatch.setattr("leapgen.tasks.benchmarks.find_spec", lambda name: None)
        with pytest.raises(FileNotFoundError, match=rf"leapgen\[eval\].*put aime25\.jsonl.*into {tmp_path}"):
            load_task("aime25", data=tmp_path)
