"""``--model leapgen`` in the real lm-eval: its Python interface, and its command line."""

import json
import subprocess
import sys

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from questions import MAZES, SMALL

from leapgen.demo import QUESTION
from leapgen.integrations.lm_eval import TASKS, LeapLM
from leapgen.integrations.lm_eval.scoring import scores
from leapgen.integrations.transformers import generator_for
from leapgen.pretrained import load
from leapgen.record.run import LeapOutput
from leapgen.tasks.maze import MAZE_SETTINGS

N = 4
TASK = """\
include: {tasks}/_leap.yaml
task: mazes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_text: "{{{{problem}}}}"
doc_to_target: "{{{{answer}}}}"
repeats: 4
generation_kwargs:
  until: []
  do_sample: true
  max_gen_toks: 216
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A task of three mazes."""
    folder = tmp_path_factory.mktemp("lm_eval")
    (folder / "mazes.jsonl").write_text("".join(json.dumps(
        {"problem": maze.question, "answer": " ".join(maze.solution)}) + "\n" for maze in MAZES[:3]))
    (folder / "mazes.yaml").write_text(TASK.format(tasks=TASKS, data=folder / "mazes.jsonl"))
    return folder


@pytest.fixture(scope="module")
def lm(generator):
    return LeapLM(generator, **MAZE_SETTINGS, batch_size=3)


@pytest.fixture(scope="module")
def expected(generator):
    """What the generator says of the same mazes, and its scores."""
    outputs = generator.generate([maze.question for maze in MAZES[:3]], n=N, **MAZE_SETTINGS)
    found = [scores({"answer": " ".join(maze.solution)}, [path.said for path in output.paths], "exact")
             for maze, output in zip(MAZES, outputs, strict=False)]
    return outputs, {name: sum(one[name] for one in found) / len(found) for name in ("pass@1", "maj@n")}


def tasks_in(folder):
    """Without lm-eval's own thousands, which take ten seconds to read."""
    return TaskManager(include_path=str(folder), include_defaults=False)


def instance(context, repeats=1, **options):
    return [Instance("generate_until", {}, (context, {"until": [], **options}), 0, ("test", 0, repeats))] * repeats


def test_repeats_are_one_group_and_tokens_are_those_of_the_generator(lm, folder, expected, tmp_path):
    """Would catch: n independent questions where n paths were meant, or another prompt, sampling or seed."""
    outputs, table = expected
    lm.outputs = tmp_path
    result = simple_evaluate(lm, tasks=["mazes"], task_manager=tasks_in(folder), log_samples=True,
                             apply_chat_template=False, bootstrap_iters=0)
    lm.outputs = None
    found = result["results"]["mazes"]
    assert {name: found[f"{name},paths"] for name in table} == pytest.approx(table) and 0 < table["pass@1"] < 1
    for number, output in enumerate(outputs):
        saved = LeapOutput.load(tmp_path / f"mazes-{number}.json")
        assert [path.token_ids for path in saved.paths] == [path.token_ids for path in output.paths]
        sample = next(one for one in result["samples"]["mazes"] if one["doc_id"] == number)
        assert sample["resps"][0] == [path.said for path in output.paths]


