"""LeaP-T: problem files, synthesis with its filter, fine-tuning. Random models, with words put into their mouths."""

import json

import pytest
import tiny
import tiny_tokenizer
import torch
from leap_run import LEAP, generator
from transformers import Trainer

from leapgen.tasks.base import Problem
from leapgen.tasks.problems import load_problems
from leapgen.terminal.cli import main
from leapgen.training.finetuning import IGNORED, Responses, finetune
from leapgen.training.recipe import RECIPES, Recipe
from leapgen.training.synthesis import synthesize

PROBLEMS = [Problem("a", "What is 12 + 30?", "42"), Problem("b", "What is 40 + 2?", "42"), Problem("c", "Or 50?", "50")]


class Says:
    """Puts words into the model's mouth wherever the text ends in one of some markers."""

    def __init__(self, tokenizer, words, markers):
        self.tokenizer, self.markers = tokenizer, tuple(markers)
        self.words = tokenizer.encode(words, add_special_tokens=False)

    def __call__(self, input_ids, scores):
        ids = input_ids[0].tolist()
        for said in range(len(self.words)):
            before = len(ids) - said
            if ids[before:] == self.words[:said] and self.tokenizer.decode(ids[:before]).endswith(self.markers):
                scores = torch.full_like(scores, -torch.inf)
                scores[0, self.words[said]] = 0.0
        return scores


