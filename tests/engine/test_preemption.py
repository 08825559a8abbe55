"""Independence, accounting and bounded memory: what a small pool, a full batch and a fork may and may not change."""

import itertools

import pytest
import tiny
import torch
from oracle import LogitsRecorder

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, Stream
from leapgen.record.ledger import Ledger

SAMPLING = SamplingConfig(temperature=1.0, top_k=None, top_p=1.0)  # any change of the logits shows in the tokens
PAGE = 4
PAGE_BYTES = PAGE * 2 * 2 * 2 * 8 * 4  # tokens, layers, keys and values, KV heads, width, float32
PATHS = [([3 + (7 * i + 5 * j) % 150 for j in range(5 + 3 * i)], 40 + i) for i in range(8)]  # (prompt, limit)


def run_to_the_end(engine):
    while engine.has_work:
        engine.step()
        engine.check_integrity()


def run(model, paths, num_pages, **limits):
    """Runs (index, prompt, limit); the sequences and what the run left behind."""
    engine = Engine(model, EngineConfig(page_size=PAGE, kv_cache_bytes=num_pages * PAGE_BYTES, **limits))
    assert engine.pool.num_pages == num_pages
    ledger = Ledger()
    sequences = [engine.add(prompt, SAMPLING, stream=Stream(11, index), limit=limit, ledger=ledger)
                 for index, prompt, limit in paths]
    run_to_the_end(engine)
    assert [len(s) for s in sequences] == [limit for _, _, limit in paths]
    return engine, sequences, ledger


def release_all(engine, sequences):
    for sequence in sequences:
        engine.release(sequence)
    engine.check_integrity()
    assert engine.pool.num_used == 0, "pages leaked"


def assert_adds_up(ledger, paths):
    """Every prompt is prefilled once, and every sampled token but each path's last goes through the model once."""
    prompts = sum(len(prompt) for _, prompt, _ in paths)
    sampled = sum(limit for _, _, limit in paths) - prompts
    assert (ledger.prefilled, ledger.decoded) == (prompts, sampled)
    assert ledger.computed == prompts + sampled - len(paths) + ledger.recomputed


def test_tokens_do_not_depend_on_the_batch_or_on_the_pool(llama32):
    """Would catch: random numbers drawn per step or per row, KV that comes back different after a preemption, positions
    that are drawn again when a sequence resumes.
    """
    paths = [(i, prompt, limit) for i, (prompt, limit) in enumerate(PATHS)]
    alone = [run(llama32, [path], 30)[1][0].tokens for path in paths]
    assert len({tuple(tokens[-20:]) for tokens in alone}) == len(alone), "the paths agree by chance"

    engine, batch, ledger = run(llama32, paths, 100)
    assert [s.tokens for s in batch] == alone
    assert ledger.recomputed == ledger.preemptions == engine.scheduler.num_preemptions == 0
    assert_adds_up(ledger, paths)
    peak = engine.pool.peak_used
    release_all(engine, batch)

    engine, squeezed, ledger = run(llama32, paths, -(-peak // 3))
    assert [s.tokens for s in squeezed] == alone
    assert ledger.preemptions == engine.scheduler.num_preemptions > 0
    assert ledger.recomputed > 0
    assert_adds_up(ledger, paths)
    release_all(engine, squeezed)

    for limits in ({"max_batch_size": 2}, {"max_step_tokens": 3}):
        assert [s.tokens for s in run(llama32, paths[::-1], 100, **limits)[1]][::-1] == alone


def test_log_probabilities_do_not_depend_on_the_pool(llama32):
    """Would catch: KV that comes back slightly off: too little to change a token, enough to bias training data."""
    runs = []
    for num_pages in (100, 28):
        engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=num_pages * PAGE_BYTES))
        for i, (prompt, limit) in enumerate(PATHS):
            engine.add(prompt, SAMPLING, stream=Stream(11, i), limit=limit)
        logprobs = {}
        while engine.has_work:
            for event in engine.step():
                logprobs[event.sequence.id, len(event.sequence)] = event.logprob
        runs.append((engine.scheduler.num_preemptions, logprobs))
    (calm, expected), (squeezed, actual) = runs
    assert calm == 0 < squeezed
    assert actual.keys() == expected.keys()
    assert max(abs(actual[key] - expected[key]) for key in expected) < 1e-4


