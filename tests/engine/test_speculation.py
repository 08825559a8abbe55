"""Drafts: the same tokens with and without, more of them a step, and no more guessed than pays."""

import pytest
import tiny
import torch
from leap_run import LEAP, QUESTION, generator
from leapgen_kernels import cpu
from oracle import LogitsRecorder

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, Sequence, Stream
from leapgen.engine.memory.holding import Holding
from leapgen.engine.memory.pages import PagePool
from leapgen.engine.sampling.host import NonFiniteLogitsError
from leapgen.engine.sequence import Phases
from leapgen.engine.speculation import FORGET, PRIOR, SIZES, Drafter, History, StepTimes
from leapgen.record.ledger import Ledger

CYCLE = [5, 9, 17, 33, 65, 129, 98, 36]
PROMPT = CYCLE * 4  # much to guess from
SAMPLING = SamplingConfig(temperature=0.4, top_k=20, top_p=0.95)


def repeating(dtype):
    """A random model whose tokens often come round again: with tied embeddings it is inclined to repeat its input."""
    return tiny.build("llama", dtype, tie_word_embeddings=True)


def engine_of(model, draft_tokens=6, **config):
    engine = Engine(model, EngineConfig(page_size=4, **{"kv_cache_bytes": 1 << 22, **config}, draft_tokens=draft_tokens))
    draft_all(engine)
    return engine


def draft_all(engine):
    """Whatever there is to guess is drafted, for no step's time is ever known."""
    if engine.drafter is not None:
        engine.drafter.times.observe = lambda *step: None


def run(model, sampling=SAMPLING, draft_tokens=6, *, n=5, length=90, stop_tokens=(), min_length=0, **config):
    engine = engine_of(model, draft_tokens, **config)
    ledger, events, steps = Ledger(), {}, 0
    root = engine.add(PROMPT, sampling, stream=Stream(3, 0), limit=length, stop_tokens=stop_tokens, min_length=min_length,
                      ledger=ledger)
    family = [root, *(engine.fork(root, stream=Stream(3, i)) for i in range(1, n))]
    while engine.has_work:
        for event in engine.step():
            events.setdefault(event.sequence.stream.path, []).append(
                (event.token, event.logprob, event.sampling_logprob, event.finish))
        engine.check_integrity()
        assert all(len(s.pages) <= engine.pool.pages_for(len(s) + len(s.ahead)) for s in family), "pages of drafts are kept"
        steps += bool(engine.last_step)
    for sequence in family:
        engine.release(sequence)
    engine.check_integrity()
    assert engine.pool.num_used == 0, "pages leaked"
    return events, ledger, steps


def same(found, expected, exactly):
    assert found.keys() == expected.keys()
    for path, events in expected.items():
        assert [(e[0], e[3]) for e in found[path]] == [(e[0], e[3]) for e in events]
        numbers = [torch.tensor([e[1:3] for e in one]) for one in (found[path], events)]
        assert torch.equal(*numbers) if exactly else torch.allclose(*numbers, rtol=1e-5, atol=1e-6)


# -- the same tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sampling", [SAMPLING, SamplingConfig.greedy(), SAMPLING.replace(repetition_penalty=1.1)],
                         ids=["sampled", "greedy", "penalty"])
def test_tokens_and_their_probabilities_are_those_without_drafts(dtype, sampling):
    """Would catch: a draft that is taken because it was guessed and not because it was drawn; KV of a draft that was not
    drawn; a penalty that does not see drafts before it; a random number of another position."""
    model = repeating(dtype)
    expected, plain, steps = run(model, sampling, 0, compile=True)
    found, ledger, fewer = run(model, sampling, compile=True)
    same(found, expected, exactly=dtype != torch.float64 and cpu.library() is not None)  # kernels: a row's bits are its own
    assert plain.drafted == plain.accepted == 0
    assert 0 < ledger.accepted < ledger.drafted, "no draft was right, or none was wrong: the test could not fail"
    assert fewer < steps
    assert (ledger.decoded, ledger.computed, ledger.prefilled) == (plain.decoded, plain.computed, plain.prefilled)