def answering(leap, *, closing=True):
    """Every path answers 42, and closes its summaries at once."""
    answer = Says(leap.tokenizer, " 42}", ["\\boxed{"])
    end = Says(leap.tokenizer, " </summarize>", leap.prompts.lead_ins)
    return {"logits_processors": (answer, end) if closing else (answer,)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    leap = generator()
    file = tmp_path_factory.mktemp("data") / "responses.jsonl"
    return file, synthesize(leap, PROBLEMS, file, n=2, leap=LEAP.replace(forced_answer_tokens=24), seed=1, top_k=None,
                            top_p=1.0, **answering(leap))


class TestProblems:
    def test_lists_and_lines_are_read_alike(self, tmp_path):
        entries = [{"id": "I-1", "problem": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": 4, "year": 2024}]
        (tmp_path / "list.json").write_text(json.dumps(entries))
        (tmp_path / "lines.jsonl").write_text("\n\n".join(map(json.dumps, entries)) + "\n")
        expected = [Problem("I-1", "1+1?", "2"), Problem("1", "2+2?", "4")]
        assert load_problems(tmp_path / "list.json") == load_problems(tmp_path / "lines.jsonl") == expected
        assert expected[1].is_solved_by("$4$.") and not expected[1].is_solved_by(None) and not expected[1].is_solved_by("14")

    @pytest.mark.parametrize(("text", "message"), [
        ('{"problem": "x", "answer": "1"}\n{"problem": "y"}\n', "line 2.*'answer'"),
        ('{"problem": "x", "answer": "1"}\n{"answer": "1"}\n', "line 2.*'problem'"),
        ('{"problem": "x", "answer": "1"}\n{"problem": \n', "line 2: not JSON"),
        ('[{"problem": "x", "answer": true}]', "entry 1.*'answer'"),
        ('[{"problem": "x", "answer": "1"},\n nonsense]', "line 2: not JSON"),
        ('[3]', "entry 1.*int"),
        ('{"id": 1, "problem": "x", "answer": "1"}\n{"id": 1, "problem": "y", "answer": "1"}', "same id"),
        ("", "no problems"),
    ])
    def test_what_is_wrong_is_named_with_its_line(self, tmp_path, text, message):
        (tmp_path / "file").write_text(text)
        with pytest.raises(ValueError, match=f"(?s)file.*{message}"):
            load_problems(tmp_path / "file")


class TestSynthesis:
    def test_right_responses_are_kept_with_the_plain_prompt_and_their_provenance(self, data):
        file, made = data
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        leap = generator()
        assert [line["id"] for line in lines] == ["a", "a", "b", "b"] and made.kept == 4
        assert made.dropped == {"with a wrong answer": 2} and "4 of 6 responses kept, 2 with a wrong answer" in str(made)
        for line in lines:
            (kind, length), *rest = line["provenance"]
            question = line["messages"][0]["content"]
            assert kind == "prompt" and line["token_ids"][:length] == leap.prompt_token_ids(question, LEAP)
            assert leap.tokenizer.decode(line["token_ids"]) == line["text"]
            assert line["messages"][1]["content"].splitlines()[-1] in line["text"].splitlines()[-1]
            assert sum(length for _, length in line["provenance"]) == len(line["token_ids"])
            assert [kind for kind, _ in rest][:5] == ["own", "trigger", "summary", "comment", "own"]
        dropped = [json.loads(line) for line in file.with_suffix(".dropped.jsonl").read_text().splitlines()]
        assert {(d["id"], d["reason"], d["answer"]) for d in dropped} == {("c", "with a wrong answer", "42")}

    def test_datasets_style_readers_see_one_type_a_column(self, data):
        types = [{key: type(value) for key, value in json.loads(line).items()} for line in data[0].read_text().splitlines()]
        assert all(t == types[0] for t in types)

    def test_a_task_grades_its_own_way(self, tmp_path):
        """Would catch: a gym's or a maze's answers compared by spelling."""
        leap = generator()
        settings = {"n": 2, "leap": LEAP.replace(forced_answer_tokens=24), "seed": 1, "top_k": None, "top_p": 1.0}
        made = synthesize(leap, PROBLEMS[2:], tmp_path / "r.jsonl", grade=lambda problem, answer: answer == "42", **settings,
                          **answering(leap))
        assert made.kept == 2

    def test_a_summary_that_ran_into_its_limit_is_dropped(self, tmp_path):
        leap = generator()
        with pytest.raises(ValueError, match=r"no response is worth keeping.*2 with a summary that was too long"):
            synthesize(leap, PROBLEMS[:1], tmp_path / "r.jsonl", n=2,
                       leap=LEAP.replace(forced_answer_tokens=24, summary_tokens=3), seed=1, top_k=None, top_p=1.0,
                       **answering(leap, closing=False))
        assert (tmp_path / "r.dropped.jsonl").exists()

    def test_an_interrupted_run_goes_on_to_the_same_file(self, data, tmp_path, monkeypatch):
        leap, file = generator(), tmp_path / "r.jsonl"
        settings = {"n": 2, "leap": LEAP.replace(forced_answer_tokens=24), "top_k": None, "top_p": 1.0, **answering(leap)}
        calls = []

        def failing(problems_done):
            calls.append(problems_done)
            if len(calls) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            synthesize(leap, PROBLEMS, file, seed=1, progress=failing, **settings)
        partial = tmp_path / "r.partial.jsonl"
        partial.write_bytes(partial.read_bytes()[:-20])  # the second problem was cut off while it was written
        with pytest.raises(ValueError, match="begun with another seed"):
            synthesize(leap, PROBLEMS, file, seed=2, **settings)
        counts = []
        synthesize(leap, PROBLEMS, file, seed=1, progress=counts.append, **{**settings, **answering(leap)})
        assert counts == [2, 3] and not partial.exists()
        assert file.read_text() == data[0].read_text()


class TestFineTuning:
    def test_comments_and_prompts_have_no_loss_unless_asked_for(self, data):
        line = json.loads(data[0].read_text().splitlines()[0])
        kinds = [kind for kind, length in line["provenance"] for _ in range(length)]
        for learned in (RECIPES["leap-t-7b"].learned, ("comment",)):
            sample = Responses(data[0], learned, 10_000)[0]
            assert sample["input_ids"] == line["token_ids"]
            assert [label != IGNORED for label in sample["labels"]] == [kind in learned for kind in kinds]
            assert all(label in (IGNORED, token) for token, label in zip(*sample.values(), strict=True))

    def test_the_recipes_are_those_of_the_paper(self):
        for name, epochs in (("leap-t-1.5b", 8), ("leap-t-7b", 8), ("leap-t-14b", 5)):
            recipe = RECIPES[name]
            assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (epochs, 16, 1e-5, 1e-4)
            assert (recipe.warmup, recipe.max_length, recipe.bf16) == (0.05, 16384, True)
            assert "comment" not in recipe.learned

    def test_a_model_learns_the_responses_and_an_interrupted_training_goes_on(self, data, tmp_path, monkeypatch):
        def trained(folder):
            torch.manual_seed(0)
            model = tiny.build("llama", torch.float32, vocab_size=tiny_tokenizer.VOCAB)
            before = loss(model)
            recipe = RECIPES["tiny"].replace(epochs=6, batch_size=2, learning_rate=5e-3)
            return before, finetune(model, tiny_tokenizer.byte_level(), data[0], folder, recipe)

        def loss(model):
            sample = Responses(data[0], RECIPES["tiny"].learned, 10_000)[0]
            ids, labels = (torch.tensor([sample[key]]) for key in ("input_ids", "labels"))
            with torch.no_grad():
                return model(input_ids=ids, labels=labels).loss.item()

        before, model = trained(tmp_path / "whole")
        assert loss(model) < 0.8 * before
        assert (tmp_path / "whole" / "model" / "model.safetensors").exists()

        step, calls = Trainer.training_step, []

        def failing(*args, **kwargs):
            calls.append(1)
            if len(calls) == 15:  # in the fourth of six epochs of two steps of two responses
                raise KeyboardInterrupt
            return step(*args, **kwargs)

        monkeypatch.setattr(Trainer, "training_step", failing)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts")
        again = trained(tmp_path / "parts")[1]
        assert len(calls) == 15 + 12  # three epochs were not trained again
        torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=1e-6)

    def test_the_command_line_trains_and_synthesises_with_what_it_trained(self, data, tmp_path, capsys):
        model, problems = tiny.build("llama", torch.float32, vocab_size=tiny_tokenizer.VOCAB), tmp_path / "problems.json"
        model.save_pretrained(tmp_path / "student")
        tiny_tokenizer.byte_level().save_pretrained(tmp_path / "student")
        assert main(["sft", "--data", str(data[0]), "--model", str(tmp_path / "student"), "--output", str(tmp_path / "run"),
                     "--recipe", "tiny", "--epochs", "1", "--batch-size", "2", "--learn", "own", "answer"]) == 0
        assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["use_cache"], "the Trainer's own setting"
        problems.write_text(json.dumps([{"problem": "1 + 1?", "answer": "no model says this"}]))
        assert main(["synth", "--problems", str(problems), "--model", str(tmp_path / "run" / "model"), "--n", "2",
                     "--output", str(tmp_path / "r.jsonl"), "--interval", "8", "--max-new-tokens", "16",
                     "--summary-tokens", "4", "--forced-answer-tokens", "4", "--without-peers"]) == 1
        assert "no response is worth keeping: 0 of 2" in " ".join(capsys.readouterr().err.split())
        assert main(["synth", "--problems", "mazes", "--model", "never/loaded"]) == 1
        assert "no task 'mazes' (did you mean maze?)" in " ".join(capsys.readouterr().err.split())

    @pytest.mark.parametrize(("line", "message"), [
        ('{"token_ids": [1, 2]}', "line 2: no field 'provenance'"),
        ('{"token_ids": [1, 2], "provenance": [["own", 1]]}', "line 2: provenance"),
        ('{"token_ids": [1, 2], "provenance": [["own", 1], ["other", 1]]}', "line 2: provenance"),
        ('{"token_ids": [1, 999], "provenance": [["own", 2]]}', "line 2.*vocabulary of 100"),
        ("{", "line 2"),
    ])
    def test_malformed_data_is_named(self, tmp_path, line, message):
        (tmp_path / "r.jsonl").write_text('{"token_ids": [1, 2], "provenance": [["own", 2]]}\n' + line + "\n")
        with pytest.raises(ValueError, match=message):
            Responses(tmp_path / "r.jsonl", ("own",), 100, vocab_size=100)

    def test_nothing_to_learn_and_impossible_recipes_are_refused(self, tmp_path):
        (tmp_path / "r.jsonl").write_text('{"token_ids": [1, 2], "provenance": [["comment", 2]]}\n')
        with pytest.raises(ValueError, match="no token to learn from"):
            Responses(tmp_path / "r.jsonl", ("own",), 100)
        for changes in ({"learned": ("nonsense",)}, {"learned": ()}, {"epochs": 0}, {"learning_rate": -1.0}):
            with pytest.raises(ValueError):
                Recipe(**changes)