def test_forks_share_a_prefix_through_preemption_and_count_what_they_redo(llama32):
    """Would catch: a preempted fork that resumes on a sibling's tokens, or recomputed positions counted as new."""
    prompt = PATHS[5][0]
    runs = []
    for num_pages in (100, 25):
        engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=num_pages * PAGE_BYTES))
        ledger = Ledger()
        root = engine.add(prompt, SAMPLING, stream=Stream(11, 0), limit=50, ledger=ledger)
        family = [root, *(engine.fork(root, stream=Stream(11, i)) for i in range(1, 6))]
        run_to_the_end(engine)
        assert ledger.prefilled == len(prompt)
        assert ledger.decoded == 6 * (50 - len(prompt))
        # Everything sampled but each path's last token went through the model, once.
        assert ledger.computed == ledger.prefilled + ledger.recomputed + 6 * (50 - len(prompt) - 1)
        runs.append((ledger, [s.tokens for s in family]))
        assert engine.pool.num_used <= ledger.pages_peak <= num_pages
        release_all(engine, family)
    (calm, expected), (squeezed, actual) = runs
    assert actual == expected
    assert len({tuple(tokens) for tokens in expected}) == 6
    assert calm.preemptions == calm.recomputed == 0
    assert squeezed.preemptions > 0
    assert squeezed.recomputed > 0


def test_a_paused_sequence_gives_its_pages_and_gets_its_tokens_back(llama32):
    """Would catch: paused sequences that block the pool, that forget their tokens, or whose fork counts as new what was
    computed before it was made.
    """
    (prompt, _), (other, _) = PATHS[4], PATHS[2]
    runs = []
    for num_pages in (60, 12):
        engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=num_pages * PAGE_BYTES))
        ledger = Ledger()
        paused = engine.add(prompt, SAMPLING, stream=Stream(11, 0), limit=len(prompt) + 8, ledger=ledger)
        run_to_the_end(engine)
        held = list(paused.tokens)
        twin = engine.fork(paused, stream=Stream(11, 2))
        guest = engine.add(other, SAMPLING, stream=Stream(11, 1), limit=44)
        run_to_the_end(engine)
        assert paused.tokens == held
        engine.extend(twin, [9, 8, 7], limit=len(held) + 12)
        run_to_the_end(engine)
        assert paused.tokens == held
        assert ledger.prefilled == len(prompt) + 3
        runs.append((engine.scheduler.num_preemptions, twin.tokens, guest.tokens))
        release_all(engine, [paused, twin, guest])
    assert runs[0][0] == 0 < runs[1][0]
    assert runs[0][1:] == runs[1][1:]


def test_the_oldest_sequence_is_never_preempted(llama32):
    """Would catch: two sequences that throw each other out for ever; a young one that starves an old one."""
    engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=12 * PAGE_BYTES))
    ledgers = [Ledger() for _ in range(4)]
    sequences = [engine.add([5, 6 + i], SAMPLING, stream=Stream(11, i), limit=46, ledger=ledger)
                 for i, ledger in enumerate(ledgers)]
    steps = 0
    while sequences[0].active:
        engine.step()
        steps += 1
    assert steps == 44, "the oldest did not get a token in every step"
    assert ledgers[0].preemptions == 0 < sum(ledger.preemptions for ledger in ledgers)
    run_to_the_end(engine)
    assert [len(s) for s in sequences] == [46] * 4