@pytest.mark.parametrize("min_length", [0, 60])
def test_ends_come_where_they_come_without_drafts(min_length, monkeypatch):
    """Would catch: tokens after a stop token; a stop token drawn behind a draft below the minimum length."""
    model = repeating(torch.float64)
    said = {path: [token for token, *_ in events] for path, events in run(model, draft_tokens=0)[0].items()}
    ends = {said[0][35]}

    def prophecy(drafter, sequence, most):  # all that would be said if there were no ends
        return said[sequence.stream.path][len(sequence) - len(PROMPT) :][: min(most, 6)]

    monkeypatch.setattr(Drafter, "draft", prophecy)
    expected, *_ = run(model, draft_tokens=0, stop_tokens=ends, min_length=min_length)
    found, ledger, _ = run(model, stop_tokens=ends, min_length=min_length)
    same(found, expected, exactly=False)
    assert ledger.accepted and found[0][-1][3] == "stop"


def test_a_small_pool_is_shared_out_as_without_drafts():
    """Would catch: a draft that takes the page another sequence needs, pages of drafts that are never given back."""
    model = repeating(torch.float64)
    page_bytes = 4 * 2 * 2 * 2 * 8 * 8
    for pages in (60, 26):
        expected, plain, _ = run(model, draft_tokens=0, kv_cache_bytes=pages * page_bytes, context_length=100)
        found, ledger, _ = run(model, kv_cache_bytes=pages * page_bytes, context_length=100)
        same(found, expected, exactly=False)
        assert ledger.accepted and ledger.pages_peak <= pages
    assert plain.preemptions


def test_a_step_stays_within_its_tokens():
    """Would catch: drafts on top of the step's limit."""
    engine = engine_of(repeating(torch.float64), max_step_tokens=9)
    run_rows, forward = [], engine.runner.forward
    engine.runner.forward = lambda chunks: run_rows.append(sum(len(c.tokens) for c in chunks)) or forward(chunks)
    family = [engine.add(PROMPT, SAMPLING, stream=Stream(3, i), limit=80) for i in range(3)]
    while engine.has_work:
        engine.step()
    assert max(run_rows) == 9 and sum(s.ledger.accepted for s in family)


def test_logits_behind_drafts_are_those_of_a_full_forward():
    """Would catch: drafts at wrong positions, or that see each other's siblings."""
    model = repeating(torch.float64)
    engine = engine_of(model)
    recorder = LogitsRecorder(engine)
    root = engine.add(PROMPT, SAMPLING, stream=Stream(3, 0), limit=70)
    twin = engine.fork(root, stream=Stream(3, 1))
    while engine.has_work:
        engine.step()
    assert root.ledger.accepted
    assert recorder.worst_error(model, [root, twin]) < 1e-5


@pytest.mark.parametrize("self_summarize", [False, True])
def test_leap_says_the_same(self_summarize):
    """Would catch: a cut, a fork, a stop string or a comment that meets tokens drawn ahead."""
    outputs = []
    for drafts in (0, 6):
        leap = generator(engine=EngineConfig(page_size=4, kv_cache_bytes=1 << 24, draft_tokens=drafts),
                         tie_word_embeddings=True)
        draft_all(leap.engine)
        outputs.append(leap.generate(QUESTION, n=4, leap=LEAP.replace(self_summarize=self_summarize, stop_strings=("qq",)),
                                     sampling=SAMPLING))
    plain, drafted = outputs
    assert drafted.ledger.accepted and drafted.blocks
    for found, expected in zip(drafted.paths, plain.paths, strict=True):
        assert (found.token_ids, found.provenance, found.finish_reason) == (
            expected.token_ids, expected.provenance, expected.finish_reason)
    assert [block.summaries for block in drafted.blocks] == [block.summaries for block in plain.blocks]


# -- owners that change their minds ----------------------------------------------------------------------------------------


def ahead_of(engine, sequence):
    """Runs until tokens have been drawn ahead."""
    while not sequence.ahead:
        engine.step()
        assert engine.has_work, "nothing was ever drawn ahead"
    return sequence


