"""Where questions come from: the command line, standard input, files of questions, chats; and what paths begin with."""

import io
import json

import pytest
from cli_run import SMALL, run
from leap_run import QUESTION

from leapgen import LeapOutput
from leapgen.terminal.cli import main

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]


@pytest.fixture
def typed(monkeypatch):
    """What stands in standard input."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def prompt_of(output):
    return bytes(token - 3 for token in output.paths[0].segments[0].token_ids if 3 <= token < 259).decode(errors="replace")


@pytest.mark.parametrize("question", [("-",), ()])
def test_a_question_is_read_from_standard_input(model_folder, tmp_path, typed, question):
    """Would catch: a question of several lines that a shell cannot take, or ``-`` as the question."""
    typed(f"{QUESTION}\nThink twice.\n")
    assert run(model_folder, tmp_path / "run.json", question=question) == 0
    assert LeapOutput.load(tmp_path / "run.json").question == f"{QUESTION}\nThink twice."


@pytest.mark.parametrize("options", [["--input", "{}"], ["--messages", "{}"]])
def test_only_one_way_at_a_time(tmp_path, capsys, options):
    """Would catch: a file that is ignored because there is a question, too."""
    assert run("never/loaded", tmp_path / "run.json", *[option.format(tmp_path) for option in options]) == 1
    assert "do not go together" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "  \n"])
def test_nothing_to_ask_is_told(tmp_path, capsys, typed, text):
    """Would catch: n paths of reasoning about nothing, for a pipe that brought nothing."""
    typed(text)
    assert run("never/loaded", tmp_path / "run.json", question=()) == 1
    assert "empty" in capsys.readouterr().err


def test_a_chat_and_a_system_message_reach_the_prompt(model_folder, tmp_path):
    """Would catch: a chat cut to its last message, or a system message that goes nowhere."""
    (tmp_path / "chat.json").write_text(json.dumps({"messages": CHAT}))
    assert run(model_folder, tmp_path / "chat.json.run", "--messages", str(tmp_path / "chat.json"), question=()) == 0
    assert run(model_folder, tmp_path / "system.run", "--system", "Be brief.") == 0
    chat, system = LeapOutput.load(tmp_path / "chat.json.run"), LeapOutput.load(tmp_path / "system.run")
    assert chat.question == system.question == QUESTION
    assert chat.paths[0].token_ids == system.paths[0].token_ids
    run(model_folder, tmp_path / "plain.run")
    plain = LeapOutput.load(tmp_path / "plain.run").paths[0].segments[0].token_ids
    assert len(plain) + len("Be brief.") <= len(chat.paths[0].segments[0].token_ids)


def test_a_second_system_message_is_refused(tmp_path, capsys):
    """Would catch: one of the two lost without a word."""
    (tmp_path / "chat.json").write_text(json.dumps(CHAT))
    options = ["--messages", str(tmp_path / "chat.json"), "--system", "Be long."]
    assert run("never/loaded", tmp_path / "run.json", *options, question=()) == 1
    assert "already" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["First I add.", "@{}"])
def test_paths_go_on_from_a_beginning(model_folder, tmp_path, given):
    """Would catch: a beginning dropped, a file's name taken for one, or its last line break for a part of it."""
    (tmp_path / "begun.txt").write_text("First I add.\n")
    options = ["--beginning", given.format(tmp_path / "begun.txt")]
    assert run(model_folder, tmp_path / "run.json", *options) == 0
    for path in LeapOutput.load(tmp_path / "run.json").paths:
        assert (path.segments[1].kind, path.segments[1].text) == ("beginning", "First I add.")