def test_a_sequence_that_waits_for_its_turn_keeps_its_pages_from_younger_ones(llama32):
    """Would catch: a decoding sequence that takes the pages of an older one whose prefill has no room in this step."""
    engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=8 * PAGE_BYTES, max_step_tokens=4))
    ledgers = [Ledger() for _ in range(3)]
    oldest, waiting, young = [engine.add([5 + i] * 4, SAMPLING, stream=Stream(11, i), limit=5, ledger=ledger)
                              for i, ledger in enumerate(ledgers)]
    run_to_the_end(engine)
    engine.extend(oldest, [7] * 16, limit=21)  # fills four steps
    engine.extend(waiting, [7] * 6, limit=11)
    engine.extend(young, limit=17)
    run_to_the_end(engine)
    assert ledgers[1].preemptions == 0 < ledgers[2].preemptions
    assert len(young) == 17


def test_a_late_fork_resumes_on_what_its_relative_has_computed_and_no_more(llama32):
    """Would catch: a preempted fork that takes over a token its relative has sampled but not computed."""
    runs = []
    for num_pages in (60, 14):
        engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=num_pages * PAGE_BYTES))
        ledgers = [Ledger(), Ledger()]
        oldest = engine.add([5, 6, 7], SAMPLING, stream=Stream(11, 0), limit=4, ledger=ledgers[0])
        root = engine.add(PATHS[2][0], SAMPLING, stream=Stream(11, 1), limit=17, ledger=ledgers[1])
        run_to_the_end(engine)
        assert (len(root), root.num_computed) == (17, 4 * PAGE)  # full pages: its twin goes on sharing them all
        twin = engine.fork(root, stream=Stream(11, 2))
        engine.extend(oldest, limit=40)
        engine.extend(twin, [9], limit=40)
        recorder = LogitsRecorder(engine)
        run_to_the_end(engine)
        assert recorder.worst_error(llama32, [oldest, twin]) < 1e-4
        runs.append((ledgers[1].preemptions, twin.tokens))
        release_all(engine, [oldest, root, twin])
    assert runs[0][0] == 0 < runs[1][0]
    assert runs[0][1] == runs[1][1]


# -- forks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_run():
    """An engine with one sequence of 2,000 tokens, all computed but the last."""
    model = tiny.build("llama", torch.float32, max_position_embeddings=4096)
    engine = Engine(model, EngineConfig(page_size=16, kv_cache_bytes=1 << 22))
    ledger = Ledger()
    root = engine.add([3 + 5 * i % 150 for i in range(1995)], SAMPLING, stream=Stream(1), limit=2000, ledger=ledger)
    run_to_the_end(engine)
    assert (len(root), root.num_computed, root.active) == (2000, 1999, False)
    return engine, root, ledger


def test_32_forks_of_2000_tokens_take_no_page_and_copy_none(long_run, monkeypatch):
    """Would catch: forks that copy eagerly: 32 paths of a long prompt would need 32 times its memory."""
    engine, root, ledger = long_run
    copies = []
    monkeypatch.setattr(root.holding, "_copy_page", lambda source, target: (
        copies.append((source, target)), engine.runner.cache.copy_page(source, target)))
    used, computed = engine.pool.num_used, ledger.computed
    twins = [engine.fork(root, stream=Stream(1, i)) for i in range(1, 33)]
    assert engine.pool.num_used == used == 125
    assert ledger.pages_copied == 0
    assert ledger.computed == computed
    assert all(twin.pages == root.pages for twin in twins)
    engine.check_integrity()

    for twin in twins:
        engine.extend(twin, limit=2010)
    engine.step()
    # Each writes its token 2,000 into the page all share: one copy each, the root keeps the original.
    assert len(copies) == ledger.pages_copied == 32
    assert {source for source, _ in copies} == {root.pages[-1]}
    assert engine.pool.num_used == used + 32
    assert ledger.computed == computed + 32
    run_to_the_end(engine)
    assert len({tuple(twin.tokens) for twin in twins}) == 32
    assert engine.pool.num_used == used + 2 * 32
    for twin in twins:
        engine.release(twin)
    engine.check_integrity()
    assert engine.pool.num_used == used


