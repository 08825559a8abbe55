"""Invariants 1 to 3 under any order of the verbs, with drafts and without: a hypothesis state machine against lists."""

import random

import tiny
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from oracle import full_cache, full_logits, paged_cache

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, Stream
from leapgen.engine.sampling.host import draw
from leapgen.engine.sampling.random import uniforms
from leapgen.engine.speculation import Drafter

MODEL = tiny.build("llama")
CONTEXT = 40
TOKENS = st.lists(st.integers(3, tiny.VOCAB - 1), min_size=1, max_size=9)
SAMPLING = [SamplingConfig.greedy(), SamplingConfig(temperature=1.0, top_k=20, top_p=0.9)]


def expected_token(sequence, tokens):
    logits = full_logits(MODEL, tokens)[-1:]
    uniform = torch.from_numpy(uniforms([sequence.stream], [len(tokens)]))
    return int(draw(logits, sequence.sampling, uniform)[0])


class Prophet(Drafter):
    """Guesses what will be drawn, and sometimes something else."""

    def __init__(self):
        super().__init__(most=4)
        self.random = random.Random(3)

    def draft(self, sequence, most):
        super().draft(sequence, most)
        tokens = []
        while len(tokens) < min(most, self.most):
            wrong = self.random.random() < 0.2
            tokens.append(self.random.randrange(tiny.VOCAB) if wrong
                          else expected_token(sequence, sequence.tokens + tokens))
        return tokens


class VerbsMachine(RuleBasedStateMachine):
    """``self.lists`` is the whole specification: a sequence is a list of tokens nobody else can touch."""

    sequences = Bundle("sequences")

    def __init__(self):
        super().__init__()
        # 30 pages of 4 tokens: three full contexts, so preemption is common.
        page_bytes = 4 * 2 * 2 * 2 * 8 * 8
        self.engine = Engine(MODEL, EngineConfig(page_size=4, kv_cache_bytes=30 * page_bytes, max_step_tokens=7,
                                                 max_batch_size=4, context_length=CONTEXT, draft_tokens=0))
        assert self.engine.pool.num_pages == 30
        self.engine.scheduler.max_scored = 5
        self.lists = {}
        self.scores = []  # with all tokens their sequence had when they were asked for
        self.next_path = 0

    def stream(self):
        self.next_path += 1
        return Stream(5, self.next_path)

    @rule(target=sequences, tokens=TOKENS, room=st.integers(0, 12), sampling=st.sampled_from(SAMPLING))
    def add(self, tokens, room, sampling):
        sequence = self.engine.add(tokens, sampling, stream=self.stream(), limit=len(tokens) + room)
        self.lists[sequence] = list(tokens)
        return sequence

    @rule(target=sequences, sequence=sequences)
    def fork(self, sequence):
        used = self.engine.pool.num_used
        twin = self.engine.fork(sequence, stream=self.stream())
        assert self.engine.pool.num_used <= used, "a fork took pages"
        self.lists[twin] = list(self.lists[sequence])
        return twin

    @rule(sequence=sequences, tokens=TOKENS | st.just([]), room=st.integers(0, 12))
    def extend(self, sequence, tokens, room):
        if len(self.lists[sequence]) + len(tokens) > CONTEXT:
            return
        self.engine.extend(sequence, tokens, limit=len(self.lists[sequence]) + len(tokens) + room)
        self.lists[sequence] += tokens

    @rule(sequence=sequences, top=st.integers(0, 2), data=st.data())
    def score(self, sequence, top, data):
        if len(self.lists[sequence]) < 2 or sequence.scores is not None:
            return
        start = data.draw(st.integers(1, len(self.lists[sequence]) - 1))
        self.scores.append((list(self.lists[sequence]), self.engine.score(sequence, start, top)))

    @rule(sequence=sequences, data=st.data())
    def crop(self, sequence, data):
        length = data.draw(st.integers(1, len(self.lists[sequence])))
        self.engine.crop(sequence, length)
        del self.lists[sequence][length:]

    @rule(sequence=sequences)
    def pause(self, sequence):
        self.engine.pause(sequence)

    @rule(sequence=consumes(sequences))
    def release(self, sequence):
        self.engine.release(sequence)
        del self.lists[sequence]

    @rule(steps=st.integers(1, 6))
    def step(self, steps):
        for _ in range(steps):
            for event in self.engine.step():
                if event.token is not None:
                    tokens = self.lists[event.sequence]
                    assert event.token == expected_token(event.sequence, tokens)
                    tokens.append(event.token)

    @invariant()
    def tokens_are_the_lists(self):
        for sequence, tokens in self.lists.items():
            assert sequence.tokens == tokens

    @invariant()
    def counts_add_up(self):
        self.engine.check_integrity()

    @invariant()
    def pages_hold_what_a_full_forward_computes(self):
        for sequence, tokens in self.lists.items():
            if sequence.num_computed:
                expected = full_cache(MODEL, tokens[: sequence.num_computed])
                for (key, value), (key_, value_) in zip(paged_cache(self.engine, sequence), expected, strict=True):
                    torch.testing.assert_close(key, key_, rtol=0, atol=1e-6)
                    torch.testing.assert_close(value, value_, rtol=0, atol=1e-6)

    @invariant()
    def scores_are_those_of_a_full_forward(self):
        for tokens, scores in self.scores:
            logprobs = full_logits(MODEL, tokens).log_softmax(dim=-1)
            for position, (logprob, top) in enumerate(zip(scores.logprobs, scores.tops, strict=True), scores.start):
                assert abs(logprob - float(logprobs[position - 1, tokens[position]])) < 1e-6
                assert [token for token, _ in top] == logprobs[position - 1].topk(scores.top).indices.tolist()
        self.scores = [one for one in self.scores if not one[1].done]

    def teardown(self):
        for sequence in self.lists:
            if sequence.scores is not None:  # paused before it was scored
                self.engine.extend(sequence, limit=0)
        while self.engine.has_work:
            self.step(1)
        self.tokens_are_the_lists()
        self.scores_are_those_of_a_full_forward()
        assert all(sequence.scores is None for sequence in self.lists)
        for sequence in list(self.lists):
            self.engine.release(sequence)
        self.engine.check_integrity()
        assert self.engine.pool.num_used == 0, "pages leaked"


class DraftingMachine(VerbsMachine):
    """Several tokens a step: what is drawn ahead must be forgotten when its sequence goes another way."""

    def __init__(self):
        super().__init__()
        self.engine.drafter = self.engine.scheduler._drafter = Prophet()


TestVerbs = VerbsMachine.TestCase
TestDrafting = DraftingMachine.TestCase
TestVerbs.settings = TestDrafting.settings = settings(max_examples=60, stateful_step_count=30, deadline=None,
                              phases=[Phase.generate])  # shrinking takes minutes; a failure prints its steps