def change(sequence, engine, how):
    if how == "stream":
        engine.extend(sequence, limit=80, stream=Stream(8, 8))
    elif how == "stop_tokens":
        engine.extend(sequence, limit=80, stop_tokens=[sequence.ahead[0].token])
    elif how == "sampling":
        engine.extend(sequence, limit=80, sampling=SamplingConfig(temperature=1.5, top_k=None, top_p=1.0))
    elif how == "extend":
        engine.extend(sequence, [7, 8], limit=80)
    elif how == "pause":
        engine.pause(sequence)
        assert not sequence.ahead
        engine.extend(sequence, limit=80)
    elif how == "crop":
        engine.crop(sequence, len(sequence) - 2)
        engine.extend(sequence, limit=80)


@pytest.mark.parametrize("how", ["stream", "stop_tokens", "sampling", "extend", "pause", "crop"])
def test_what_was_drawn_ahead_is_forgotten_when_it_would_no_longer_be_drawn(how):
    """Would catch: tokens handed out that were drawn under settings, or behind tokens, that are no more."""
    model = repeating(torch.float64)
    engine = engine_of(model)
    sequence = ahead_of(engine, engine.add(PROMPT, SAMPLING, stream=Stream(3, 0), limit=80))
    tokens = list(sequence.tokens)
    change(sequence, engine, how)
    while engine.has_work:
        engine.step()
    plain = engine_of(model, 0)
    other = plain.add(tokens, SAMPLING, stream=Stream(3, 0), limit=80)
    if how == "stop_tokens":
        plain.extend(other, limit=80, stop_tokens=sequence.stop_tokens)
    else:
        change(other, plain, how)
    while plain.has_work:
        plain.step()
    assert sequence.tokens == other.tokens


def test_nan_behind_a_draft_that_would_not_be_drawn_stops_nobody():
    """Would catch: an error over a token that nobody would have said; one over a token somebody would that is swallowed."""
    model = repeating(torch.float64)
    engine = engine_of(model, max_step_tokens=40)
    sequence = engine.add(PROMPT, SAMPLING, stream=Stream(3, 0), limit=60)
    forward, failures = engine.runner.forward, []

    def broken(chunks):
        logits = forward(chunks)
        behind = torch.tensor([length > chunk.end for chunk in chunks for length, _ in chunk.samples])
        logits[behind] = torch.nan
        failures.append(bool(behind.any()))
        return logits

    engine.runner.forward = broken
    engine.step()
    long = engine.add(PROMPT * 5, SAMPLING, stream=Stream(3, 1), limit=161)  # prefilled beside it, in parts
    while engine.has_work:
        engine.step()
    assert any(failures) and len(sequence) == 60 and not sequence.ledger.accepted
    assert long.tokens[:160] == PROMPT * 5 and len(long) == 161
    engine.runner.forward = lambda chunks: forward(chunks) * torch.nan
    engine.extend(sequence, limit=62)
    with pytest.raises(NonFiniteLogitsError):
        engine.step()


# -- what is guessed -------------------------------------------------------------------------------------------------------


def sequence_of(tokens, path=0, family=0):
    return Sequence(id=path, family=family, tokens=list(tokens), sampled=bytearray(len(tokens)), sampling=SAMPLING,
                    stream=Stream(0, path), limit=99, stop_tokens=frozenset(), min_length=0, ledger=Ledger(),
                    holding=Holding(PagePool(1, 1), lambda *_: None), phases=Phases([0], [""]))


def test_history_goes_by_the_longest_match_and_by_the_sequence_s_own_words_first():
    """Would catch: a peer's word put before one's own, a shorter context before a longer one, another family's words."""
    history = History()
    history.enter(sequence_of([90, 91, 92, 93, 94, 1, 2, 3, 4, 5, 10], path=0))
    history.enter(sequence_of([90, 91, 92, 93, 94, 9, 9, 9, 4, 5, 20], path=1))
    history.enter(sequence_of([90, 91, 92, 93, 94, 9, 9, 9, 4, 5, 30], path=2, family=7))
    mine, peer, stranger = sequence_of([], 0), sequence_of([], 5), sequence_of([], 2, 8)
    assert history.guess(mine, [1, 2, 3, 4, 5]).token == 10
    assert history.guess(sequence_of([], 1), [1, 2, 3, 4, 5]).token == 10  # the family's five before its own two
    assert history.guess(sequence_of([], 1), [8, 8, 8, 4, 5]).token == 20
    assert history.guess(peer, [8, 8, 8, 4, 5]).token == 20  # the newest of the family
    assert history.guess(mine, [8, 8, 8, 8, 5]).token == 10
    assert history.guess(stranger, [1, 2, 3, 4, 5]) is None
    assert history.guess(mine, [8, 8, 8, 8, 8]) is None


