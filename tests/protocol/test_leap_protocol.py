"""The protocol's turns when the model says certain things: a logits processor puts the words into its mouth."""

import pytest
import torch
from leap_run import LEAP, QUESTION, SAMPLING, Script, generator

from leapgen import EngineConfig, LeapConfig, PromptSet, stopping


def run(leap, *scripts, **settings):
    sampling = SAMPLING.replace(logits_processors=scripts, top_k=None, top_p=1.0)
    config = settings.pop("config", LEAP)
    return leap.generate(QUESTION, n=3, leap=config, sampling=sampling, seed=2, **settings)


def kinds(path):
    return [segment.kind for segment in path.segments]


def test_a_summary_the_model_opens_itself_gets_no_trigger():
    """Would catch: a LeaP-T model's own <summarize> talked over by a trigger, or its path cut or left waiting."""
    leap = generator()
    config = LeapConfig.leap_t(interval=30, max_new_tokens=60, summary_tokens=8, top_k_peers=2, forced_answer_tokens=6,
                               written_answer_tokens=8, min_new_tokens=60, max_blocks=1)
    output = run(leap, Script(leap, " So <summarize>", at=3), config=config)
    assert len(output.blocks) == 1
    for path in output.paths:
        assert kinds(path)[:3] == ["prompt", "own", "summary"] and "trigger" not in kinds(path)
        assert path.segments[1].text.endswith(" So <summarize>") and path.count("own") > 30
        assert len(output.blocks[0].routes[path.index]) == 2
    assert output.ledger.prefilled == output.ledger.prompt + output.ledger.injected


@pytest.mark.parametrize(("said", "kept"), [(" So <summarize>", " So"), ("One.\n\nTwo <summarize>", "One.\n\n")],
                         ids=["no blank line", "a blank line"])
def test_a_summary_the_model_opens_itself_is_cut_where_the_published_code_cuts_it(said, kept):
    """Would catch: a tag that is opened twice, trigger behind half a paragraph, cut tokens that nobody counts or tells."""
    leap = generator()
    config = LeapConfig.official_leap_t(interval=30, max_new_tokens=60, summary_tokens=8, top_k_peers=2, max_blocks=1,
                                        forced_answer_tokens=6, written_answer_tokens=8, min_new_tokens=60)
    script = Script(leap, said, at=3)
    output = run(leap, script, config=config)
    assert len(output.blocks) == 1
    for path in output.paths:
        assert kinds(path)[:4] == ["prompt", "own", "trigger", "summary"]
        assert path.segments[1].text.endswith(kept) and "<summarize>" not in path.segments[1].text
        assert path.segments[2].text.count("<summarize>") == 1
    assert output.ledger.discarded >= 3
    assert output.ledger.prefilled == output.ledger.prompt + output.ledger.injected
    for stop in (12, 25, 40):
        part = run(leap, script, config=config, until=stopping.token_limit(stop))
        assert not part.finished
        resumed = leap.resume(part, sampling=SAMPLING.replace(logits_processors=(script,), top_k=None, top_p=1.0))
        assert [path.token_ids for path in resumed.paths] == [path.token_ids for path in output.paths]


def test_a_summary_the_model_closes_is_not_closed_again():
    """Would catch: a second closing tag, or sampling that goes on behind the first."""
    leap = generator()
    output = run(leap, *[Script(leap, " yes </summarize>", after=lead_in) for lead_in in leap.prompts.lead_ins],
                 max_blocks=1, min_new_tokens=36)
    for path in output.paths:
        summary = next(s for s in path.segments if s.kind == "summary")
        assert summary.text == " yes </summarize>"
        assert kinds(path)[kinds(path).index("summary") + 1] == "comment"
        assert output.blocks[0].summaries[path.index].closed
        assert "summarize" not in output.blocks[0].summaries[path.index].text


