"""The maze task: problems, grader, canonical walks, training texts, tokenizer, drawing."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapgen.answers import extract_answer
from leapgen.config import LeapConfig
from leapgen.protocol.chat import prompt_tokens
from leapgen.protocol.prompts import TAGS, PromptSet
from leapgen.protocol.text import Vocabulary
from leapgen.tasks.maze import Maze, Shape, make_maze
from leapgen.tasks.maze.drawing import draw, plot, walked
from leapgen.tasks.maze.maze import NAMES
from leapgen.tasks.maze.samples import IGNORED, Mix, SampleMaker
from leapgen.tasks.maze.tokenizer import build_tokenizer
from leapgen.tasks.maze.walk import Report, Walk

TOKENIZER = build_tokenizer()
SHAPES = st.builds(Shape, st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


def solve(walk: Walk) -> str:
    """Walks until the exit is found; the text."""
    text = ""
    for _ in range(500):
        if walk.found:
            return text
        text += "".join(piece for piece, _ in walk.paragraph())
    raise AssertionError("the walk does not end")


class TestMaze:
    @given(SHAPES, st.integers(0, 999))
    @settings(max_examples=40, deadline=None)
    def test_the_question_reads_back_and_only_the_solution_solves_it(self, shape, seed):
        maze = make_maze(seed, shape)
        assert Maze.parse(maze.question) == maze == make_maze(seed, shape)
        assert len(set(maze.rooms)) == shape.rooms
        assert maze.solution[0] == maze.start and maze.solution[-1] == maze.exit and len(maze.solution) == shape.length + 2
        assert all(to in maze.next_rooms(room) for room, to in itertools.pairwise(maze.solution))
        assert maze.is_solved_by(" ".join(maze.solution)) and maze.is_solved_by(" -> ".join(maze.solution))
        assert not any(maze.is_solved_by(answer) for answer in (None, "", maze.exit, maze.solution[1:], maze.solution[:-1]))
        for room in maze.rooms:
            assert maze.is_solved_by(maze.route_to(room)) == (room == maze.exit)

    def test_nothing_in_the_question_gives_the_way_away(self):
        """Guards against an order of passages or names that tells the right door."""
        firsts = [m.doors.index(m.solution[1]) for m in (make_maze(i, Shape(4, 2, 2)) for i in range(800))]
        assert all(150 < firsts.count(i) < 250 for i in range(4))

    @pytest.mark.parametrize(("text", "reason"), [
        ("", "not a maze"), ("What is 2 + 2?", "not a maze"),
        ("Find the way from a to c. Passages: a b; b.", "not a maze"),
        ("Find the way from a to c. Passages: a b; c b.", "two ways in"),
        ("Find the way from a to c. Passages: a b; b d.", "no passage leads to the exit"),
        ("Find the way from a to c. Passages: a b; d c.", "cannot be reached"),
        ("Find the way from a to c. Passages: a b; c d; d c.", "cannot be reached"),
        ("Find the way from a to b. Passages: a b; b a.", "leads back to the start"),
        ("Find the way from a to c. Passages: a b; a c.", "numbered"),
        ("Find the way from a to c. Passages: a 2 b; a 1 c.", "numbered"),
        ("Find the way from a to c. Passages: a b; b 1 c.", "numbered"),
    ])
    def test_a_malformed_maze_is_refused_by_reason(self, text, reason):
        with pytest.raises(ValueError, match=reason):
            Maze.parse(text)

    @pytest.mark.parametrize("shape", [(0, 1, 1), (1, 1, True), (2, 2.5, 1), (20, 20, 20)])
    def test_an_impossible_shape_is_refused(self, shape):
        with pytest.raises(ValueError):
            Shape(*shape)


class TestWalk:
    @given(SHAPES, st.integers(0, 999))
    @settings(max_examples=40, deadline=None)
    def test_a_walk_only_uses_passages_and_tries_no_corridor_twice(self, shape, seed):
        maze = make_maze(seed, shape)
        text = solve(Walk(maze, random.Random(seed)))
        tries = re.findall(r"At (\w+)(?: not[ \d]+)?:(?: (\d+):)? (\w+)[:.]", text)
        assert all(maze.label(to) == f"{room} {number}".strip() for room, number, to in tries)
        assert len(tries) == len(set(tries))
        for room, numbers, number in re.findall(r"At (\w+) not([ \d]+):(?: (\d+):)?", text):
            assert number not in numbers.split() and (number or len(numbers.split()) == len(maze.next_rooms(room)))
        for room, to in re.findall(r"(?=\b(\w+): (\w+))", text):
            if room in maze.rooms and not text.count(f"At {room}: {to}"):
                assert to == "exit" if room == maze.exit else to in (maze.next_rooms(room) or ("dead",))
        for listed in re.findall(r"Dead: ([\w ]+)\.", text):
            assert not set(re.findall(r"\w+(?: \d+)?", listed)) & set(map(maze.label, maze.solution[1:3]))
        assert walked(maze, text)[-1] == maze.exit

    @given(st.integers(0, 999), st.booleans())
    @settings(max_examples=40, deadline=None)
    def test_any_report_is_survived_and_a_true_one_saves_steps(self, seed, truth):
        maze, rng = make_maze(seed, Shape(4, 3, 2)), random.Random(seed)
        walk = Walk(maze, rng)
        if truth:
            walk.hear([Report(dead=tuple(set(maze.doors) - {maze.solution[1]}))])
            assert len(re.findall(r": \d+:", solve(walk))) <= 4
        else:
            rooms = rng.sample(maze.rooms, 6)
            walk.hear([Report(dead=maze.doors, route=tuple(rooms)), Report(route=(maze.start, maze.doors[0], *rooms))])
            solve(walk)

    def test_a_reported_route_is_walked_first(self):
        maze = make_maze(3, Shape(5, 4, 3))
        walk = Walk(maze, random.Random(0))
        walk.hear([Report(route=maze.solution)])
        assert walked(maze, solve(walk)) == list(maze.solution[1:])

    def test_a_report_of_oneself_is_true(self):
        maze = make_maze(4, Shape(4, 4, 2))
        walk = Walk(maze, random.Random(1))
        while not walk.found:
            assert not set(walk.report().dead) & set(maze.solution)
            walk.paragraph()
        assert walk.report().route == maze.solution


class TestTokenizer:
    @given(st.text(max_size=60))
    @settings(max_examples=200, deadline=None)
    def test_any_text_reads_back(self, text):
        assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text

    def test_room_names_and_protocol_sentences_are_single_tokens(self):
        prompts = PromptSet()
        for text in (*(f" {name}" for name in NAMES), *prompts.triggers, prompts.nudge, *TAGS):
            assert len(TOKENIZER.encode(text, add_special_tokens=False)) == 1, text

    def test_it_is_an_ordinary_tokenizer_that_survives_saving(self, tmp_path):
        from transformers import AutoTokenizer

        TOKENIZER.save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        text = make_maze(0).question + PromptSet().comment(2)[0] + " é\n\n\n"
        assert again.encode(text) == TOKENIZER.encode(text) and again.decode(again.encode(text)) == text
        assert again.chat_template == TOKENIZER.chat_template and again.eos_token_id == TOKENIZER.eos_token_id
        assert Vocabulary(again, TAGS).thinking_markers() == ("<think>", "</think>")


class TestSamples:
    def test_the_same_seed_gives_the_same_samples(self):
        first, again, other = (list(itertools.islice(SampleMaker(TOKENIZER, seed=seed), 20)) for seed in (1, 1, 2))
        assert first == again != other

    def test_training_tokens_are_the_protocols_own(self):
        """A text spelled otherwise in training than the protocol spells it would be new to the model at every run."""
        prompts, vocabulary = PromptSet(), Vocabulary(TOKENIZER, TAGS)
        for sample in itertools.islice(SampleMaker(TOKENIZER, Mix(drills=0.0), seed=3), 40):
            text = TOKENIZER.decode(sample.token_ids)
            question = Maze.parse(text[text.index("Find the way"):text.index("\n\nReason step")]).question
            opening = prompts.opening in text
            prompt = prompt_tokens(TOKENIZER, question, LeapConfig(explain=opening), prompts, "<think>")
            assert sample.token_ids[: len(prompt)] == prompt
            assert all(label == IGNORED for label in sample.labels[: len(prompt)])
            rest = sample.token_ids[len(prompt) :]
            assert vocabulary.encode([TOKENIZER.decode(rest)], after=prompt) == rest

    def test_peers_words_are_not_learned_and_own_words_are(self):
        mix = Mix(blocks=(0.0, 1.0), drills=0.0)
        for sample in itertools.islice(SampleMaker(TOKENIZER, mix, seed=4), 40):
            learned = TOKENIZER.decode([token for token in sample.labels if token != IGNORED])
            assert "Peer" not in learned and "<comment>" not in learned and "<summarize>" not in learned
            assert learned.endswith("}<|end|>")

    def test_answers_of_free_walks_are_right(self):
        mix = Mix(forced=0.0, drills=0.0)
        for sample in itertools.islice(SampleMaker(TOKENIZER, mix, seed=5), 40):
            text = TOKENIZER.decode(sample.token_ids)
            maze = Maze.parse(text[text.index("Find the way"):text.index("\n\nReason step")])
            assert maze.is_solved_by(extract_answer(text[text.rindex("</think>"):]))


def test_a_picture_is_written_with_a_panel_for_each_run(tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("matplotlib.image")
    maze = make_maze(1, Shape(3, 2, 2))
    plot(maze, tmp_path / "bare.png")
    plot(maze, tmp_path / "two.png", {"alone": [[maze.doors[0]]], "with peers": [maze.solution, maze.solution]})
    bare, two = image.imread(tmp_path / "bare.png"), image.imread(tmp_path / "two.png")
    assert two.shape[1] > 1.8 * bare.shape[1]
    red, green = ((two[..., i] > two[..., j] + 0.3).sum(axis=0) for i, j in ((0, 1), (1, 0)))
    half = two.shape[1] // 2
    assert red[:half].any() and not red[half:].any(), "a passage nobody took, or one that was taken and is not shown"
    assert green[half:].sum() > 3 * green[:half].sum()  # the way out, as wide as two walks; alone, the exit's star


def test_a_drawing_shows_every_room_and_who_went_where():
    maze = make_maze(1, Shape(3, 2, 2))
    text = draw(maze, [maze.solution, [maze.doors[0]]]).plain
    assert all(room in text for room in maze.rooms) and text.count("✗") == 5 and text.count("★") == 1
    assert text.split("★ exit")[1].split("\n")[0].split() == ["0"]
