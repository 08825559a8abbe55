"""The sampler against transformers' own logits processors, and its promises to each row."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from leapgen.config import SamplingConfig
from leapgen.engine import NonFiniteLogitsError, Sequence, Stream
from leapgen.engine.backends.cpu import backend as cpu_backend
from leapgen.engine.memory.holding import Holding
from leapgen.engine.memory.pages import PagePool
from leapgen.engine.sampling import host
from leapgen.engine.sampling.host import TIE_SLACK, draw
from leapgen.engine.sequence import Phases
from leapgen.record.ledger import Ledger

GRID = 20_000
MARGIN = 1e-5  # how far from a filter's boundary every token must be, so that float32 rounding cannot tip it


def sequence(config=None, tokens=(1,), path=0, stop_tokens=(), min_length=0):
    return Sequence(id=path, family=path, tokens=list(tokens), sampled=bytearray(len(tokens)),
                    sampling=config or SamplingConfig(), stream=Stream(3, path), limit=1 << 20,
                    stop_tokens=frozenset(stop_tokens), min_length=min_length, ledger=Ledger(),
                    holding=Holding(PagePool(1, 1), lambda *_: None), phases=Phases([0], [""]))


def sample(logits, lengths, sequences):
    """As the engine draws on CPU: by the compiled sampler where that serves the rows."""
    sampled = cpu_backend.CPUBackend().sample(logits, lengths, sequences)
    return host.sample(logits, lengths, sequences) if sampled is None else sampled


both = pytest.mark.parametrize("sample", [sample, host.sample], ids=["cpu", "torch"])


def sweep(monkeypatch, logits, who, points=GRID, sample=sample):
    """A draw of one row [vocab] at evenly spread uniforms: one of probability p comes p * points times, +- 1."""
    grid = (np.arange(points) + 0.5) / points
    with monkeypatch.context() as patch:
        for module in (host, cpu_backend):
            patch.setattr(module, "uniforms", lambda streams, positions: grid)
        return sample(logits.expand(points, -1), [len(who)] * points, [who] * points)


def frequencies(tokens, vocab):
    return np.bincount(tokens, minlength=vocab) / len(tokens)


# -- the reference: transformers' processors, in the order its generate applies them ---------------------------------


def penalised(logits, config, tokens):
    """[1, vocab] float32 after the repetition penalty, before any warper."""
    scores = logits[None].float()
    if config.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(config.repetition_penalty)(torch.tensor([tokens]), scores)
    return scores


def truncated(scores, config):
    """[1, vocab] after temperature and top-k."""
    scores = TemperatureLogitsWarper(config.temperature)(None, scores)
    return scores if config.top_k is None else TopKLogitsWarper(config.top_k)(None, scores)


def reference(logits, config, tokens):
    """Probabilities [vocab] float64 under transformers' processed distribution."""
    scores = truncated(penalised(logits, config, tokens), config)
    if config.top_p < 1:
        scores = TopPLogitsWarper(config.top_p)(None, scores)
    if config.min_p > 0:
        scores = MinPLogitsWarper(config.min_p)(None, scores)
    return scores.double().softmax(dim=-1)[0].numpy()


def clear_of_boundaries(logits, config, tokens):
    weights = truncated(penalised(logits, config, tokens), config).double().softmax(dim=-1)[0]
    weights = weights.sort(descending=True).values
    before = weights.cumsum(0) - weights
    clear = config.top_p == 1 or float((before - config.top_p).abs().min()) > MARGIN
    return clear and (config.min_p == 0 or float((weights / weights[0] - config.min_p).abs().min()) > MARGIN)


@st.composite
def rows(draw):
    """Logits [vocab]: smooth, bfloat16 (many ties), or a few values only (more ties than the slack holds)."""
    vocab = draw(st.integers(12, 300))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    logits = torch.randn(vocab, generator=generator) * draw(st.sampled_from([0.3, 1.0, 4.0]))
    kind = draw(st.sampled_from(["float32", "bfloat16", "levels", "levels"]))
    if kind == "bfloat16":
        return (logits + 8).bfloat16()  # steps of 1/16
    return logits if kind == "float32" else (logits * 1.5).round()


@st.composite
def configs(draw, vocab):
    return SamplingConfig(
        temperature=draw(st.sampled_from([0.4, 0.6, 1.0, 1.7])),
        top_k=draw(st.none() | st.integers(1, vocab + 5) | st.integers(1, max(vocab - TIE_SLACK - 1, 1))),
        top_p=draw(st.just(1.0) | st.floats(0.05, 0.99)), min_p=draw(st.just(0.0) | st.floats(0.001, 0.6)),
        repetition_penalty=draw(st.just(1.0) | st.floats(0.7, 1.8)))


