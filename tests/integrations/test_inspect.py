"""The provider ``leapgen/...`` in the real inspect-ai: its Python interface, its command line and its logs."""

import asyncio
import subprocess
import sys

import anyio
import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import ChatMessageUser, ContentImage, GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.tool import ToolInfo
from questions import MAZES, SMALL

from leapgen.demo import QUESTION
from leapgen.integrations.inspect_ai import LeapAPI, leap_pass_at_1
from leapgen.record.run import LeapOutput
from leapgen.tasks.maze import MAZE_SETTINGS

N = 5
SAMPLES = [Sample(id=f"maze-{i}", input=maze.question, target=" ".join(maze.solution)) for i, maze in enumerate(MAZES[:4])]


@pytest.fixture(scope="module")
def model():
    return get_model("leapgen/maze", n=N, dtype="bfloat16", **MAZE_SETTINGS)


@pytest.fixture(scope="module")
def log(model, tmp_path_factory):
    task = Task(dataset=MemoryDataset(SAMPLES), scorer=[includes(), leap_pass_at_1(includes())], name="mazes")
    (log,) = eval(task, model=model, display="none", log_dir=str(tmp_path_factory.mktemp("logs")), seed=3)
    assert log.status == "success", log.error
    return read_eval_log(log.location)


@pytest.fixture(scope="module")
def outputs(model):
    return [model.api.generator.generate([{"role": "user", "content": maze.question}], n=N, seed=3, **MAZE_SETTINGS)
            for maze in MAZES[:4]]


def test_tokens_are_those_of_the_generator(log, outputs):
    """Would catch: a provider that prompts, samples or seeds in a way of its own, also with samples side by side."""
    for sample, output in zip(sorted(log.samples, key=lambda one: one.id), outputs, strict=True):
        told = sample.output.metadata["leapgen"]
        said = {index: choice.message for index, choice in zip(told["paths"], sample.output.choices, strict=True)}
        for path in output.paths:
            assert said[path.index].content[-1].text in path.said
            assert said[path.index].content[0].reasoning in path.text
        assert told["vote"] == output.majority() and told["seed"] == 3
        assert sorted(told["paths"]) == list(range(N))


def test_the_first_choice_stands_for_the_vote(log, outputs):
    """Would catch: stock scorers, which read the first choice, scored by an arbitrary path."""
    for sample, output in zip(sorted(log.samples, key=lambda one: one.id), outputs, strict=True):
        first = sample.output.metadata["leapgen"]["paths"][0]
        assert output.paths[first].answer == output.majority()
        assert sample.output.metadata["leapgen"]["answers"][0] == output.majority()


def test_both_scores_stand_in_the_log(log, outputs):
    """Would catch: Pass@1 taken from the vote, or from inspect's reducers, which see one score a sample."""
    results = {score.name: score.metrics for score in log.results.scores}
    right = [[path.answer is not None and " ".join(path.answer.split()) == " ".join(maze.solution) for path in output.paths]
             for maze, output in zip(MAZES, outputs, strict=False)]
    expected = sum(sum(one) / N for one in right) / len(right)
    assert results["leap_pass_at_1"]["mean"].value == pytest.approx(expected)
    assert 0 < expected < results["includes"]["accuracy"].value


def test_the_log_shows_who_read_whom(log):
    """Would catch: `inspect view` without the paths' words, or without the blocks."""
    sample = log.samples[0]
    assert len(sample.output.choices) == N and sample.output.usage.output_tokens > 0
    assert any("<comment>" in choice.message.content[0].reasoning for choice in sample.output.choices)
    assert sample.output.metadata["leapgen"]["blocks"][0]


