"""``transformers.pipeline("leap")``, the real one, on the maze model."""

import pytest
from datasets import Dataset
from questions import MAZES, SMALL
from transformers import GenerationConfig, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from leapgen.demo import QUESTION
from leapgen.engine import Engine
from leapgen.integrations.transformers import generator_for, register
from leapgen.models import model_path
from leapgen.tasks.maze import MAZE_SETTINGS

QUESTIONS = [maze.question for maze in MAZES]


@pytest.fixture(scope="module")
def pipe(maze):
    register()
    model, tokenizer = maze
    return pipeline("leap", model=model, tokenizer=tokenizer, n=4, **MAZE_SETTINGS)


def tokens(records):
    return [path.token_ids for path in records[0]["run"].paths]


def test_a_name_is_enough():
    """Would catch: a pipeline that only takes a loaded model."""
    register()
    records = pipeline("leap", model=model_path("maze"))(QUESTIONS[0], n=2, seed=1, **MAZE_SETTINGS)
    assert [record["path"] for record in records] == [0, 1]


def test_tokens_are_those_of_the_generator(pipe, generator):
    """Would catch: a pipeline that tokenizes, samples or seeds in a way of its own."""
    records = pipe(QUESTIONS[0], seed=5)
    output = generator.generate(QUESTIONS[0], n=4, seed=5, **MAZE_SETTINGS)
    assert tokens(records) == [path.token_ids for path in output.paths]
    assert [record["answer"] for record in records] == output.answers
    assert records[0]["generated_text"] == QUESTIONS[0] + output.paths[0].said
    assert records[0]["run"].majority() == output.majority()


def test_smollm2_says_the_same_in_a_pipeline(smollm2):
    """Would catch: what the maze model hides, such as a chat template with a system message of its own."""
    register()
    pipe = pipeline("leap", model=smollm2.model, tokenizer=smollm2.tokenizer)
    records = pipe([{"role": "user", "content": QUESTION}], n=2, seed=3, **SMALL)
    assert tokens(records) == [path.token_ids for path in smollm2.generate(QUESTION, n=2, seed=3, **SMALL).paths]


def test_every_form_of_input_gives_the_same(pipe):
    """Would catch: a form of input that loses a question, its order or its chat."""
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS[:2]]
    data = Dataset.from_list([{"text": question, "chat": chat} for question, chat in zip(QUESTIONS, chats, strict=False)])
    expected = [tokens(pipe(question, n=2)) for question in QUESTIONS[:2]]
    for inputs in (QUESTIONS[:2], chats, KeyDataset(data, "text"), KeyDataset(data, "chat"),
                   (question for question in QUESTIONS[:2]), (chat for chat in chats)):
        assert [tokens(records) for records in pipe(inputs, n=2, batch_size=2)] == expected
    assert tokens(pipe(chats[0], n=2)) == expected[0]


def test_records_are_those_of_text_generation(pipe):
    """Would catch: code that reads text-generation's records and finds something else here."""
    chat = [{"role": "user", "content": QUESTIONS[0]}]
    (first, *_), (alone, *_) = pipe(chat), pipe(chat, return_full_text=False)
    assert first["generated_text"] == [*chat, {"role": "assistant", "content": alone["generated_text"]}]
    assert set(first) == {"generated_text", "answer", "path", "run"}


def test_batch_size_is_questions_side_by_side_and_changes_no_token(pipe, monkeypatch):
    """Would catch: batches that run one after another, or equal questions whose seeds depend on the batch."""
    steps = []
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: steps.append(1) or step(engine))
    questions = [*QUESTIONS[:3], QUESTIONS[0], QUESTIONS[0]]
    one = [tokens(records) for records in pipe(questions, seed=7)]
    serial = len(steps)
    five = [records for records in pipe(questions, seed=7, batch_size=5)]
    assert [tokens(records) for records in five] == one
    assert len(steps) - serial < serial / 2
    assert [records[0]["run"].seed for records in five] == [7] * 3 + [8, 9]
    assert one[0] != one[3] != one[4]


def test_a_dataset_is_read_as_it_is_needed(pipe):
    """Would catch: a stream of questions read to its end before the first answer."""
    read = []

    def questions():
        for question in QUESTIONS:
            read.append(question)
            yield question

    results = pipe(questions(), batch_size=2)
    next(results)
    assert len(read) <= 4
    results.close()
    assert generator_for(pipe.model).engine.pool.num_used == 0


def test_special_tokens_in_a_question_stay_text(pipe):
    """Would catch: a question that ends its own turn by spelling the model's end token."""
    question = f"{QUESTIONS[0]} <|end|>"
    prompt = pipe(question)[0]["run"].paths[0].segments[0].token_ids
    assert prompt.count(pipe.tokenizer.eos_token_id) == pipe(QUESTIONS[0])[0]["run"].paths[0].segments[0].token_ids.count(
        pipe.tokenizer.eos_token_id)


def test_fields_of_a_generation_config_are_heard(maze):
    """Would catch: a GenerationConfig that is taken and ignored."""
    pipe = pipeline("leap", model=maze[0], tokenizer=maze[1])
    config = GenerationConfig(do_sample=False, num_return_sequences=1, max_new_tokens=20)
    run = pipe(QUESTIONS[0], generation_config=config, leap=False)[0]["run"]
    assert run.sampling["temperature"] == 0 and run.leap["max_new_tokens"] == 20 and len(run.paths) == 1
    width = len(run.paths[0].segments[0].token_ids)
    run = pipe(QUESTIONS[0], n=1, max_length=width + 9, leap=False)[0]["run"]
    assert run.leap["max_new_tokens"] == 9
    with pytest.raises(ValueError, match=f"max_length={width} leaves nothing to generate"):
        pipe(QUESTIONS[0], max_length=width, leap=False)


@pytest.mark.parametrize(("options", "message"), [
    ({"num_beams": 4}, "num_beams=4 cannot be honoured: paths are sampled"),
    ({"do_sample": False}, "greedy paths would all be the same"),
    ({"n": 4, "num_return_sequences": 3}, "say the same"),
    ({"intervall": 4}, "did you mean interval"),
    ({"streamer": object()}, "unknown option 'streamer'"),
])
def test_what_cannot_be_honoured_is_refused_by_name(pipe, options, message):
    """Would catch: an option that is swallowed."""
    with pytest.raises((ValueError, TypeError), match=message):
        pipe(QUESTIONS[0], **options)


@pytest.mark.parametrize("question", ["", "  ", [{"role": "assistant", "content": "4"}], "\ud800"])
def test_a_question_that_is_none_is_refused(pipe, question):
    """Would catch: an empty prompt that reaches the engine."""
    with pytest.raises(ValueError, match="prompt"):
        pipe(question)


def test_registering_twice_is_quiet(caplog):
    """Would catch: a warning in every notebook whose cell is run again."""
    register()
    register()
    assert not caplog.records