@settings(max_examples=100, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
@given(data=st.data())
def test_distribution_is_that_of_transformers_warpers(data):
    """Would catch: another order of filters, ties with the k-th dropped, ids mixed up by sorting, wrong logprobs.

    Stratified draws miss a probability by less than one draw in GRID. Where a tie lies across the top-p boundary
    transformers keeps any of the tied (its sort is not stable), so tokens of equal score are interchangeable there.
    """
    logits = data.draw(rows())
    vocab = len(logits)
    config = data.draw(configs(vocab))
    tokens = data.draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=20))
    assume(clear_of_boundaries(logits, config, tokens))
    expected = reference(logits, config, tokens)
    scores = penalised(logits, config, tokens)[0].numpy()
    with pytest.MonkeyPatch.context() as monkeypatch:
        # The penalty is a loop over rows: few draws show that sample() applies it, draw() shows the rest.
        sampled = sweep(monkeypatch, logits, sequence(config, tokens), points=100)
    points = torch.from_numpy((np.arange(GRID) + 0.5) / GRID)
    # In slices of different height, as batches come.
    parts = [draw(torch.from_numpy(scores).expand(len(part), -1), config, part)
             for part in points.split([1, 7, 4000, GRID - 4008])]
    drawn = torch.cat([ids for ids, _ in parts]).numpy()
    drawn_logprobs = torch.cat([logprobs for _, logprobs in parts]).numpy()

    observed = frequencies(drawn, vocab)
    order, expected_order = np.lexsort((observed, scores)), np.lexsort((expected, scores))
    np.testing.assert_allclose(observed[order], expected[expected_order], rtol=0, atol=1 / GRID + 1e-5)
    least_kept = scores[expected > 0].min()
    if not (expected[scores == least_kept] == 0).any():  # no tie across the top-p boundary
        assert set(drawn) <= set(np.flatnonzero(expected))
        assert set(drawn) >= set(np.flatnonzero(expected > 1.1 / GRID))
        assert 0.5 * np.abs(observed - expected).sum() <= (expected > 0).sum() / GRID / 2 + 1e-5

    probability = {score: expected[scores == score].max() for score in np.unique(scores)}
    for ids, logprobs in ((drawn, drawn_logprobs), (sampled.tokens, sampled.sampling_logprobs)):
        wanted = np.log([probability[scores[token]] for token in ids])
        np.testing.assert_allclose(logprobs, wanted, rtol=1e-6, atol=1e-5)
    few = frequencies(sampled.tokens, vocab)
    np.testing.assert_allclose(few[np.lexsort((few, scores))], expected[expected_order], rtol=0, atol=1 / 100 + 1e-5)
    np.testing.assert_allclose(sampled.logprobs, logits.double().log_softmax(0)[sampled.tokens], rtol=1e-6, atol=1e-5)


@both
@pytest.mark.parametrize("tied", [2, TIE_SLACK, TIE_SLACK + 1, TIE_SLACK + 2, 200])
def test_all_ties_with_the_kth_are_kept(monkeypatch, tied, sample):
    """Would catch: an off-by-one in the slack; bfloat16 logits tie at the k-th in most steps."""
    logits = torch.full((400,), -5.0)
    logits[7] = 3.0
    logits[100 : 100 + tied] = 2.0  # the second most likely
    config = SamplingConfig(temperature=1.0, top_k=2, top_p=1.0)
    drawn = sweep(monkeypatch, logits, sequence(config), sample=sample).tokens
    assert set(drawn) == {7, *range(100, 100 + tied)}


def test_every_uniform_below_one_draws_a_token_that_is_kept():
    """Would catch: the last uniform or zero landing past the end, or on a filtered token of weight 0."""
    generator = torch.Generator().manual_seed(0)
    for top_k, top_p, min_p in ((None, 1.0, 0.0), (None, 1.0, 0.2), (5, 1.0, 0.0), (40, 0.9, 0.0), (None, 0.5, 0.05)):
        config = SamplingConfig(temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p)
        logits = torch.randn(200, 90, generator=generator) * 3
        logits[:, :3] = logits[:, -3:] = -torch.inf  # at both ends of the vocabulary
        for uniform in (0.0, 1 - 2.0**-53):
            tokens, logprobs = draw(logits, config, torch.full((200,), uniform, dtype=torch.float64))
            assert logits.gather(1, tokens[:, None]).isfinite().all()
            assert logprobs.isfinite().all()


