"""``model.generate(custom_generate=...)``: as a folder, as a callable, inside a checkpoint; the real transformers."""

import copy
import gc
import pickle
import weakref
from threading import Thread
from typing import ClassVar

import pytest
import tiny
import tiny_tokenizer
import torch
from questions import MAZES, SMALL
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessorList,
    MaxTimeCriteria,
    StoppingCriteria,
    TextIteratorStreamer,
    pipeline,
)

from leapgen import EngineConfig, GenerationFailed, LeapConfig, LeapGenerator
from leapgen.demo import QUESTION
from leapgen.hub import FOLDER, save_custom_generate
from leapgen.integrations.transformers import custom_generate, generator_for, leap_inputs, register
from leapgen.pretrained import load
from leapgen.tasks.maze import MAZE_SETTINGS

LEAP = LeapConfig(**MAZE_SETTINGS)
BUDGET = MAZE_SETTINGS["max_new_tokens"]
QUESTIONS = [maze.question for maze in MAZES]


def by(form, model, inputs, **options):
    """A call in one of the two forms, on maze settings."""
    options, inputs = {**options, **inputs}, {}
    if form == "folder":
        return model.generate(**inputs, custom_generate=FOLDER, trust_remote_code=True, **{**MAZE_SETTINGS, **options})
    return model.generate(**inputs, custom_generate=custom_generate, **{
        "leap": LEAP, "max_new_tokens": BUDGET, "do_sample": True, "top_k": 40, **options})


def rows(output):
    return [path.token_ids for path in output.paths]


FORMS = pytest.mark.parametrize("form", ["folder", "callable"])


@FORMS
def test_tokens_are_those_of_the_generator(maze, generator, form):
    """Would catch: a form that prepares prompt, sampling or seed in a way of its own."""
    model, _ = maze
    output = generator.generate(QUESTIONS[0], n=4, seed=5, **MAZE_SETTINGS)
    result = by(form, model, leap_inputs(model, QUESTIONS[0]), num_return_sequences=4, seed=5, return_dict_in_generate=True)
    assert [rows(one) for one in result.leap] == [rows(output)]
    longest = max(map(len, rows(output)))
    pad = model.generation_config.pad_token_id
    assert result.sequences.tolist() == [row + [pad] * (longest - len(row)) for row in rows(output)]


def test_smollm2_says_the_same_in_both_forms(smollm2):
    """Would catch: what the maze model hides, such as a real vocabulary and a generation_config of its own."""
    expected = rows(smollm2.generate(QUESTION, n=2, seed=3, temperature=0.6, top_k=50, top_p=0.95, **SMALL))
    inputs = leap_inputs(smollm2.model, QUESTION, smollm2.tokenizer, LeapConfig(**SMALL))
    options = {"num_return_sequences": 2, "seed": 3, "return_dict_in_generate": True, "do_sample": True,
               "temperature": 0.6, "top_k": 50, "top_p": 0.95, **inputs}
    folder = smollm2.model.generate(custom_generate=FOLDER, trust_remote_code=True, **options, **SMALL)
    call = smollm2.model.generate(custom_generate=custom_generate, leap=LeapConfig(**SMALL), **options,
                                  max_new_tokens=SMALL["max_new_tokens"])
    assert rows(folder.leap[0]) == rows(call.leap[0]) == expected


@FORMS
def test_padding_changes_nothing(maze, form, monkeypatch):
    """Would catch: pad tokens that a path reads, or rows that come back in another order."""
    model, tokenizer = maze
    chats = [[{"role": "user", "content": text}] for text in (QUESTIONS[0], "Short?")]
    monkeypatch.setattr(tokenizer, "padding_side", "left")
    inputs = tokenizer.apply_chat_template(chats, add_generation_prompt=True, padding=True, return_tensors="pt",
                                           return_dict=True)
    together = by(form, model, inputs, num_return_sequences=2, return_dict_in_generate=True)
    width = inputs["input_ids"].shape[1]
    assert together.sequences[:, :width].tolist() == inputs["input_ids"].repeat_interleave(2, 0).tolist()
    for i, chat in enumerate(chats):
        alone = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        alone = by(form, model, alone, num_return_sequences=2, return_dict_in_generate=True)
        assert rows(alone.leap[0]) == rows(together.leap[i])
        for row, path in zip(together.sequences[2 * i : 2 * i + 2, width:].tolist(), alone.leap[0].paths, strict=True):
            told = path.token_ids[len(path.segments[0].token_ids) :]
            assert row == told + [model.generation_config.pad_token_id] * (len(row) - len(told))


def test_a_mask_that_is_not_given_is_read_from_the_pads(maze):
    """Would catch: left padding taken for a prompt, where a caller passes input_ids alone."""
    model, tokenizer = maze
    inputs = leap_inputs(model, [QUESTIONS[0], "Short?"], tokenizer)
    with_mask = by("folder", model, inputs)
    assert torch.equal(with_mask, by("folder", model, {"input_ids": inputs["input_ids"]}))


