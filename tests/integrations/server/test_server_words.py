"""What a client reads while a path speaks is what it reads afterwards."""

from __future__ import annotations

from itertools import product

import leap_run
import pytest

from leapgen import CutEvent, FinishEvent, SegmentEvent, TokenEvent
from leapgen.integrations.server.words import Delta, Words
from leapgen.protocol.endings import Endings
from leapgen.record.run import PathOutput, Segment

THINKING = Endings(frozenset({0}), "<think>", "</think>", 1)
PLAIN = Endings(frozenset({0}), "", "", None)


def told(events, endings, stops=(), cuts=True) -> Delta:
    """All that is told while events come."""
    words, whole = Words(endings, stops, cuts), Delta()
    for event in events:
        words.end() if isinstance(event, FinishEvent) else words.add(event)
        new = words.take()
        whole.reasoning, whole.content = whole.reasoning + new.reasoning, whole.content + new.content
        whole.tokens += new.tokens
    return whole


def own(text: str, kind: str = "own") -> TokenEvent:
    return TokenEvent(0, 0, kind, 7, text, logprob=-1.0)


def wilful(tokenizer):
    """A logits processor by which a random model writes blank lines, and opens a summary now and then."""
    opening, line = (tokenizer.encode(text, add_special_tokens=False) for text in ("<summarize>", "\n"))

    def processor(input_ids, scores):
        said = input_ids[0].tolist()
        begun = max((size for size in range(1, len(opening)) if said[-size:] == opening[:size]), default=0)
        if begun or len(said) % 19 == 0:
            scores[0, opening[begun]] = 99
        scores[0, line] += 6
        return scores

    return processor


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "thinking"])
def spoken(request):
    """Paths of a random model, and their events, under settings that cut, drop, keep and stop."""
    leap, runs = leap_run.generator(thinking=request.param), []
    sampling = leap_run.SAMPLING.replace(logits_processors=(wilful(leap.tokenizer),))
    for changes, stops, seed in product(
            ({}, {"keep_summary": False}, {"self_summarize": True, "keep_opening": False}, {"max_blocks": 0}),
            ((), ("e",), ("\n\n", "zz")), range(2)):
        config = leap_run.LEAP.replace(stop_strings=stops, **changes)
        events = list(leap.stream("Is 91 a prime?\n\nSay why.", 3, leap=config, sampling=sampling, seed=seed))
        runs.append((events, events[-1].output, config, leap._encoder.endings(config)))
    return runs


def test_words_told_as_they_come_are_those_of_the_path_that_has_ended(spoken):
    """Would catch: words told and then cut off, held back for good, put on the other side of the thinking's end, told twice;
    the same of log-probabilities."""
    cuts = 0
    for events, output, config, endings in spoken:
        cuts += sum(isinstance(event, CutEvent) for event in events)
        for path in output.paths:
            its = [event for event in events if (isinstance(event, (TokenEvent, SegmentEvent, CutEvent)) and
                   event.path == path.index) or (isinstance(event, FinishEvent) and event.path.index == path.index)]
            for how in (endings, None):
                whole = Words.whole(path, how, config.stop_strings)
                assert told(its, how, config.stop_strings, config.communicates) == whole
    assert cuts > 10


def test_what_a_block_may_cut_off_is_held_back_and_the_rest_is_not():
    """Would catch: a chat that shows nothing before a path's end; one that shows what is cut off later."""
    words = Words(PLAIN)
    for text, expected in (("One", "One"), (" two", " two"), (".\n\n", ".\n\n"), ("Three", ""), (" four", ""),
                           ("\n", ""), ("\n", "Three four\n\n"), ("Five", "")):
        words.add(own(text))
        assert words.take().content == expected
    words.add(CutEvent(0, 0, 1, "Five"))
    words.add(own("Six"))
    words.add(SegmentEvent(0, 0, Segment("trigger", [1], " Let me", 0)))
    assert words.take() == Delta(" Let me", "Six", words.whole(PathOutput(0, [Segment("prompt", []), Segment(
        "own", [7], "Six", logprobs=[-1.0])]), PLAIN).tokens)


@pytest.mark.parametrize("pieces", [["a", "<", "/th", "ink", ">", "b"], ["a</think>b"], ["a<", "/think>b"]])
def test_the_end_of_thinking_parts_reasoning_from_content_however_it_is_cut_into_tokens(pieces):
    """Would catch: half of a marker in the reasoning, or all of it in the content."""
    words = Words(THINKING, cuts=False)
    for piece in pieces:
        words.add(own(piece))
    words.end()
    assert (lambda delta: (delta.reasoning, delta.content))(words.take()) == ("a", "b")


def test_a_stop_string_and_what_follows_it_are_not_told():
    """Would catch: OpenAI's clients that find the stop string in what they get; its beginning told too early."""
    for pieces in (["say S", "TO", "P now"], ["say ", "STOP"], ["say STOP now"]):
        words = Words(PLAIN, ("STOP", "OP"), cuts=False)
        for piece in pieces:
            words.add(own(piece))
        words.end()
        assert words.take().content == "say "


def test_a_path_that_never_closes_its_thinking_has_its_words_as_content_too():
    """Would catch: an empty answer from a model that was not made to think, whose template could."""
    words = Words(THINKING, cuts=False)
    words.add(own("It is 42."))
    words.end()
    assert words.take().content == "It is 42."
    words = Words(THINKING)
    words.add(own("Hm.</think>"))
    words.add(own("\n\n", "answer"))
    words.add(own("42", "answer"))
    words.end()
    assert (lambda delta: (delta.reasoning, delta.content))(words.take()) == ("Hm.", "42")


def test_peers_words_are_reasoning_and_no_part_of_a_text_completion():
    """Would catch: a peer's box in what a harness scores."""
    peers = SegmentEvent(0, 0, Segment("comment", [1], 'Peer 1: "\\boxed{9}"', 0))
    for endings, expected in ((PLAIN, ('Peer 1: "\\boxed{9}"', "ab")), (None, ("", "ab"))):
        words = Words(endings)
        for event in (own("a"), peers, own("b")):
            words.add(event)
        words.end()
        assert (lambda delta: (delta.reasoning, delta.content))(words.take()) == expected