def test_history_takes_in_each_token_once_and_counts_what_comes_again():
    history, sequence = History(), sequence_of([1, 2, 3, 4, 5, 6])
    for _ in range(3):
        history.enter(sequence)
    once = history.guess(sequence, [1, 2, 3, 4, 5])
    sequence.tokens += [1, 2, 3, 4, 5, 6]
    history.enter(sequence)
    again = history.guess(sequence, [1, 2, 3, 4, 5])
    sequence.tokens += [1, 2, 3, 4, 5, 7]
    history.enter(sequence)
    other = history.guess(sequence, [1, 2, 3, 4, 5])
    assert (once.token, again.token, other.token) == (6, 6, 7)
    assert again.kind == once.kind + 1 and other.kind == once.kind
    assert 0 <= once.kind < History.KINDS == 2 * len(SIZES) * 3


def test_times_are_found_again():
    """Would catch: what a draft costs laid to the length of the sequences, or to their number."""
    times, generator = StepTimes(), torch.Generator().manual_seed(0)
    assert times.predict(3, 100) == (0, 0)
    for _ in range(400):
        n, length, drafts = (int(torch.randint(*bounds, (), generator=generator))
                             for bounds in ((8, 33), (500, 2000), (0, 90)))
        noise = 1 + 0.1 * float(torch.randn((), generator=generator))
        times.observe(n, n * length, drafts, noise * (0.02 + 1e-6 * n * length + 4e-4 * drafts))
    step, token = times.predict(32, 32000)
    assert step == pytest.approx(0.052, rel=0.08)
    assert token == pytest.approx(4e-4, rel=0.15)


def test_a_slow_beginning_does_not_make_later_steps_free():
    """Would catch: a time that falls with every position, below 0 in the end: whatever could be guessed was then drafted."""
    times, beginning = StepTimes(), [(4, 0.2), (0, 0.02), (3, 0.02), (4, 0.015), (2, 0.015), (0, 0.015)]
    for i in range(300):
        drafts, seconds = beginning[i] if i < len(beginning) else (0, 0.01)
        times.observe(8, 8 * (31 + i), drafts, seconds)
        if i > 20:
            step, token = times.predict(8, 8 * (32 + i))
            assert step > 0.005 and 0 < 8 * token < step
    assert step == pytest.approx(0.01, rel=0.1)


def test_one_slow_step_does_not_end_drafting():
    """Would catch: an estimate that never recovers, because nothing is drafted that could correct it."""
    drafter, sequence = Drafter(6), sequence_of(PROMPT)

    def step(drafts, extra=0.0):
        drafter.times.observe(32, 32000, drafts, 0.05 + 4e-4 * drafts + extra)
        drafter.begin(32, 32000)
        return len(drafter.draft(sequence, 6))

    assert step(0, extra=0.05) > 0
    for _ in range(3):
        step(1, extra=2.0)
    lengths = [step(0) for _ in range(100)]
    assert lengths[-1] > 0


@pytest.mark.parametrize(("cost", "chance", "drafted"), [(0.2, 0.3, 6), (0.2, 0.05, 0), (0.95, 0.5, 0), (0.95, 1.0, 6)])
def test_as_much_is_drafted_as_pays(cost, chance, drafted):
    """Would catch: drafts that cost more than they bring; none where a token in three pays. Cost: of a step's share."""
    drafter, sequence = Drafter(6), sequence_of(PROMPT)
    for i in range(300):
        drafts = i % 40
        drafter.times.observe(32, 32000, drafts, 0.064 + 0.002 * cost * drafts)
    drafter._drawn[: History.KINDS] = chance * drafter._tried[: History.KINDS]  # of a draft's first token
    drafter._drawn[History.KINDS :] = drafter._tried[History.KINDS :]
    drafter.begin(32, 32000)
    assert len(drafter.draft(sequence, 6)) == drafted