def test_the_command_line_finds_the_provider(tmp_path):
    """Would catch: an entry point that inspect does not find, or model arguments that lose their types."""
    (tmp_path / "task.py").write_text(
        "from inspect_ai import Task, task\nfrom inspect_ai.dataset import MemoryDataset, Sample\n"
        "from inspect_ai.scorer import includes\n\n@task\ndef mazes():\n"
        f"    return Task(dataset=MemoryDataset([Sample(input={MAZES[0].question!r}, target='x')]), scorer=includes())\n")
    options = [part for name, value in MAZE_SETTINGS.items() for part in ("-M", f"{name}={str(value).lower()}")]
    done = subprocess.run([sys.executable, "-m", "inspect_ai", "eval", "task.py", "--model", "leapgen/maze",
                           "--display", "plain", "--num-choices", "3", "-M", "outputs=runs", *options, "--log-dir", "logs"],
                          cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "logs").iterdir()
    (sample,) = read_eval_log(str(file)).samples
    assert len(sample.output.choices) == 3
    assert len(LeapOutput.load(tmp_path / "runs" / "run-0.json").paths) == 3


def test_smollm2_says_the_same_in_inspect(smollm2, monkeypatch):
    """Would catch: a system message or chat of inspect's that misses the chat template."""
    monkeypatch.setattr("leapgen.integrations.inspect_ai.LeapGenerator.from_pretrained", lambda *_, **__: smollm2)
    api = LeapAPI("smollm2", n=2, **SMALL)
    found = ask(api, [ChatMessageUser(content=QUESTION)], GenerateConfig(seed=3))
    output = smollm2.generate(QUESTION, n=2, seed=3, **SMALL)
    answers = {path.index: path for path in output.paths}
    for index, choice in zip(found.metadata["leapgen"]["paths"], found.choices, strict=True):
        assert choice.message.content[-1].text in answers[index].said


def ask(api, messages, config=GenerateConfig(), tools=()):
    return asyncio.run(api.generate(messages, [*tools], "auto", config))


def test_log_probabilities_come_where_they_are_asked_for(model):
    """Would catch: log-probabilities of a peer's words, or none."""
    output = ask(model.api, [ChatMessageUser(content=MAZES[0].question)], GenerateConfig(logprobs=True, num_choices=2))
    for choice in output.choices:
        assert choice.logprobs.content and all(one.logprob <= 0 for one in choice.logprobs.content)


def test_a_sample_that_is_given_up_frees_its_pages(model):
    """Would catch: a run that goes on, and holds pages, after inspect's time limit."""
    async def give_up():
        with anyio.fail_after(0.2):
            question = [ChatMessageUser(content=MAZES[0].question)]
            await model.api.generate(question, [], "auto", GenerateConfig(num_choices=16))

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert model.api.generator.engine.pool.num_used == 0


@pytest.mark.parametrize(("config", "message"), [
    (GenerateConfig(temperature=0), "temperature=0 with 5 paths"),
    (GenerateConfig(presence_penalty=0.5), "presence_penalty=0.5 cannot be honoured"),
    (GenerateConfig(best_of=3), "best_of=3 cannot be honoured"),
    (GenerateConfig(max_tokens=50), "no LeaP block would be held"),
    (GenerateConfig(seed=-1), "seed=-1 is not allowed"),
])
def test_what_cannot_be_honoured_is_refused_by_name(model, config, message):
    """Would catch: an option of inspect's that is swallowed."""
    with pytest.raises(ValueError, match=message):
        ask(model.api, [ChatMessageUser(content=MAZES[0].question)], config)


def test_tools_and_pictures_are_refused(model):
    """Would catch: an agent's sample that is answered as if it had no tools."""
    with pytest.raises(ValueError, match="tools cannot be honoured \\(bash\\)"):
        ask(model.api, [ChatMessageUser(content="x")], tools=[ToolInfo(name="bash", description="runs")])
    with pytest.raises(ValueError, match="images, audio or files"):
        ask(model.api, [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")])])


def test_a_misspelt_model_argument_is_named():
    """Would catch: -M intervall=8, and a run with the paper's interval."""
    with pytest.raises(TypeError, match="did you mean interval"):
        LeapAPI("maze", intervall=8)


def test_special_tokens_in_a_question_stay_text(model):
    """Would catch: a data set that ends the user's turn by spelling the end token."""
    output = ask(model.api, [ChatMessageUser(content="x <|end|>")], GenerateConfig(num_choices=1))
    assert output.usage.input_tokens == len(model.api.generator.prompt_token_ids("x <|end|>"))