@pytest.mark.parametrize("max_step_tokens", [2048, 7])
def test_a_prompt_is_prefilled_once_for_32_forks_made_before_the_first_step(llama32, max_step_tokens):
    """Would catch: forks that each prefill the prompt they have in common; pages that are not shared afterwards."""
    prompt = PATHS[7][0]
    engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=1 << 20, max_step_tokens=max_step_tokens))
    ledger = Ledger()
    root = engine.add(prompt, SAMPLING, stream=Stream(1), limit=len(prompt) + 5, ledger=ledger)
    family = [root, *(engine.fork(root, stream=Stream(1, i)) for i in range(1, 33))]
    steps = 0
    while len(root) == len(prompt):
        assert ledger.decoded == 0
        engine.step()
        engine.check_integrity()
        steps += 1
    assert steps == -(-len(prompt) // max_step_tokens)
    assert ledger.prefilled == ledger.computed == len(prompt)
    assert ledger.decoded == 33, "all sample from the one forward pass"
    assert engine.pool.num_used == engine.pool.pages_for(len(prompt))
    run_to_the_end(engine)
    assert ledger.prefilled == len(prompt)
    assert ledger.reused == 32 * len(prompt)
    assert ledger.recomputed == 0
    for i in (0, 1, 32):
        lone = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=1 << 20))
        single = lone.add(prompt, SAMPLING, stream=Stream(1, i), limit=len(prompt) + 5)
        run_to_the_end(lone)
        assert single.tokens == family[i].tokens
    release_all(engine, family)


# -- steps ------------------------------------------------------------------------------------------------------------


def test_a_long_prompt_is_chunked_while_others_go_on_decoding(llama32):
    """Would catch: a prefill that holds up everyone else, or that runs over the step's token limit."""
    engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=1 << 20, max_step_tokens=16))
    decoding = [engine.add([5, 6, 7 + i], SAMPLING, stream=Stream(1, i), limit=200) for i in range(3)]
    engine.step()
    prompt = [3 + 5 * i % 150 for i in range(100)]
    late = engine.add(prompt, SAMPLING, stream=Stream(1, 9), limit=110)
    widths = []
    while len(late) == len(prompt):
        before = [len(s) for s in decoding]
        events = engine.step()
        assert [len(s) for s in decoding] == [n + 1 for n in before], "a decoding sequence missed a step"
        assert [e.sequence for e in events][:3] == decoding
        assert sum(chunk.end - chunk.start for chunk in engine.last_step) <= 16
        widths += [chunk.end - chunk.start for chunk in engine.last_step if chunk.sequence is late]
    assert widths == [13] * 7 + [9]
    reference = Engine(llama32, EngineConfig(kv_cache_bytes=1 << 20))
    whole = reference.add(prompt, SAMPLING, stream=Stream(1, 9), limit=110)
    run_to_the_end(reference)
    run_to_the_end(engine)
    assert late.tokens == whole.tokens


def test_prompts_share_the_token_limit_of_a_step(llama32):
    """Would catch: a limit that each prompt has for itself, so that a burst of requests makes one huge step."""
    engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=1 << 20, max_step_tokens=16))
    sequences = [engine.add([5 + i] * 23, SAMPLING, stream=Stream(1, i), limit=26) for i in range(4)]
    widths = []
    while engine.has_work:
        engine.step()
        widths.append(sum(chunk.end - chunk.start for chunk in engine.last_step))
    assert max(widths) == 16
    assert widths[:4] == [16] * 4, "room was left unused"
    assert [len(s) for s in sequences] == [26] * 4


def test_a_prompt_is_computed_even_when_decodes_fill_the_step(llama32):
    """Would catch: a prefill that starves because decoding sequences use up the whole step's tokens."""
    engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=1 << 20, max_step_tokens=4))
    for i in range(6):
        engine.add([5 + i], SAMPLING, stream=Stream(1, i), limit=200)
    engine.step()
    late = engine.add([3, 4, 5, 6, 7], SAMPLING, stream=Stream(1, 9), limit=50)
    for _ in range(5):
        engine.step()
    assert len(late) == 6


# -- accounting -------------------------------------------------------------------------------------------------------