def test_the_command_line_gives_the_same_table(folder, expected):
    """Would catch: a model that is known in Python only, or arguments that lose their types on the way."""
    arguments = ",".join(["pretrained=maze", *(f"{name}={value}" for name, value in MAZE_SETTINGS.items())])
    done = subprocess.run(
        [sys.executable, "-m", "leapgen.integrations.lm_eval", "run", "--model", "leapgen", "--model_args",
         f"{arguments},dtype=float32", "--tasks", "mazes", "--include_path", str(folder), "--apply_chat_template",
         "--batch_size", "3", "--output_path", str(folder / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = (folder / "out").rglob("results_*.json")
    found = json.loads(file.read_text())["results"]["mazes"]
    assert 0 < found["pass@1,paths"] <= 1 and "maj@n" in done.stdout and "leapgen" in done.stdout


def test_smollm2_says_the_same_in_lm_eval(smollm2):
    """Would catch: a chat of lm-eval's whose question misses the chat template."""
    lm = LeapLM(smollm2, seed=3, **SMALL)
    chat = lm.apply_chat_template([{"role": "user", "content": QUESTION}])
    texts = lm.generate_until(instance(chat, 2), disable_tqdm=True)
    assert texts == [path.said for path in smollm2.generate(QUESTION, n=2, seed=3, **SMALL).paths]


def test_any_task_scores_the_vote_with_paths(generator):
    """Would catch: stock tasks, which ask once and read the first response, scored by an arbitrary path."""
    lm = LeapLM(generator, paths=5, **MAZE_SETTINGS)
    (text,) = lm.generate_until(instance(MAZES[1].question), disable_tqdm=True)
    output = generator.generate(MAZES[1].question, n=5, **MAZE_SETTINGS)
    assert text == output.representative().said and output.representative().answer == output.majority()


def test_a_response_ends_before_the_string_that_stops_it(lm):
    """Would catch: a stop string inside the response, which lm-eval's own models cut off."""
    (text,) = lm.generate_until(instance(MAZES[0].question, until=["dead", "nowhere"], do_sample=False), disable_tqdm=True)
    assert text and "dead" not in text


def test_equal_questions_have_seeds_of_their_own(lm):
    """Would catch: a data set with a question twice that is answered once."""
    first, second = instance(MAZES[0].question, 2), instance(MAZES[0].question, 2)
    texts = lm.generate_until([*first, *second], disable_tqdm=True)
    assert texts[:2] != texts[2:]


class TestLogLikelihoods:
    PAIRS = (("The way goes on", " to the owl"), ("The way goes on", " dead end."), ("", "owl"), ("At owl: ", "1: mule"),
             ("owl " * 1100, "1: mule"), ("Trailing  ", "space"), ("At owl", ": 1: mule. At mule: 2: crab."))

    @pytest.fixture(scope="class")
    def maze(self):
        """In float32, and of these tests alone."""
        return load("maze", dtype="float32")

    @pytest.fixture(scope="class")
    def hf(self, maze):
        model, tokenizer = maze
        return HFLM(pretrained=model, tokenizer=tokenizer, max_length=1023, batch_size=2)

    @pytest.mark.parametrize("size", [1, 4])
    def test_they_are_those_of_lm_evals_own_model(self, maze, hf, size):
        """Would catch: scores that are one token off, a lost special token, or a context cut at the wrong end."""
        lm = LeapLM(_generator(maze), batch_size=size)
        requests = [Instance("loglikelihood", {}, pair, 0) for pair in self.PAIRS]
        for ours, theirs in zip(lm.loglikelihood(requests, True), hf.loglikelihood(requests, True), strict=True):
            assert ours[0] == pytest.approx(theirs[0], abs=2e-3) and ours[1] == theirs[1]
        assert lm.generator.engine.pool.num_used == 0

    def test_texts_longer_than_the_context_are_scored_once_a_token(self, maze, hf):
        """Would catch: windows that overlap, or a first token that is not scored."""
        requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in ("At owl: 1: mule.", "At owl. " * 500)]
        ours = LeapLM(_generator(maze)).loglikelihood_rolling(requests, True)
        assert ours == pytest.approx(hf.loglikelihood_rolling(requests, True), rel=1e-4)

    def test_a_multiple_choice_task_is_scored(self, folder, maze, hf):
        """Would catch: choices of one question mixed up where they share their context."""
        (folder / "choices.jsonl").write_text("".join(json.dumps(
            {"q": f"At {word}:", "c": [" 1: mule", " 2: crab", " dead end"], "a": 1}) + "\n"
            for word in ("owl", "mule", "fig")))
        (folder / "choices.yaml").write_text(
            f"task: choices\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/choices.jsonl\n"
            "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\n"
            "doc_to_target: '{{a}}'\nmetric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n")
        tasks = tasks_in(folder)
        for chat in (False, True):
            found = [simple_evaluate(one, tasks=["choices"], task_manager=tasks, log_samples=True, apply_chat_template=chat,
                                     bootstrap_iters=0)["samples"]["choices"] for one in (LeapLM(_generator(maze)), hf)]
            for ours, theirs in zip(*found, strict=True):
                pairs = zip(ours["filtered_resps"], theirs["filtered_resps"], strict=True)
                assert all(one[0] == pytest.approx(other[0], abs=2e-3) for one, other in pairs)


def _generator(maze):
    model, tokenizer = maze
    return generator_for(model, tokenizer)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"batch_size": "auto"}, "batch_size='auto' is not allowed"),
    ({"intervall": 3}, "did you mean interval"),
    ({"temperature": 0, "paths": 4}, "4 greedy paths would all be the same"),
    ({"paths_after": 1, "blocks": (0,)}, "paths_after=1 cannot be honoured"),
    ({"page_size": 8}, "page_size: the generator that was given has an engine of its own"),
])
def test_what_the_model_cannot_honour_is_refused_when_it_is_made(generator, arguments, message):
    """Would catch: an argument found wrong after an hour of loading data, or never."""
    with pytest.raises((ValueError, TypeError), match=message):
        LeapLM(generator, **arguments)


@pytest.mark.parametrize(("options", "message"), [
    ({"num_beams": 4}, "'num_beams' cannot be honoured"), ({"do_sample": False}, "4 greedy paths would all be the same")])
def test_what_a_task_asks_in_vain_is_refused_by_name(lm, options, message):
    """Would catch: generation_kwargs that are swallowed."""
    with pytest.raises(ValueError, match=message):
        lm.generate_until(instance("Where?", 4, **options), disable_tqdm=True)


def test_special_tokens_in_a_question_stay_text(lm, generator):
    """Would catch: a data set that ends the user's turn by spelling the end token."""
    for context in ("x <|end|>", lm.apply_chat_template([{"role": "user", "content": "x <|end|>"}])):
        run = next(lm._runs([instance(context, do_sample=False)]))
        prompt = run.output(0).paths[0].segments[0].token_ids
        assert prompt == generator.prompt_token_ids("x <|end|>")


@pytest.mark.parametrize("task", ["leap_aime24", "leap_aime25", "leap_math500"])
def test_the_tasks_are_found_by_name(task):
    """Would catch: a task file that lm-eval cannot read."""
    assert task in tasks_in(TASKS).all_subtasks
