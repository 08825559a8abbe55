"""The score verb: log-probabilities of forced tokens, in the passes that compute them, against one full forward."""

import math

import pytest
import tiny
import torch
from oracle import full_logits

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, NonFiniteLogitsError, Stream
from leapgen.engine.sampling.scoring import score
from leapgen.record.ledger import Ledger

PROMPT = [3 + 5 * i % 150 for i in range(30)]
ANSWER = [9, 8, 7, 6, 5]
SAMPLING = SamplingConfig(temperature=1.0, top_k=None, top_p=1.0)


def engine_of(model, **config):
    return Engine(model, EngineConfig(**{"page_size": 4, "kv_cache_bytes": 1 << 22, "max_step_tokens": 16, **config}))


def finish(engine):
    """To the end; how many rows of logits went through, by step."""
    rows = []
    while engine.has_work:
        engine.step()
        engine.check_integrity()
        rows.append(sum(len(chunk.scores) for chunk in engine.last_step))
    return rows


def expected(model, tokens, start, end=None):
    logprobs = full_logits(model, tokens).double().log_softmax(dim=-1)
    return [float(logprobs[i - 1, tokens[i]]) for i in range(start, end or len(tokens))]


def close(found, wanted, tolerance=1e-6):
    return len(found) == len(wanted) and all(abs(a - b) < tolerance for a, b in zip(found, wanted, strict=True))


# Small pools, odd chunks, forks that wait, drafts and stops in between: test_engine_machine.py.


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_scores_are_those_of_a_full_forward(name):
    """Would catch: rows that are off by one, logits before a softcap or a scaling, a chunk's first token left out."""
    experts = {"experts_implementation": "eager"}  # transformers' grouped expert kernels have no float64 form
    model = tiny.build(name, torch.float64, **experts)
    engine = engine_of(model)
    sequence = engine.add([*PROMPT, *ANSWER], limit=0)
    scores = engine.score(sequence, 1, top=3)
    finish(engine)
    assert scores.done and close(scores.logprobs, expected(model, sequence.tokens, 1), 1e-5)
    full = full_logits(model, sequence.tokens).log_softmax(dim=-1)
    for position, top in enumerate(scores.tops):
        values, ids = full[position].topk(3)
        assert [token for token, _ in top] == ids.tolist()
        assert close([logprob for _, logprob in top], values.tolist(), 1e-5)


def test_scoring_takes_no_pass_of_its_own(llama):
    """Would catch: a second forward pass for the scores, or the token before them computed twice where it is to come."""
    counts = []
    for asked in (False, True):
        engine, ledger = engine_of(llama), Ledger()
        sequence = engine.add(PROMPT, SAMPLING, limit=len(PROMPT) + 3, ledger=ledger)
        finish(engine)
        engine.extend(sequence, ANSWER, limit=0)
        if asked:
            scores = engine.score(sequence, len(PROMPT) + 3)
        counts.append((len(finish(engine)), ledger.computed, ledger.prefilled))
    assert counts[0] == counts[1]
    assert close(scores.logprobs, expected(llama, sequence.tokens, len(PROMPT) + 3))


def test_what_was_computed_already_is_scored_by_computing_it_again(llama):
    """Would catch: KV of a shared page lost when positions in its middle are computed again; a paused sequence that goes on
    to sample, or positions that are counted as if they were new."""
    engine, ledger = engine_of(llama), Ledger()
    sequence = engine.add([*PROMPT, *ANSWER], SAMPLING, limit=44, ledger=ledger)
    finish(engine)
    twin = engine.fork(sequence, stream=Stream(0, 1))
    tokens, prefilled = list(sequence.tokens), ledger.prefilled
    scores = engine.score(sequence, 6)
    assert len(finish(engine)) == -(-39 // 16)
    assert close(scores.logprobs, expected(llama, tokens, 6)) and sequence.tokens == tokens
    assert ledger.prefilled == prefilled
    engine.extend(sequence, limit=60)
    engine.extend(twin, stream=sequence.stream, limit=60)
    again = engine.score(sequence, 20)  # and decodes on, once it is scored
    finish(engine)
    assert sequence.tokens == twin.tokens and len(twin) == 60
    assert close(again.logprobs, expected(llama, tokens, 20))


def test_the_rows_of_a_step_are_bounded(llama):
    """Would catch: a long prefill whose logits are all held at once: 2,048 rows of 150,000 are more than a gigabyte."""
    engine = engine_of(llama, max_step_tokens=64)
    engine.scheduler.max_scored = 5
    root = engine.add(PROMPT, limit=0)
    forks = [engine.fork(root) for _ in range(7)]  # more at one position than the bound: it goes by itself
    for i, fork in enumerate(forks):
        engine.extend(fork, [20 + i, *ANSWER], limit=0)
    scores = [engine.score(fork, len(PROMPT) - 1) for fork in forks]
    scores.append(engine.score(root, 1))
    assert max(finish(engine)) <= len(forks) + 1
    for sequence, one in zip([*forks, root], scores, strict=True):
        assert close(one.logprobs, expected(llama, sequence.tokens, one.start))
    alone = engine.add(PROMPT, limit=0)
    engine.score(alone, 1)
    assert max(finish(engine)) == 5


def test_a_crop_takes_scores_back(llama):
    """Would catch: scores of tokens that are no longer there, or a sequence that is scored for ever."""
    engine = engine_of(llama)
    sequence = engine.add(PROMPT, limit=0)
    kept = engine.score(sequence, 3)
    engine.step()
    engine.crop(sequence, 20)
    engine.extend(sequence, ANSWER, limit=0)
    finish(engine)
    assert close(kept.logprobs, expected(llama, PROMPT, 3, 20))
    gone = engine.score(sequence, 22)
    engine.crop(sequence, 21)
    assert gone.done and not gone.logprobs and sequence.scores is None


def test_bad_arguments_are_refused(llama):
    engine = engine_of(llama)
    sequence = engine.add(PROMPT)
    for start in (0, len(PROMPT)):
        with pytest.raises(ValueError, match=f"start={start} is not allowed: score takes 1 .. 29"):
            engine.score(sequence, start)
    with pytest.raises(ValueError, match="top=-1 is not allowed"):
        engine.score(sequence, 1, top=-1)
    engine.score(sequence, 1)
    with pytest.raises(ValueError, match="is still to be scored from 1 on"):
        engine.score(sequence, 2)


def test_logits_that_are_no_numbers_are_refused_by_name(llama):
    """Would catch: NaN handed out as a probability; and an id beyond the head's rows that reads another's."""
    engine = engine_of(llama)
    sequence = engine.add(PROMPT, stream=Stream(0, 4))
    rows = torch.zeros(2, tiny.VOCAB)
    with pytest.raises(NonFiniteLogitsError, match="path 4 at position 3"):
        score(torch.stack([rows[0], rows[1] * torch.nan]), [(2, sequence), (3, sequence)])
    wide = score(rows[:, :4], [(1, sequence), (2, sequence)])
    assert sequence.tokens[1] >= 4 and [one.logprob for one in wide] == [-math.inf, -math.inf]
    assert score(rows[:, : PROMPT[1] + 1], [(1, sequence)])[0].logprob == pytest.approx(-math.log(PROMPT[1] + 1))