def test_a_run_without_preemption_computes_every_position_once(llama32):
    """Would catch: forced tokens, crops or late forks that send computed positions through the model again."""
    engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=1 << 20, max_step_tokens=11))
    ledger = Ledger()
    prompt = PATHS[6][0]
    root = engine.add(prompt, SAMPLING, stream=Stream(1), limit=40, ledger=ledger)
    run_to_the_end(engine)
    twin = engine.fork(root, stream=Stream(1, 1))
    engine.extend(twin, [9, 8, 7], limit=60)
    run_to_the_end(engine)
    engine.crop(twin, 50)
    engine.extend(twin, [4, 5], limit=56)
    run_to_the_end(engine)
    engine.extend(root, limit=44)
    run_to_the_end(engine)
    assert (ledger.recomputed, ledger.preemptions) == (0, 0)
    assert ledger.prefilled == len(prompt) + 3 + 2
    assert ledger.injected == 3 + 2
    assert ledger.decoded == (40 - len(prompt)) + (60 - 43) + (56 - 52) + (44 - 40)
    # The root: all but its last. The twin: token 39, which the root had sampled and not computed, to 58; then 50 to 54.
    assert ledger.computed == 43 + (59 - 39) + (55 - 50)
    assert ledger.reused == 39
    release_all(engine, [root, twin])


@pytest.mark.parametrize("how", ["crop", "fork of a computed prompt"])
def test_recomputed_is_zero_unless_preempted(llama32, how):
    """Would catch: logits needed once more (of the last token of a cropped or a fully computed sequence) counted as
    work that a preemption caused.
    """
    engine = Engine(llama32, EngineConfig(page_size=PAGE, kv_cache_bytes=1 << 20))
    ledger = Ledger()
    prompt = PATHS[6][0]
    if how == "crop":
        sequence = engine.add(prompt, SAMPLING, limit=40, ledger=ledger)
        run_to_the_end(engine)
        engine.crop(sequence, 35)
    else:
        root = engine.add(prompt, SAMPLING, limit=len(prompt), ledger=ledger)
        run_to_the_end(engine)
        sequence = engine.fork(root)
    engine.extend(sequence, limit=45)
    run_to_the_end(engine)
    assert ledger.preemptions == 0
    assert ledger.recomputed == 0


def test_a_step_s_time_goes_to_what_its_tokens_are_for(llama, monkeypatch):
    """Would catch: phases guessed from how many tokens a chunk has; seconds that get lost where sequences share a step."""
    clock = itertools.count()
    monkeypatch.setattr("leapgen.engine.engine.time.perf_counter", lambda: float(next(clock)))  # a step takes one second
    engine = Engine(llama, EngineConfig(page_size=4, kv_cache_bytes=1 << 22, draft_tokens=0))
    ledger, other = Ledger(), Ledger()
    sequence = engine.add([3, 4, 5, 6], SAMPLING, ledger=ledger, phase="prompt", then="reason")
    engine.step()
    assert ledger.seconds == {"prompt": 1.0}
    engine.step()
    assert ledger.seconds == {"prompt": 1.0, "reason": 1.0}
    engine.add([7, 8, 9, 10], SAMPLING, ledger=other, phase="prompt")
    engine.extend(sequence, [7, 8, 9], phase="comment", then="answer")  # behind a sampled token that is still to be computed
    engine.step()
    assert other.seconds == {"prompt": 0.5}
    assert ledger.seconds == {"prompt": 1.0, "reason": 1.125, "comment": 0.375}
    engine.crop(sequence, 6)
    engine.extend(sequence, [7], limit=7)
    twin = engine.fork(sequence, stream=Stream(2))
    engine.extend(twin, [8], phase="summarize", then="summarize")
    total = sum(ledger.seconds.values()) + sum(other.seconds.values())
    for _ in range(2):  # the twin waits for what it shares
        engine.step()
    assert sum(ledger.seconds.values()) + sum(other.seconds.values()) == pytest.approx(total + 2)
    assert ledger.seconds["summarize"] > 0 and "answer" not in ledger.seconds