def test_chances_follow_what_was_drawn():
    """Would catch: what was right counted as wrong; guesses behind a wrong one, or forced tokens, counted at all."""
    drafter, sequence = Drafter(6), sequence_of(PROMPT)
    drafter.begin(1, 32)
    assert drafter.draft(sequence, 6) == CYCLE[:6]
    first, *later = drafter._guessed[sequence.id].kinds
    assert len(set(later)) == 1 and first != later[0]
    sequence.tokens += [*CYCLE[:2], 7]
    sequence.sampled += bytes([1, 1, 1])
    drafter.begin(1, 35)
    drafter.draft(sequence, 6)
    drawn, tried = PRIOR
    assert (drafter._drawn[first], drafter._tried[first]) == (FORGET * drawn + 1, FORGET * tried + 1)
    assert (drafter._drawn[later[0]], drafter._tried[later[0]]) == (
        FORGET * (FORGET * drawn + 1), FORGET * (FORGET * tried + 1) + 1)
    others = [kind for kind in range(2 * History.KINDS) if kind not in (first, later[0])]
    assert (drafter._drawn[others] == drawn).all() and (drafter._tried[others] == tried).all()
    before = drafter._tried.copy()
    sequence.tokens += CYCLE
    sequence.sampled += bytes(len(CYCLE))  # forced
    drafter.begin(1, 43)
    drafter.draft(sequence, 6)
    assert (drafter._tried == before).all()


def free_of_cost(engine):
    """Drafts seem to cost nothing, as they do where a step's time is mostly something else."""
    engine.drafter.times.predict = lambda sequences, positions: (1.0, 0.0)
    return engine


def drafted_of(model, prompt, sampling, n, length):
    engine = free_of_cost(Engine(model, EngineConfig(page_size=16, kv_cache_bytes=1 << 24, draft_tokens=4)))
    ledger = Ledger()
    root = engine.add(prompt, sampling, stream=Stream(0, 0), limit=length, ledger=ledger)
    for i in range(1, n):
        engine.fork(root, stream=Stream(0, i))
    while engine.has_work:
        engine.step()
    return ledger


def test_text_that_does_not_repeat_itself_is_hardly_drafted():
    """Would catch: thousands of drafts of which none is right, because they seem to cost nothing."""
    model = tiny.build("llama", torch.float32)  # 160 tokens: each pair was said before, and is followed by anything
    ledger = drafted_of(model, PROMPT[:30], SamplingConfig(temperature=1.0, top_k=None, top_p=1.0), n=8, length=230)
    assert ledger.decoded == 1600 and ledger.drafted <= 0.06 * ledger.decoded


def test_text_that_repeats_itself_is_drafted_as_before():
    """Would catch: a drafter that gives up where guesses are right. The bounds: 198 of 2,860 drafts were right when every
    guess was drafted."""
    ledger = drafted_of(repeating(torch.float32), PROMPT, SAMPLING, n=5, length=232)
    assert ledger.accepted >= 0.85 * 198 and ledger.accepted / ledger.drafted >= 2 * 198 / 2860


def test_what_repeats_itself_after_what_did_not_is_noticed():
    """Would catch: chances that only drafts can change: what is no longer drafted stays so."""
    drafter, generator = Drafter(4), torch.Generator().manual_seed(0)
    drafter.times.predict = lambda sequences, positions: (1.0, 0.05)
    sequence = sequence_of(PROMPT[:8])

    def say(tokens):
        """Draws these tokens; says how many came as drafts."""
        right = 0
        while tokens:
            drafter.begin(1, len(sequence))
            drafts, count = drafter.draft(sequence, len(tokens) - 1), 0
            while count < len(drafts) and drafts[count] == tokens[count]:
                count += 1
            right += count
            sequence.tokens += tokens[: count + 1]
            sequence.sampled += bytes([1] * (count + 1))
            tokens = tokens[count + 1 :]
        return right

    assert say(torch.randint(0, 150, (1500,), generator=generator).tolist()) <= 15
    orders = [torch.randperm(200, generator=generator).tolist() for _ in range(2)]
    assert say([part for order in orders for token in order for part in (1000 + token, 2000 + token)]) >= 100  # of 200
