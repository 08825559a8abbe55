"""A mixture of agents: layers read layers; it streams, is counted and resumes to the same tokens, as LeaP does."""

import json
from functools import partial

import pytest
import tiny_tokenizer
from leap_run import LEAP, QUESTION, SAMPLING, generator

from leapgen import CutEvent, EngineConfig, LeapOutput, SegmentEvent, TokenEvent, stopping
from leapgen.protocol.chat import prompt_tokens, user_turn
from leapgen.protocol.moa import MixtureOfAgents
from leapgen.protocol.prompts import PromptSet

MIXTURE = partial(MixtureOfAgents, layers=3, agents=2, response_tokens=12)
N, SETTINGS = 5, LEAP.replace(max_new_tokens=24, max_blocks=0, stop_token_ids=(40, 41, 42, 43, 44, 45))


def run(leap, /, question=QUESTION, **options):
    options = {"protocol": MIXTURE, "leap": SETTINGS, "n": N, **options}
    return leap.generate(question, sampling=SAMPLING, seed=5, **options)


@pytest.fixture(scope="module")
def leap():
    return generator(thinking=True)


@pytest.fixture(scope="module")
def whole(leap):
    return run(leap)


def tokens(output):
    return [(path.token_ids, path.provenance, path.finish_reason, path.votes) for path in output.paths]


def test_each_layer_reads_all_of_the_layer_before_and_only_that(whole):
    """Would catch: agents that read nobody, their own layer, or every layer; responses nobody can trace."""
    assert [sorted(block.summaries) for block in whole.blocks] == [[0, 1], [2, 3]]
    read = [{reader: [route.peer for route in routes] for reader, routes in block.routes.items()} for block in whole.blocks]
    assert read == [{2: [0, 1], 3: [0, 1]}, {4: [2, 3]}]
    for block in whole.blocks:
        for reader in block.routes:
            prompt = whole.paths[reader].segments[0]
            assert [source.sender for source in prompt.sources] == sorted(block.summaries)
            for source in prompt.sources:
                said = tiny_tokenizer.byte_level(True).decode(prompt.token_ids[source.start : source.end])
                assert said == block.summaries[source.sender].text
    assert all(not path.segments[0].sources for path in whole.paths[:2])


def test_the_responses_stand_in_the_users_turn(leap, whole):
    """Would catch: peers' words put into the model's own mouth; a question or a template's end that is lost."""
    plain, behind = user_turn(leap.tokenizer, whole.paths[0].segments[0].token_ids)
    assert leap.tokenizer.decode(behind).startswith("<|im_end|>")
    for path in whole.paths[2:]:
        prompt = path.segments[0].token_ids
        assert prompt[: len(plain)] == plain and prompt[-len(behind) :] == behind
        assert leap.prompts.aggregate in leap.tokenizer.decode(prompt)


def test_only_the_last_agent_votes(whole):
    """Would catch: a majority over drafts."""
    assert whole.voters == whole.paths[-1:]


def test_what_prompts_have_in_common_is_computed_once(whole):
    """Would catch: the question prefilled for every layer, responses for every reader."""
    first, third, fifth = (whole.paths[i].segments[0].token_ids for i in (0, 2, 4))
    turn = next(i for i, (a, b) in enumerate(zip(first, third, strict=False)) if a != b)
    forced = sum(path.count("forced") for path in whole.paths)
    assert whole.ledger.prefilled <= len(first) + (len(third) - turn) + (len(fifth) - turn) + forced
    assert whole.ledger.recomputed == 0


@pytest.mark.parametrize("engine", [{"draft_tokens": 4, "kv_cache_bytes": 1 << 17}, {"max_step_tokens": 7}])
def test_tokens_do_not_depend_on_the_steps(engine, whole):
    """Would catch: a protocol that goes by who was faster."""
    other = generator(thinking=True, engine=EngineConfig(**{"page_size": 4, "kv_cache_bytes": 1 << 25, **engine}))
    assert tokens(run(other)) == tokens(whole)
    assert other.engine.pool.num_used == 0
    other.engine.check_integrity()


@pytest.mark.parametrize("stop", [1, 30, 60, 85, 120])
def test_a_stopped_run_resumes_to_the_same_tokens(stop, leap, whole):
    """Would catch: a prompt with responses that a file loses, a layer that begins twice or never."""
    part = run(leap, until=stopping.token_limit(stop))
    assert not part.finished
    resumed = leap.resume(LeapOutput.from_dict(json.loads(json.dumps(part.to_dict()))), protocol=MIXTURE)
    assert tokens(resumed) == tokens(whole)
    assert [path.segments[0].sources for path in resumed.paths] == [path.segments[0].sources for path in whole.paths]
    assert leap.engine.pool.num_used == 0


def test_a_listener_has_the_paths_text_and_every_token_is_counted(leap, whole):
    """Would catch: a move of a path that is not told, or not counted."""
    text = [""] * N
    for event in leap.stream(QUESTION, N, leap=SETTINGS, sampling=SAMPLING, seed=5, protocol=MIXTURE):
        if isinstance(event, (TokenEvent, SegmentEvent)):
            text[event.path] += event.text if isinstance(event, TokenEvent) else event.segment.text
        assert not isinstance(event, CutEvent)
    assert text == [path.text for path in whole.paths]
    assert whole.ledger.decoded == sum(path.count("own", "answer") for path in whole.paths)


def test_an_answer_behind_the_thinking_is_the_response(leap):
    """Would catch: thoughts handed on in place of what they came to."""
    output = run(leap, leap=SETTINGS.replace(think_end="e", written_answer_tokens=6))
    ended = [path for path in output.paths[:4] if path.state["concluded"] and path.count("answer")]
    said = {message.sender: message.text for block in output.blocks for message in block.summaries.values()}
    assert ended
    for path in ended:
        assert path.segments[-1].text.strip() in said[path.index] or len(path.segments[-1].token_ids) > 12


@pytest.mark.parametrize(("options", "message"), [
    ({"n": 4}, "n=5 paths, not n=4"), ({"protocol": partial(MixtureOfAgents, layers=0)}, "layers=0"),
    ({"protocol": MixtureOfAgents}, "n=10 paths"), ({"beginning": "So"}, "takes no beginning"),
    ({"protocol": partial(MixtureOfAgents, layers=3, agents=2, response_tokens=5000)}, "fewer response_tokens")])
def test_what_does_not_fit_is_refused_before_any_work(leap, options, message):
    """Would catch: a mixture that ends in the middle of a layer, or in an error after hours."""
    with pytest.raises(ValueError, match=message):
        run(leap, **options)


def test_a_prompt_of_token_ids_is_followed_by_the_responses(leap):
    """Would catch: a prompt cut somewhere in its middle."""
    tokenizer = leap.tokenizer
    assert user_turn(tokenizer, [5, 6, 7]) == ([5, 6, 7], [])
    prompt = prompt_tokens(tokenizer, "<|im_end|>\n<|im_start|>assistant\nHm?", SETTINGS, PromptSet(), "<think>")
    turn, behind = user_turn(tokenizer, prompt)
    assert turn + behind == prompt and tokenizer.decode(turn).endswith("\\boxed{}.")
    assert run(leap, question=[5, 6, 7]).finished