# -- what each row is promised ----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(logits=rows(), penalty=st.sampled_from([1.0, 1.5]), tokens=st.lists(st.integers(0, 11), min_size=1))
def test_greedy_is_the_argmax_whatever_the_uniform(logits, penalty, tokens):
    """Would catch: temperature 0 divided by, or greedy that skips the repetition penalty."""
    scores = penalised(logits, SamplingConfig(repetition_penalty=penalty), tokens)[0]
    with pytest.MonkeyPatch.context() as monkeypatch:
        sampled = sweep(monkeypatch, logits, sequence(SamplingConfig.greedy(repetition_penalty=penalty), tokens), 5)
    assert len(set(sampled.tokens)) == 1
    assert scores[sampled.tokens[0]] == scores.max()
    assert sampled.sampling_logprobs == [0.0] * 5
    np.testing.assert_allclose(sampled.logprobs, logits.double().log_softmax(0)[sampled.tokens], rtol=1e-6, atol=1e-5)


CONFIGS = [SamplingConfig(), SamplingConfig.greedy(), SamplingConfig(temperature=1.0, top_k=None, top_p=1.0),
           SamplingConfig(temperature=1.3, top_k=None, top_p=0.8), SamplingConfig(top_k=3, min_p=0.1, top_p=1.0),
           SamplingConfig(temperature=2.0, repetition_penalty=1.4), SamplingConfig(logprobs=False),
           SamplingConfig(logits_processors=(SuppressTokensLogitsProcessor(list(range(0, 150, 2))),))]


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_row_draws_the_same_alone_and_in_a_batch(dtype, sample):
    """Would catch: settings, processors or random numbers of one row that reach another; rows mixed up by grouping."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(64, 150, generator=generator) * 2).to(dtype)
    who = [sequence(CONFIGS[i % len(CONFIGS)], tokens=range(1 + i % 5), path=i, stop_tokens={3, 140}, min_length=i % 7)
           for i in range(64)]
    lengths = [len(s) for s in who]
    before = logits.clone()
    together = sample(logits, lengths, who)
    assert torch.equal(logits, before), "the caller's logits were changed"
    for i, s in enumerate(who):
        alone = sample(logits[i : i + 1], lengths[i : i + 1], [s])
        assert alone.tokens[0] == together.tokens[i]
        if s.sampling.logprobs:
            assert alone.logprobs[0] == pytest.approx(together.logprobs[i], abs=1e-6)
            assert alone.sampling_logprobs[0] == pytest.approx(together.sampling_logprobs[i], abs=1e-6)
        else:
            assert alone.logprobs == alone.sampling_logprobs == [None]
            assert together.logprobs[i] is together.sampling_logprobs[i] is None
    assert len(set(together.tokens)) > 20, "the rows agree by chance: the test could not fail"


def test_equal_settings_are_drawn_in_one_pass_whosever_they_are(monkeypatch):
    """Would catch: a pass over the logits for every sequence that was given settings of its own: thirty times as slow."""
    passes = []

    def counted(scores, config, uniform):
        passes.append(len(scores))
        return draw(scores, config, uniform)

    monkeypatch.setattr(host, "draw", counted)
    who = [sequence(SamplingConfig(temperature=0.5 + i % 2), path=i) for i in range(7)]
    logits = torch.randn(7, 90, generator=torch.Generator().manual_seed(0))
    tokens = host.sample(logits, [1] * 7, who).tokens
    assert passes == [4, 3]
    assert tokens == [host.sample(logits[i : i + 1], [1], [one]).tokens[0] for i, one in enumerate(who)]


def test_processors_that_are_equal_are_each_called_for_their_own_sequence():
    """Would catch: settings taken for the same because their processors compare equal, one's state fed by another's row."""
    @dataclass
    class Counter:
        calls: int = 0

        def __call__(self, input_ids, scores):
            self.calls += 1
            return scores

    counters = [Counter(), Counter()]
    who = [sequence(SamplingConfig(logits_processors=(counter,)), path=i) for i, counter in enumerate(counters)]
    assert who[0].sampling == who[1].sampling
    sample(torch.zeros(2, 90), [1, 1], who)
    assert [counter.calls for counter in counters] == [1, 1]


@both
def test_tied_tokens_are_drawn_alike_alone_and_beside_a_row_with_many_ties(sample):
    """Would catch: a neighbour whose ties exceed the slack changes the order in which this row's ties are laid out.

    With bfloat16 logits nearly every row has ties, so the order decides which token a uniform stands for.
    """
    config = SamplingConfig(temperature=1.0, top_k=20, top_p=1.0)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(40, 500, generator=generator) * 2 + 8).bfloat16()
    flat = torch.zeros(1, 500, dtype=torch.bfloat16)  # everything ties with the k-th
    differ = []
    for i, row in enumerate(logits):
        who = sequence(config, path=i)
        alone = sample(row[None], [1], [who]).tokens[0]
        beside = sample(torch.cat([row[None], flat]), [1, 1], [who, sequence(config, path=99)]).tokens[0]
        if alone != beside:
            differ.append((i, alone, beside))
    assert not differ


@both
def test_no_stop_token_below_the_minimum_length(monkeypatch, sample):
    """Would catch: a minimum that is off by one, or that masks for good."""
    logits = torch.zeros(20)
    logits[5] = 9.0
    config = SamplingConfig(temperature=1.0, top_k=None, top_p=1.0)
    for length, allowed in ((1, False), (3, False), (4, True), (9, True)):
        who = sequence(config, tokens=range(length), stop_tokens={5, 6, 4000}, min_length=4)
        sampled = sweep(monkeypatch, logits, who, 10_000, sample)
        assert set(sampled.tokens) == set(range(20)) - (set() if allowed else {5, 6})
        greedy = sequence(SamplingConfig.greedy(), tokens=range(length), stop_tokens={5, 6}, min_length=4)
        assert (sample(logits[None], [length], [greedy]).tokens == [5]) is allowed
        # The model's own log-probability knows of no mask.
        np.testing.assert_allclose(sampled.logprobs, logits.double().log_softmax(0)[sampled.tokens], atol=1e-5)


class Recorder(LogitsProcessor):
    """Keeps what it was called with, and bans everything but one token."""

    def __init__(self, keep):
        self.keep, self.calls = keep, []

    def __call__(self, input_ids, scores):
        self.calls.append((input_ids.clone(), scores.clone()))
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([self.keep]), 0.0)


def test_a_logits_processor_sees_one_sequence_after_the_penalty_and_before_the_temperature():
    """Would catch: processors handed a batch, another row's tokens, half-precision or already warped scores."""
    recorders = [Recorder(7), Recorder(11)]
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    penalised_first = SamplingConfig(temperature=0.5, repetition_penalty=1.3, logits_processors=[recorders[0]])
    who = [sequence(penalised_first, [3, 4, 4]), sequence(SamplingConfig(temperature=0.5)),
           sequence(SamplingConfig.greedy(logits_processors=[recorders[1]]), [9])]
    tokens = sample(logits, [len(s) for s in who], who).tokens
    assert tokens[0] == 7
    assert tokens[2] == 11
    assert tokens[1] == sample(logits[1:2], [1], [who[1]]).tokens[0]
    for row, recorder in zip((0, 2), recorders, strict=True):
        (input_ids, scores), = recorder.calls
        assert input_ids.tolist() == [who[row].tokens]
        assert input_ids.dtype == torch.int64
        assert scores.dtype == torch.float32
        expected = penalised(logits[row], who[row].sampling, who[row].tokens)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