class Collects:
    """A streamer that keeps what it gets."""

    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        assert not self.ended
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


@FORMS
def test_each_path_has_a_streamer(maze, form):
    """Would catch: words streamed that a block then cuts away, or a stream that is not its path's."""
    model, tokenizer = maze
    inputs = leap_inputs(model, QUESTIONS[:2], tokenizer)
    for seed in range(3):
        streamers = [Collects() for _ in range(6)]
        result = by(form, model, inputs, num_return_sequences=3, seed=seed, leap_streamers=streamers,
                    return_dict_in_generate=True)
        assert [one.tokens for one in streamers] == [row for output in result.leap for row in rows(output)]
        assert all(one.ended for one in streamers)
        assert any(output.blocks for output in result.leap)


def test_text_arrives_paragraph_by_paragraph(maze):
    """Would catch: a stream that is silent for a whole interval, or whose text is not the path's."""
    model, tokenizer = maze
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    result = []
    thread = Thread(target=lambda: result.append(by("folder", model, leap_inputs(model, QUESTIONS[1]), streamer=streamer,
                                                    return_dict_in_generate=True)))
    thread.start()
    pieces = list(streamer)
    thread.join()
    path = result[0].leap[0].paths[0]
    assert "".join(pieces) == tokenizer.decode(path.token_ids[len(path.segments[0].token_ids) :])
    assert len([piece for piece in pieces if piece]) > 10


def test_a_streamer_ends_where_the_run_fails(maze):
    """Would catch: a reader that waits for ever because an error ended the run."""
    model, tokenizer = maze
    streamer = Collects()

    def breaks(input_ids, scores):
        raise ArithmeticError("broken")

    with pytest.raises(GenerationFailed, match="broken"):
        by("folder", model, leap_inputs(model, QUESTIONS[0], tokenizer), streamer=streamer,
           logits_processor=LogitsProcessorList([breaks]))
    assert streamer.ended and generator_for(model).engine.pool.num_used == 0


class TestOneGeneratorAModel:
    def test_all_seams_share_it(self, maze):
        """Would catch: a pool and a compilation for every call."""
        model, tokenizer = maze
        one = generator_for(model, tokenizer)
        register()
        pipeline("leap", model=model, tokenizer=tokenizer)(QUESTIONS[0], n=1, leap=False, max_new_tokens=4)
        for form in ("folder", "callable"):
            by(form, model, leap_inputs(model, QUESTIONS[0]), leap=LeapConfig.independent(), max_new_tokens=4)
        assert generator_for(model) is one is generator_for(model, tokenizer, one.engine.config)

    def test_another_engine_is_another_generator(self, maze):
        """Would catch: an EngineConfig that is ignored because there is a generator already."""
        model, tokenizer = load("maze")
        one, other = generator_for(model, tokenizer), EngineConfig(page_size=8)
        assert generator_for(model, engine=other).engine.config == other
        assert generator_for(model) is not one

    def test_a_running_generator_of_the_users_own_goes_on(self):
        """Would catch: what is kept on the model taken for a change of the model under live sequences."""
        model, tokenizer = load("maze")
        with LeapGenerator(model, tokenizer).stream(QUESTIONS[0], n=2, **MAZE_SETTINGS) as run:
            for _ in range(20):
                next(run)
            generator_for(model, tokenizer)
            assert sum(1 for _ in run)

    def test_weights_changed_in_place_are_followed(self):
        """Would catch: a generator that goes on with the weights it was made with, as training changes them."""
        model, tokenizer = load("maze")
        inputs = leap_inputs(model, QUESTIONS[0], tokenizer)
        before = by("folder", model, inputs)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mlp.down_proj.weight.mul_(0.5)
        after = by("folder", model, inputs)
        assert not torch.equal(before, after)
        fresh, _ = load("maze")
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(after, by("folder", fresh, inputs))

    def test_it_goes_with_the_model(self):
        """Would catch: models that are never freed, because something global holds their generators."""
        model, tokenizer = load("maze")
        held = weakref.ref(generator_for(model, tokenizer)), weakref.ref(model)
        del model
        gc.collect()
        assert [one() for one in held] == [None, None]

    def test_a_copy_has_one_of_its_own(self, maze):
        """Would catch: a model that cannot be copied or pickled any more once it has generated."""
        model, tokenizer = maze
        one = generator_for(model, tokenizer)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert generator_for(twin, tokenizer) is not one and generator_for(twin).model is twin


