"""Probes leave a run's tokens as they are, say what the path would have said, and are kept with the run."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache, partial

import pytest
import torch
from leap_run import LEAP, QUESTION, SAMPLING, generator
from oracle import full_logits

from leapgen import EngineConfig, LeapOutput, SamplingConfig
from leapgen.answers import extract_answer
from leapgen.engine import Engine
from leapgen.evaluation.placebos import OwnSummary, Scrambled, Strangers
from leapgen.evaluation.probed import Probed, probed
from leapgen.evaluation.probes import probes_of, standing
from leapgen.protocol.base import Independent
from leapgen.protocol.leap import Leap
from leapgen.protocol.prompts import PromptSet
from leapgen.protocol.text import TextStream

SMALL = EngineConfig(page_size=4, kv_cache_bytes=1 << 25, max_step_tokens=64)
SETTINGS = {"every": 5, "placebo": Scrambled, "answers": ["42"], "think": 4, "tokens": 6}
NOT_TOKENS = ("pages_copied", "pages_peak", "seconds", "drafted", "accepted", "preemptions", "recomputed", "reused",
              "computed")
LIST = PromptSet(answer_lead="\n\nAnswer: ")  # a random model closes no box, but says something on a line


@lru_cache
def leap(name="llama", dtype=torch.float32, **engine):
    made = generator(name, dtype, SMALL.replace(**engine))
    made.prompts = LIST
    return made


def run(made, protocol=Leap, n=3, config=LEAP, **options):
    output = made.generate(QUESTION, n=n, leap=config, sampling=SAMPLING, seed=2, protocol=protocol, **options)
    made.engine.check_integrity()
    assert made.engine.pool.num_used == 0, "pages leaked"
    return output


def tokens_of(output):
    """Tokens, their probabilities to the last bit, and who read what."""
    return [[asdict(segment) for segment in path.segments] for path in output.paths], [
        asdict(block) for block in output.blocks], [path.answer for path in output.paths]


def counts_of(output):
    return {name: value for name, value in asdict(output.ledger).items() if name not in NOT_TOKENS}


@pytest.mark.parametrize("drafts", [0, 4])
@pytest.mark.parametrize("changes", [{}, {"keep_summary": False}, {"finished_share": True}, {"max_blocks": 0},
                                     {"force_answer": False}], ids=str)
def test_the_run_is_bit_for_bit_that_without_probes(changes, drafts):
    """Would catch: a path that goes on from its probe, draws the probe's numbers, or is drawn by another sampler because a
    probe is greedy; probes counted as the run's."""
    made, config = leap(draft_tokens=drafts), LEAP.replace(**changes)
    plain, looked_at = run(made, config=config), run(made, partial(Probed, **SETTINGS), config=config)
    assert tokens_of(looked_at) == tokens_of(plain)
    assert counts_of(looked_at) == counts_of(plain)
    assert looked_at.ledger.forks == plain.ledger.forks
    assert drafts or looked_at.ledger.computed == plain.ledger.computed
    kinds = [probe.kind for probe in probes_of(looked_at.probes)]
    assert kinds.count("end") == 3 and kinds.count("share") >= 3
    read = sum(len(block.routes) for block in plain.blocks)
    assert kinds.count("before") == kinds.count("after") == kinds.count("placebo") == kinds.count("alone") == read
    assert looked_at.probes["ledger"]["decoded"] > 0 and not plain.probes


def greedy(made, tokens):
    """What plain greedy decoding says after these tokens."""
    engine, ends = Engine(made.model, SMALL.replace(draft_tokens=0)), {2, made.tokenizer.eos_token_id}
    sequence = engine.add(tokens, SamplingConfig.greedy(), limit=len(tokens) + 6, stop_tokens=ends)
    while engine.has_work:
        engine.step()
    text = TextStream(made.tokenizer, tokens)
    text.extend(token for token in sequence.tokens[len(tokens) :] if token not in ends)
    return text.text


@pytest.mark.parametrize("think", [0, 4])
def test_a_probe_says_what_the_path_would_say_at_its_place(think):
    """Would catch: a probe before the comment that has read it, one after it that has not, one behind the end of thinking or
    beside a cut; probabilities of another answer, or without the phrase."""
    made = leap(dtype=torch.float64)
    output = run(made, partial(Probed, **{**SETTINGS, "think": think}), config=LEAP.replace(min_new_tokens=36))
    phrase = made.vocabulary.encode([LIST.forced_answer + LIST.answer_lead], after=output.paths[0].segments[0].token_ids)
    compared = []
    for probe in probes_of(output.probes):
        if probe.kind not in ("before", "after", "end"):
            continue
        said, ends = [], "forced" if probe.kind == "end" else "comment"
        segments = output.paths[probe.path].segments
        for segment, following in zip(segments, [*segments[1:], None], strict=True):
            here = segment.kind == ends and segment.block == probe.block
            if here and probe.kind != "after":
                break
            said += segment.token_ids
            if here:
                said += following.token_ids[:think]
                break
        tokens = [*said, *phrase]
        text = greedy(made, tokens).split("\n")[0]
        assert (probe.answer or "") == (extract_answer(LIST.answer_lead + text) or "")
        for answer, logprob in probe.logprobs.items():
            drawn = [one.token_ids for one in probes_of(output.probes) if one.answer == answer and one.kind == "before"]
            ids = made.vocabulary.encode([answer], after=tokens) if answer == "42" else drawn[0]
            logprobs = full_logits(made.model, [*tokens, *ids]).log_softmax(dim=-1)[len(tokens) - 1 : -1]
            assert abs(logprob - sum(float(row[token]) for row, token in zip(logprobs, ids, strict=True))) < 1e-4
            compared.append((probe.kind, answer))
    assert {kind for kind, _ in compared} == {"before", "after", "end"}
    assert len({answer for _, answer in compared}) > 3, "nothing but the given answer was scored"


