"""What a run tells: whoever follows its events has each path's text and tokens as they stand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leap_run import LEAP, QUESTION, SAMPLING, Script, generator

from leapgen import BlockEvent, CutEvent, GenerationInterrupted, LeapOutput, OutputEvent, SegmentEvent, TokenEvent


class Listener:
    """A path's text, tokens and kinds from its events alone."""

    def __init__(self) -> None:
        self.text: dict[int, str] = {}
        self.tokens: dict[int, list[int]] = {}
        self.kinds: dict[int, list[str]] = {}
        self.seen: set[str] = set()

    def hear(self, event: object) -> None:
        self.seen.add(type(event).__name__)
        if isinstance(event, TokenEvent) and not event.aside:
            self._add(event.path, event.kind, [event.token], event.text)
        elif isinstance(event, SegmentEvent) and not event.aside:
            self._add(event.path, event.segment.kind, event.segment.token_ids, event.segment.text)
        elif isinstance(event, CutEvent):
            assert self.text[event.path].endswith(event.text)
            self.text[event.path] = self.text[event.path].removesuffix(event.text)
            del self.tokens[event.path][-event.tokens :], self.kinds[event.path][-event.tokens :]

    def _add(self, path: int, kind: str, tokens: list[int], text: str) -> None:
        self.text[path] = self.text.get(path, "") + text
        self.tokens.setdefault(path, []).extend(tokens)
        self.kinds.setdefault(path, []).extend([kind] * len(tokens))

    def check(self, output: LeapOutput) -> None:
        for path in output.paths:
            prompt = path.count("prompt")
            assert self.tokens.get(path.index, []) == path.token_ids[prompt:]
            assert self.kinds.get(path.index, []) == path.provenance[prompt:]
            assert self.text.get(path.index, "") == path.text


@settings(max_examples=12)
@given(keep_summary=st.booleans(), finished_share=st.booleans(), thinking=st.booleans(), seed=st.integers(0, 99),
       self_summarize=st.booleans(), beginning=st.sampled_from([None, "First, é\n\nI add."]))
def test_a_listener_has_the_paths_text(keep_summary, finished_share, thinking, seed, self_summarize, beginning):
    """Would catch: tokens that a block cut, left standing in the stream; triggers, comments and forced phrases missing from
    it; a summary for others taken for the path's own text.
    """
    leap, listener = generator(thinking=thinking), Listener()
    config = LEAP.replace(keep_summary=keep_summary, finished_share=finished_share, self_summarize=self_summarize)
    run = leap.stream(QUESTION, n=3, leap=config, sampling=SAMPLING, seed=seed, beginning=beginning)
    for event in run:
        listener.hear(event)
        if isinstance(event, OutputEvent):
            listener.check(event.output)
    assert "OutputEvent" in listener.seen


def test_what_is_cut_is_taken_back():
    """Would catch: a test above in which nothing was ever cut."""
    leap, listener = generator(), Listener()
    sampling = SAMPLING.replace(logits_processors=(Script(leap, "One.\n\nTwo.\n\nThr"),), top_k=None, top_p=1.0)
    for event in leap.stream(QUESTION, n=3, leap=LEAP.replace(interval=20, min_new_tokens=36), sampling=sampling, seed=2):
        listener.hear(event)
        if isinstance(event, OutputEvent):
            listener.check(event.output)
    assert listener.seen >= {"CutEvent", "SegmentEvent", "BlockEvent", "FinishEvent"}


@pytest.mark.parametrize("finished_share", [False, True])
def test_a_resumed_run_tells_what_there_already_is(finished_share):
    """Would catch: a listener of the second half that never gets the first."""
    leap, config = generator(thinking=True), LEAP.replace(finished_share=finished_share)
    run = leap.stream(QUESTION, n=3, leap=config, sampling=SAMPLING, seed=5)
    for event in run:
        if isinstance(event, BlockEvent):
            break
    part = LeapOutput.from_dict(run.outputs()[0].to_dict())
    run.close()
    listener = Listener()
    for event in leap.resume_stream(part):
        listener.hear(event)
        if isinstance(event, OutputEvent):
            listener.check(event.output)
            assert event.output.finished


def test_an_interrupted_runs_listener_has_what_its_outputs_have():
    """Would catch: events lost with the interrupt, so that a transcript ends before the saved run does."""
    leap, listener = generator(), Listener()
    run = leap.stream(QUESTION, n=3, leap=LEAP, sampling=SAMPLING, seed=5)
    step, count = leap.engine.step, iter(range(25))
    leap.engine.step = lambda: step() if next(count, None) is not None else interrupt()
    with pytest.raises(GenerationInterrupted) as caught:
        for event in run:
            listener.hear(event)
    listener.check(caught.value.outputs[0])


def interrupt():
    raise KeyboardInterrupt