class TestACheckpointThatCarriesIt:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("checkpoint")
        model = tiny.build("llama", torch.float32, vocab_size=tiny_tokenizer.VOCAB)
        model.save_pretrained(folder)
        tiny_tokenizer.byte_level().save_pretrained(folder)
        save_custom_generate(folder)
        return str(folder)

    INPUTS: ClassVar = {"input_ids": torch.tensor([[5, 6, 7]]), "do_sample": True, "max_new_tokens": 36}
    OWN: ClassVar = {"interval": 12, "summary_tokens": 8, "num_return_sequences": 3, "forced_answer_tokens": 4,
           "return_dict_in_generate": True}

    def test_its_generate_is_leap_for_who_trusts_it(self, folder):
        """Would catch: a checkpoint whose files transformers does not find, or that asks for a tokenizer."""
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        assert model.generate(**self.INPUTS, **self.OWN).leap[0].blocks

    def test_it_is_an_ordinary_model_for_who_does_not(self, folder):
        """Would catch: code that runs without anybody's consent."""
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.generate(**self.INPUTS).shape[0] == 1
        with pytest.raises(ValueError, match="trust_remote_code"):
            model.generate(**self.INPUTS, custom_generate=folder, trust_remote_code=False)
        assert model.generate(**self.INPUTS, custom_generate=folder, trust_remote_code=True, **self.OWN).leap[0].blocks

    def test_text_generation_pipelines_get_it_unchanged(self, folder):
        """Would catch: an argument of text-generation's own that is refused."""
        pipe = pipeline("text-generation", model=folder, trust_remote_code=True)
        records = pipe([{"role": "user", "content": "What is 12 + 30?"}], max_new_tokens=36, interval=12, summary_tokens=8,
                       num_return_sequences=3, forced_answer_tokens=4)
        assert [record["generated_text"][-1]["role"] for record in records] == ["assistant"] * 3


class Anything(StoppingCriteria):
    def __call__(self, input_ids, scores, **_):
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize(("options", "message"), [
    ({"input_ids": None}, "give the prompts as input_ids"),
    ({"input_ids": None, "inputs_embeds": torch.zeros(1, 3, 128)}, "give the prompts as input_ids"),
    ({"input_ids": torch.zeros(1, 3)}, "token ids are integers"),
    ({"input_ids": torch.zeros(1, 0, dtype=torch.int64)}, "token ids are integers"),
    ({"input_ids": torch.tensor([[9999]])}, "outside the model's vocabulary"),
    ({"attention_mask": torch.tensor([[1, 1, 0]])}, "Pad on the left"),
    ({"attention_mask": torch.tensor([[0, 0, 0]])}, "Pad on the left"),
    ({"attention_mask": torch.tensor([[1, 1]])}, "one number a token"),
    ({"num_beams": 2}, "num_beams=2 cannot be honoured"),
    ({"do_sample": False, "num_return_sequences": 2}, "greedy paths would all be the same"),
    ({"prefix_allowed_tokens_fn": print}, "prefix_allowed_tokens_fn cannot be honoured"),
    ({"assistant_model": object()}, "assistant_model cannot be honoured"),
    ({"past_key_values": object()}, "unknown option 'past_key_values'"),
    ({"intervall": 8}, "did you mean interval"),
    ({"stopping_criteria": [Anything()]}, "criterion Anything cannot be honoured"),
    ({"leap_streamers": [Collects()], "num_return_sequences": 2}, "1 streamers for 2 paths"),
    ({"seed": -1}, "seed=-1"),
    ({"max_new_tokens": 20}, "no LeaP block would be held"),
])
def test_what_cannot_be_honoured_is_refused_by_name(maze, options, message):
    """Would catch: an argument that is swallowed, or an error from somewhere deep inside."""
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), **options}
    with pytest.raises((ValueError, TypeError), match=message):
        by("folder", maze[0], inputs)


@pytest.mark.parametrize(("options", "message"), [
    ({"max_new_tokens": None}, "max_new_tokens is not stated"),
    ({"position_ids": torch.tensor([[7, 8, 9]])}, "position_ids cannot be honoured"),
    ({"stopping_criteria": [Anything()]}, "criterion Anything cannot be honoured"),
    ({"typical_p": 0.5}, "typical_p=0.5 cannot be honoured"),
])
def test_the_callable_refuses_by_name_too(maze, options, message):
    """Would catch: what transformers prepares on the way being taken without a look."""
    with pytest.raises(ValueError, match=message):
        by("callable", maze[0], {"input_ids": torch.tensor([[5, 6, 7]]), **options})


def test_a_time_limit_ends_the_run_and_keeps_what_there_is(maze):
    """Would catch: max_time taken and ignored."""
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    result = by("folder", maze[0], inputs, max_time=1e-6, stopping_criteria=[MaxTimeCriteria(1e-6)],
                return_dict_in_generate=True)
    assert result.leap[0].paths[0].finish_reason == "stopped"
