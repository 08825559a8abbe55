"""Invariants 1, 3, 5 and 6 in whole LeaP runs, on every architecture the project names."""

import pytest
import tiny
import torch
from leap_run import LEAP, QUESTION, SAMPLING, generator
from oracle import LogitsRecorder, full_logits

from leapgen.engine import Stream
from leapgen.engine.sampling.host import draw
from leapgen.engine.sampling.random import uniforms
from leapgen.record.run import SAMPLED_KINDS


def rows_by_tokens(recorder):
    """The recorded logits by the tokens before them: what was sampled on a fork is found again in its path."""
    return {tuple(sequence.tokens[:length]): row for sequence, rows in recorder.rows.items()
            for length, row in rows.items() if length < len(sequence.tokens)}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_every_sampled_token_saw_the_logits_of_a_full_forward(name, dtype, tolerance):
    """Would catch: anything wrong between a fork, a cut, a summary and a comment, at any token of the run."""
    leap = generator(name, dtype)
    recorder = LogitsRecorder(leap.engine)
    no_early_end = LEAP.replace(min_new_tokens=LEAP.max_new_tokens)
    output = leap.generate(QUESTION, n=4, leap=no_early_end, sampling=SAMPLING)
    assert len(output.blocks) == 2 and all(len(block.routes) == 4 for block in output.blocks)
    rows = rows_by_tokens(recorder)
    for path in output.paths:
        tokens = path.token_ids
        expected = full_logits(leap.model, tokens)
        sampled = [i for i, kind in enumerate(path.provenance) if kind in SAMPLED_KINDS]
        assert len(sampled) > LEAP.max_new_tokens / 2
        for i in sampled:
            error = (rows[tuple(tokens[:i])] - expected[i - 1]).abs().max()
            assert error < tolerance, f"path {path.index}, token {i} ({path.provenance[i]}): {error}"


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_every_token_is_the_one_a_full_forward_would_have_drawn(name):
    """Would catch: logits that are close but lead elsewhere, a random number used for the wrong token (float64)."""
    leap = generator(name, torch.float64)
    output = leap.generate(QUESTION, n=4, leap=LEAP.replace(min_new_tokens=LEAP.max_new_tokens), sampling=SAMPLING, seed=5)
    forbidden = [2, leap.tokenizer.eos_token_id]  # ends, while a path has fewer than min_new_tokens
    for path in output.paths:
        logits = full_logits(leap.model, path.token_ids)
        position, blocks, drawn = 0, 0, 0
        for segment in path.segments:
            branch = blocks if segment.kind != "summary" else segment.block + 1
            for token in segment.token_ids:
                if segment.sampled:
                    scores = logits[position - 1 : position].clone()
                    if segment.kind == "own":
                        scores[:, forbidden] = -torch.inf
                    uniform = torch.from_numpy(uniforms([Stream(5, path.index, branch)], [position]))
                    assert int(draw(scores, SAMPLING, uniform)[0]) == token
                    drawn += 1
                position += 1
            blocks += segment.kind == "comment"
        assert blocks == 2 and drawn >= LEAP.max_new_tokens


@pytest.mark.parametrize("keep_summary", [True, False])
def test_logprobs_are_those_of_a_full_forward(keep_summary):
    """Would catch: log-probabilities that stand beside another token than their own, or after filtering."""
    leap = generator()
    output = leap.generate(QUESTION, n=3, leap=LEAP.replace(keep_summary=keep_summary), sampling=SAMPLING)
    for path in output.paths:
        expected = full_logits(leap.model, path.token_ids).log_softmax(dim=-1)
        for i, logprob in enumerate(path.logprobs):
            assert (logprob is not None) == (path.provenance[i] in SAMPLED_KINDS)
            if logprob is not None:
                assert abs(logprob - float(expected[i - 1, path.token_ids[i]])) < 1e-4
                assert path.sampling_logprobs[i] <= 1e-6


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("thinking", [False, True])
def test_prefilled_is_the_prompt_once_and_every_injected_token(n, thinking):
    """Would catch: a prompt prefilled for each path, a comment computed twice, a block that recomputes its path."""
    leap = generator(thinking=thinking)
    output = leap.generate(QUESTION, n=n, leap=LEAP, sampling=SAMPLING)
    prompt = output.paths[0].count("prompt")
    injected = sum(path.count("trigger", "closing", "comment", "forced") for path in output.paths)
    assert output.ledger.prefilled == prompt + injected
    assert output.ledger.injected == injected
    assert output.ledger.recomputed == 0
    kept = sum(path.count(*SAMPLED_KINDS) for path in output.paths)
    assert output.ledger.decoded == kept + output.ledger.discarded
    leap.engine.check_integrity()
    assert leap.engine.pool.num_used == 0


def test_token_ids_are_what_the_engine_computed():
    """Would catch: segments that differ from the tokens the model really had in its context."""
    leap = generator()
    seen = []
    release = leap.engine.release
    leap.engine.release = lambda sequence: (seen.append((list(sequence.tokens), bytes(sequence.sampled))), release(sequence))
    output = leap.generate(QUESTION, n=3, leap=LEAP, sampling=SAMPLING)
    for path in output.paths:
        sampled = bytes(kind in SAMPLED_KINDS for kind in path.provenance)
        assert (path.token_ids, sampled) in seen