def test_a_placebo_s_fork_reasons_as_the_path_does():
    """Would catch: a placebo whose fork draws other numbers, stops elsewhere or forgets its thoughts: told what its path
    reads, it must say what its path says."""
    output = run(leap(), partial(Probed, placebo=Leap, think=6, tokens=6), n=4, config=LEAP.replace(top_k_peers=1))
    probes = probes_of(output.probes)
    for thought, placebo in [(one, other) for one in probes if one.kind == "after" for other in probes
                             if other.kind == "placebo" and (other.path, other.block) == (one.path, one.block)]:
        assert thought.own_tokens == placebo.own_tokens + 6
        assert (placebo.answer, placebo.token_ids, placebo.logprobs) == (thought.answer, thought.token_ids, thought.logprobs)
    assert len([one for one in probes if one.kind == "placebo"]) == 8


def test_the_answers_in_question_are_the_path_s_and_its_peers():
    """Would catch: scores of another block's answers, a peer's answer after its comment, and answers scored twice."""
    output = run(leap(), partial(Probed, placebo=OwnSummary, tokens=6), n=4)
    probes = probes_of(output.probes)
    for probe in probes:
        if probe.block is None:
            assert probe.logprobs == {} and probe.peers == []
            continue
        assert probe.peers == [route.peer for route in output.blocks[probe.block].routes[probe.path]]
        before = {one.path: one.answer for one in probes if one.kind == "before" and one.block == probe.block}
        wanted = [before[path] for path in (probe.path, *probe.peers)]
        assert list(probe.logprobs) == list(dict.fromkeys(answer for answer in wanted if answer is not None))
        assert all(logprob < 0 for logprob in probe.logprobs.values())
        assert standing(probes, probe.path, probe.block).answer == before[probe.path]


def test_placebos_are_probed_and_are_what_is_read():
    """Would catch: a mixin that loses a placebo's own settings or words, or what makes none of it."""
    bank = {(1, 2): [["nothing of the kind"]] * 3}
    made = leap()
    plain = run(made, partial(Strangers, bank=bank))
    looked_at = run(made, probed(partial(Strangers, bank=bank), tokens=6))
    assert tokens_of(looked_at) == tokens_of(plain)
    assert "nothing of the kind" in plain.paths[0].text
    assert looked_at.made_with["protocol"] == "ProbedStrangers"
    nobody = run(made, probed(placebo=partial(Strangers, bank={})))
    assert not any(probe.kind == "placebo" for probe in probes_of(nobody.probes)), "there was nothing to read"
    with pytest.raises(TypeError, match="probed takes Leap"):
        probed(Independent)
    for name, value in (("every", 0), ("tokens", 0), ("think", -1), ("think", 13)):
        with pytest.raises(ValueError, match=f"{name}={value} is not allowed"):
            run(made, probed(**{name: value}))


def test_a_run_interrupted_anywhere_has_the_same_probes_in_the_end():
    """Would catch: a probe that is lost when a run is stopped while it is asked, or taken twice; lost costs."""
    made, protocol = leap(), partial(Probed, **SETTINGS)
    whole = run(made, protocol)
    stopped_within = 0
    for events in range(5, 140, 15):
        with made.stream(QUESTION, n=3, leap=LEAP, sampling=SAMPLING, seed=2, protocol=protocol) as stream:
            for _ in range(events):
                next(stream, None)
            output = stream.outputs()[0]
        stopped_within += bool(output.probes.get("open"))
        again = made.resume(LeapOutput.from_dict(json.loads(json.dumps(output.to_dict()))), protocol=protocol)
        assert tokens_of(again) == tokens_of(whole)
        assert sorted(map(str, again.probes["taken"])) == sorted(map(str, whole.probes["taken"]))
        assert again.probes["open"] == []
    assert stopped_within > 5
    assert made.engine.pool.num_used == 0, "pages leaked"


def test_a_context_or_a_pool_without_space_for_probes_leaves_the_run_as_it_is():
    """Would catch: a probe beyond the context that ends the run, or one that takes the pages of the path it came from."""
    config, kv_bytes = LEAP.replace(force_answer=False, max_new_tokens=500), 2 * 2 * 2 * 8 * 4
    for engine in ({"context_length": 150}, {"kv_cache_bytes": 260 * kv_bytes, "context_length": 150}):
        made = leap(**engine)
        plain, looked_at = run(made, config=config), run(made, partial(Probed, **SETTINGS), config=config)
        assert tokens_of(looked_at) == tokens_of(plain)
    assert looked_at.probes["ledger"]["decoded"] and looked_at.ledger.preemptions, "nothing was tight: it could not fail"