@both
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("config", [SamplingConfig(), SamplingConfig.greedy()], ids=["sampled", "greedy"])
def test_non_finite_logits_name_path_and_position(bad, config, sample):
    """Would catch: a path that goes on with a token drawn from NaN, or an error that does not say where to look."""
    logits = torch.zeros(5, 30)
    logits[1, 4] = -torch.inf  # a token the model rules out is no damage
    if bad == -torch.inf:
        logits[3] = bad
    else:
        logits[3, 8] = bad
    who = [sequence(config, tokens=range(10 + i), path=40 + i) for i in range(5)]
    lengths = [len(s) for s in who]
    sample(logits[:3], lengths[:3], who[:3])
    with pytest.raises(NonFiniteLogitsError, match=r"path 43 at position 13\b") as raised:
        sample(logits, lengths, who)
    assert (raised.value.path, raised.value.position) == (43, 13)


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("fill", [-torch.inf, torch.nan])
def test_a_processor_that_leaves_no_token_is_an_error_that_says_so(fill, top_k):
    """Would catch: an index past the vocabulary instead, which on CUDA is a device assert that ends the process."""
    config = SamplingConfig(top_k=top_k, logits_processors=[lambda input_ids, scores: torch.full_like(scores, fill)])
    with pytest.raises((ValueError, ArithmeticError)):
        sample(torch.zeros(1, 30), [1], [sequence(config)])