def test_the_tag_that_closes_a_summary_belongs_to_it():
    """Would catch: "</summarize>" in the middle of what a path itself says, and in what its answer is read from."""
    output = run(generator(), summary_tokens=6, max_blocks=1, min_new_tokens=36, forced_answer_tokens=6)
    for path in output.paths:
        at = kinds(path).index("summary")
        assert not output.blocks[0].summaries[path.index].closed
        assert path.segments[at + 1].kind == "closing" and path.segments[at + 1].text.endswith(" </summarize>")
        assert "</summarize>" in path.text and "</summarize>" not in path.said


def test_closed_thinking_is_followed_by_the_answer_and_an_end():
    """Would catch: a path that goes on thinking after </think>, or that waits for blocks it will not join."""
    leap = generator(thinking=True)
    output = run(leap, Script(leap, " Done.</think> It is \\boxed{42}.<|im_end|>", at=2), written_answer_tokens=40)
    assert not output.blocks
    for path in output.paths:
        assert kinds(path) == ["prompt", "own", "answer"]
        assert path.segments[1].text.endswith(" Done.</think>")
        assert path.segments[2].text == " It is \\boxed{42}."
        assert (path.answer, path.finish_reason) == ("42", "stop")
    assert output.majority() == "42"


@pytest.mark.parametrize("explain", [False, True])
def test_a_vote_for_an_answer_in_the_prompt_is_told(caplog, explain):
    """Would catch: the warning lost between the vote and the user, or one in runs that never saw the example."""
    leap = generator(thinking=True)
    leap.prompts = PromptSet(explanation="So \\boxed{42}. {question}")
    run(leap, Script(leap, " Done.</think> It is \\boxed{42}.<|im_end|>", at=2), written_answer_tokens=40, explain=explain)
    assert ("prompt's own example" in caplog.text) == explain


def test_what_follows_the_last_blank_line_is_cut_before_the_summary():
    """Would catch: half a thought left before the trigger, a cut into the question, cut tokens still counted as kept."""
    leap = generator()
    output = run(leap, Script(leap, "One.\n\nTwo.\n\nThr", at=0), interval=20, max_blocks=1, min_new_tokens=36)
    assert output.ledger.discarded > 0
    for path in output.paths:
        own = path.segments[1]
        assert own.kind == "own" and own.text.startswith("One.\n\nTwo.\n\n")
        assert own.text.endswith("\n\n") and path.segments[2].kind == "trigger"
        assert path.segments[2].text[0] != "\n"


def test_finished_paths_share_only_where_asked():
    """Would catch: a summary lost with its path where finished peers go on sharing; one kept where they do not."""
    for share in (False, True):
        leap = generator()
        end = leap.tokenizer.eos_token_id

        def ends_some(input_ids, scores, prompt=[], end=end):  # noqa: B006 - the list keeps the prompt's length
            prompt or prompt.append(input_ids.shape[1])
            own = input_ids[0, prompt[0]:].tolist()
            scores[0, [2, end]] = -torch.inf
            if len(own) == 6 and own[0] % 2:
                scores[0] = -torch.inf
                scores[0, end] = 0.0
            return scores

        output = run(leap, ends_some, finished_share=share)
        ended = [p.index for p in output.paths if p.finish_reason == "stop"]
        assert ended and len(ended) < 3, "the seed must end some paths and not all"
        assert all((i in output.blocks[0].summaries) == share for i in ended)
        assert all(i not in output.blocks[0].routes for i in ended)
        assert all(not output.paths[i].own_text.endswith("<|im_end|>") for i in ended)
        assert leap.engine.pool.num_used == 0


def test_a_path_without_context_for_a_block_reasons_on_whatever_it_opens():
    """Would catch: a path that opens <summarize> once more where no block will come for it, and waits for ever."""
    leap = generator(engine=EngineConfig(page_size=4, kv_cache_bytes=1 << 25, max_step_tokens=64, context_length=240))
    config = LeapConfig.leap_t(interval=30, max_new_tokens=120, summary_tokens=8, top_k_peers=2, force_answer=False,
                               written_answer_tokens=8, min_new_tokens=120)
    output = run(leap, Script(leap, " So <summarize> <summarize> on", at=180), config=config)
    assert output.finished and output.state["skipping"] == [path.index for path in output.paths]
    assert all(path.own_text.count("<summarize>") == 2 for path in output.paths)