FILES = {
    "q.json": json.dumps([QUESTION, {"problem": "And 3 + 4?", "answer": "7"}, CHAT, {"messages": CHAT, "beginning": "So"}]),
    "q.jsonl": "\n\n".join(map(json.dumps, [QUESTION, {"question": "And 3 + 4?"}, {"messages": CHAT}, CHAT])) + "\n",
    "graded.jsonl": "\n".join(map(json.dumps, [{"grader": "math"}, *({"problem": text, "answer": "7"} for text in (
        QUESTION, "And 3 + 4?", QUESTION, QUESTION))])),
    "q.txt": f"{QUESTION}\n\n  And 3 + 4?  \n[1, 2]\n{QUESTION}",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("piped", [False, True])
def test_many_questions_are_run_side_by_side_into_a_folder(model_folder, tmp_path, typed, capsys, name, piped):
    """Would catch: a question lost or in another's file; equal questions that draw the same numbers."""
    file = tmp_path / name
    file.write_text(FILES[name])
    typed(FILES[name])
    options = ["--input", "-" if piped else str(file), "--beginning", "Well"]
    assert run(model_folder, tmp_path / "runs", *options, question=()) == 0
    outputs = [LeapOutput.load(tmp_path / "runs" / f"{i}.json") for i in range(4)]
    third = "[1, 2]" if name == "q.txt" else QUESTION
    assert [output.question for output in outputs] == [QUESTION, "And 3 + 4?", third, QUESTION]
    beginnings = [output.paths[0].segments[1].text for output in outputs]
    assert beginnings == ["Well", "Well", "Well", "So" if name == "q.json" else "Well"]
    printed = capsys.readouterr()
    assert [row.split()[0] for row in printed.out.splitlines()[1:]] == [f"{i}.json" for i in range(4)]
    assert len(list((tmp_path / "runs").iterdir())) == 4
    assert main(["show", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out == printed.out


def test_a_document_of_problems_is_a_list_of_questions(model_folder, tmp_path):
    """Would catch: a problem file that leapgen synth takes and leapgen run does not."""
    (tmp_path / "q.json").write_text(json.dumps({"grader": "math", "problems": [{"problem": QUESTION, "answer": "7"}]}))
    assert run(model_folder, tmp_path / "runs", "--input", str(tmp_path / "q.json"), question=()) == 0
    assert LeapOutput.load(tmp_path / "runs" / "0.json").question == QUESTION


@pytest.mark.parametrize(("name", "text", "message"), [
    ("q.json", '{"problems": 3}', "'problems', a list"),
    ("q.json", "[1]", "entry 1"), ("q.json", "{}", "a list"), ("q.json", "[", "not JSON"), ("q.jsonl", '"a"\n{', "line 2"),
    ("q.jsonl", '"a"\n\n{"answer": "7"}', "line 3"), ("q.txt", "\n", "no question"),
    ("q.json", '[{"problem": "a", "beginning": 3}]', "entry 1"),
])
def test_a_file_that_holds_no_questions_is_named_with_the_place(tmp_path, capsys, name, text, message):
    """Would catch: one bad line of a thousand, found by hand."""
    (tmp_path / name).write_text(text)
    assert run("never/loaded", tmp_path / "runs", "--input", str(tmp_path / name), question=()) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert name in error and message in error and "never/loaded" not in error


def test_a_folder_is_written_into_only_when_told_so(model_folder, tmp_path, capsys):
    """Would catch: last night's thousand runs gone, or runs of theirs among today's."""
    (tmp_path / "two.txt").write_text("1 + 1?\n2 + 2?")
    (tmp_path / "one.txt").write_text("3 + 3?")
    folder = tmp_path / "runs"
    folder.mkdir()

    def asked(file, *options):
        return run(model_folder, folder, "--input", str(tmp_path / file), "--n", "1", *options, question=())

    assert asked("two.txt") == 0 and len(list(folder.iterdir())) == 2
    assert asked("one.txt") == 1 and "--overwrite" in capsys.readouterr().err and len(list(folder.iterdir())) == 2
    assert asked("one.txt", "--overwrite") == 0
    assert [LeapOutput.load(file).question for file in folder.iterdir()] == ["3 + 3?"]
    assert run(model_folder, tmp_path / "two.txt", "--input", str(tmp_path / "two.txt"), "--overwrite", question=()) == 1
    assert "need a folder" in " ".join(capsys.readouterr().err.split())


def test_without_a_name_the_next_free_folder_is_taken(model_folder, tmp_path, monkeypatch):
    """Would catch: two batches in one folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("3 + 3?")
    for _ in range(2):
        assert main(["run", "--input", "one.txt", "--model", str(model_folder), "--n", "1", *SMALL]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.txt", "runs", "runs-2"]
