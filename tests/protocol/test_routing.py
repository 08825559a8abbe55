"""Who hears from whom: Eq. 4 against the published code's Indel, and the routers against their definitions."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leap_run import LEAP, QUESTION, SAMPLING, generator

from leapgen import GenerationFailed
from leapgen.config import LeapConfig
from leapgen.protocol.routing import ROUTERS, route, similarities
from leapgen.record.message import Message

SUMMARIES = st.lists(st.text("abc 漢", max_size=7), max_size=5)
PEERS = st.dictionaries(st.integers(0, 40), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5 + 1e-12, 0.9, 1.0]), max_size=9)
K = st.integers(1, 12)
SEED = st.integers(0, 1000)


def messages(peers):
    return [Message(peer, f"summary {peer}", 0, None, similarity) for peer, similarity in peers.items()]


def choose(router, peers, k, seed=0):
    return list(ROUTERS[router](Message(99, "", 0, None, None), messages(peers), k, random.Random(seed)))


def routes_of(summaries, receivers, router, k, similarity, seed, answers=()):
    return routed(summaries, dict(answers), 0, receivers, router, k, similarity, seed)


def routed(texts, answers, block, receivers, *options, **more):
    """``route`` over messages with these texts and answers."""
    messages = {path: Message(path, texts.get(path, ""), block, answers.get(path)) for path in {*texts, *receivers}}
    return route({path: messages[path] for path in texts}, [messages[path] for path in receivers], *options, **more)


# -- similarity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("similarity", "a", "b", "expected"), [
    ("levenshtein", "ab", "ba", 0.0), ("indel", "ab", "ba", 0.5),
    ("levenshtein", "bbaac", "abca", 0.4), ("levenshtein", "bbaac", "aabbc", 0.2),
    ("indel", "bbaac", "abca", 4 / 9), ("indel", "bbaac", "aabbc", 0.6),
    ("levenshtein", "kitten", "sitting", 1 - 3 / 7), ("indel", "kitten", "sitting", 1 - 5 / 13),
    ("levenshtein", "", "abc", 0.0), ("indel", "", "abc", 0.0), ("levenshtein", "", "", 1.0), ("indel", "", "", 1.0),
])
def test_eq_4_and_the_published_codes_indel_give_their_own_numbers(similarity, a, b, expected):
    """Would catch: Indel passed off as Eq. 4 (the published code's departure), or normalised by the wrong length."""
    matrix = similarities([a, b], similarity)
    assert matrix[0, 1] == matrix[1, 0] == pytest.approx(expected, abs=1e-12)
    assert matrix.dtype == np.float64


@pytest.mark.parametrize(("similarity", "nearest"), [("levenshtein", 1), ("indel", 2)])
def test_the_two_similarities_rank_the_same_summaries_differently(similarity, nearest):
    """Would catch: ``similarity`` accepted and not used, so that ``LeapConfig.official()`` routes like the paper."""
    summaries = {0: "bbaac", 1: "abca", 2: "aabbc"}
    assert routes_of(summaries, [0], "clustered", 1, similarity, seed="")[0][0][0] == nearest
    assert routes_of(summaries, [0], "dispersed", 1, similarity, seed="")[0][0][0] == 3 - nearest


def edits(a, b, substitution):
    """Edit distance by the textbook recurrence; ``substitution`` is what replacing a character costs."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, above = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (0 if x == y else substitution)))
    return row[-1]


@settings(max_examples=100)
@given(SUMMARIES)
def test_all_pairs_are_the_textbook_distances(summaries):
    """Would catch: a matrix transposed, in float32, cut off below a score, on words or bytes instead of characters."""
    eq4, indel = similarities(summaries, "levenshtein"), similarities(summaries, "indel")
    assert eq4.shape == indel.shape == (len(summaries), len(summaries))
    for (i, a), (j, b) in itertools.product(enumerate(summaries), repeat=2):
        longest, both = max(len(a), len(b)), len(a) + len(b)
        assert eq4[i, j] == pytest.approx(1 - edits(a, b, 1) / longest if longest else 1.0, abs=1e-12)
        assert indel[i, j] == pytest.approx(1 - edits(a, b, 2) / both if both else 1.0, abs=1e-12)


@settings(max_examples=50)
@given(SUMMARIES)
def test_a_similarity_of_the_users_own_is_asked_for_every_ordered_pair(summaries):
    """Would catch: an asymmetric measure (entailment, say) read the wrong way round, or asked about a summary itself."""
    matrix = similarities(summaries, lambda a, b: len(a) - 2 * len(b))
    for i, j in itertools.product(range(len(summaries)), repeat=2):
        assert matrix[i, j] == (1.0 if i == j else len(summaries[i]) - 2 * len(summaries[j]))
    assert matrix.shape == (len(summaries), len(summaries))


@settings(max_examples=50)
@given(SUMMARIES)
def test_a_similarity_of_all_summaries_at_once_is_the_matrix_it_returns(summaries):
    """Would catch: a matrix transposed, or a similarity of one argument called pair by pair."""
    calls = []

    def lengths(texts, scale=2):
        calls.append(list(texts))
        return [[len(a) - scale * len(b) for b in texts] for a in texts]

    matrix = similarities(summaries, lengths)
    assert calls == ([summaries] if len(summaries) > 1 else [])  # one summary has nobody to be compared with
    assert matrix.dtype == np.float64
    if len(summaries) > 1:
        assert (matrix == np.array(lengths(summaries))).all()


@pytest.mark.parametrize(("similarity", "said"), [
    (lambda texts: np.ones(3), r"lambda.*shape \[3\]; for 3 summaries it must be \[3, 3\]"),
    (lambda texts: np.ones((3, 4)), r"shape \[3, 4\]"), (lambda texts: 1.0, r"shape \[\]"),
    (lambda texts: [[1, 2], [3]], "numbers"), (lambda texts: [["a"] * 3] * 3, "numbers"),
    (lambda texts: None, r"shape \[\]"),
    (lambda texts: np.full((3, 3), np.nan), "lambda.*NaN for 'x' and 'x'"),
    (lambda a, b: float("nan") if b == "z" else 0.5, "NaN for 'x' and 'z'"), (lambda a, b: "high", "numbers"),
])
def test_a_similarity_that_returns_something_else_is_named(similarity, said):
    """Would catch: NaN that makes a ranking depend on where it stands, rows of another summary's read from a wrong shape."""
    with pytest.raises(ValueError, match=said):
        similarities(["x", "y", "z"], similarity)


# -- routers ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(PEERS, K)
def test_dispersed_takes_the_k_least_similar_and_clustered_the_k_most(peers, k):
    """Would catch: Eq. 1 and Eq. 2 mixed up, an order that depends on the dict, ties broken by anything but the index."""
    assert choose("dispersed", peers, k) == [p for _, p in sorted((s, p) for p, s in peers.items())][:k]
    assert choose("clustered", peers, k) == [p for _, p in sorted((-s, p) for p, s in peers.items())][:k]


@settings(max_examples=100)
@given(PEERS, K)
def test_hybrid_takes_half_from_either_end_and_nobody_twice(peers, k):
    """Would catch: the published code's hybrid, which picks one peer twice when peers are few; or fewer than k peers."""
    chosen = choose("hybrid", peers, k)
    assert len(chosen) == len(set(chosen)) == min(k, len(peers))
    most, least = choose("clustered", peers, k // 2), choose("dispersed", peers, k - k // 2)
    assert set(chosen) >= set(most)
    if not set(most) & set(least):
        assert set(chosen) == set(most) | set(least)


@pytest.mark.parametrize(("k", "chosen"), [(1, [0]), (2, [4, 0]), (3, [4, 0, 1]), (4, [4, 3, 0, 1]), (5, [4, 3, 0, 1, 2]),
                                           (9, [4, 3, 2, 1, 0])])
def test_hybrid_reads_the_similar_half_first_and_gives_the_odd_place_to_the_dissimilar(k, chosen):
    """Would catch: k = 1 that sends nobody, an odd k rounded to an even one."""
    assert choose("hybrid", {i: i / 10 for i in range(5)}, k) == chosen


@settings(max_examples=50)
@given(PEERS, K, SEED)
def test_random_takes_k_peers_and_repeats_itself_by_seed(peers, k, seed):
    """Would catch: a global generator, a choice that depends on similarity or on the order of the dict."""
    chosen = choose("random", peers, k, seed)
    assert len(chosen) == len(set(chosen)) == min(k, len(peers))
    assert set(chosen) <= set(peers)
    assert chosen == choose("random", dict.fromkeys(reversed(list(peers)), 0.3), k, seed)


def test_random_is_fair():
    """Would catch: a choice among the first peers only. 2,000 draws of 2 from 8: 500 each, 5 standard deviations are 97."""
    counts = np.zeros(8)
    for seed in range(2000):
        counts[choose("random", dict.fromkeys(range(8), 0.0), 2, seed)] += 1
    assert (np.abs(counts - 500) < 97).all()


@settings(max_examples=50)
@given(PEERS, K)
def test_all_takes_everyone_in_order_whatever_k(peers, k):
    """Would catch: ``all`` cut to ``top_k_peers``."""
    assert choose("all", peers, k) == sorted(peers)


BEFORE = {  # the routers as they were when they saw similarities by peer alone
    "dispersed": lambda peers, k, rng: sorted(peers, key=lambda peer: (peers[peer], peer))[:k],
    "clustered": lambda peers, k, rng: sorted(peers, key=lambda peer: (-peers[peer], peer))[:k],
    "random": lambda peers, k, rng: rng.sample(sorted(peers), min(k, len(peers))),
    "all": lambda peers, k, rng: sorted(peers),
}


def hybrid_before(peers, k, rng):
    similar = BEFORE["clustered"](peers, k // 2, rng)
    others = {peer: value for peer, value in peers.items() if peer not in similar}
    return similar + BEFORE["dispersed"](others, k - k // 2, rng)


@settings(max_examples=200)
@given(PEERS, K, SEED, st.sampled_from(list(ROUTERS)), st.booleans(), st.randoms(use_true_random=False))
def test_every_router_chooses_what_it_chose_by_similarities_alone(peers, k, seed, router, wrote, rng):
    """Would catch: a tie, an order or a draw that changes, so that a saved run cannot be made again; a receiver that wrote
    nothing treated otherwise than one equally like everybody.
    """
    shown = list(peers)
    rng.shuffle(shown)
    choose_before = {**BEFORE, "hybrid": hybrid_before}[router]
    expected = choose_before(peers if wrote else dict.fromkeys(peers, 0.0), k, random.Random(seed))
    assert choose(router, {peer: peers[peer] if wrote else None for peer in shown}, k, seed) == expected


def test_every_router_the_config_knows_exists_and_no_other():
    """Would catch: a name the config accepts that fails at the first block, hours into a run; or one it hides."""
    for name in ROUTERS:
        assert LeapConfig(router=name).router == name
    with pytest.raises(ValueError, match=", ".join(ROUTERS)):
        LeapConfig(router="nearest")


# -- route --------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.dictionaries(st.integers(0, 9), st.text("abc ", max_size=6), max_size=7), st.sets(st.integers(0, 9)),
       st.sampled_from(list(ROUTERS)), K, st.sampled_from(["levenshtein", "indel"]), SEED)
def test_every_receiver_gets_k_others_each_once_and_never_itself(summaries, receivers, router, k, similarity, seed):
    """Would catch: a path that reads its own summary, a peer without a summary, a similarity of the wrong pair."""
    routes = routes_of(summaries, sorted(receivers), router, k, similarity, seed=str(seed))
    assert set(routes) == receivers
    for receiver, chosen in routes.items():
        peers = [peer for peer, _ in chosen]
        others = set(summaries) - {receiver}
        assert receiver not in peers and set(peers) <= others
        assert len(set(peers)) == len(peers) == (len(others) if router == "all" else min(k, len(others)))
        for peer, value in chosen:
            if receiver in summaries:
                assert value == similarities([summaries[receiver], summaries[peer]], similarity)[0, 1]
            else:
                assert value is None


def test_routes_do_not_depend_on_the_order_of_summaries_or_receivers():
    """Would catch: rows of the matrix taken by position in the dict instead of by path."""
    texts = {3: "abc", 1: "abd", 7: "xyz", 0: "xbz", 5: ""}
    for router in (*ROUTERS, lambda own, peers, k, rng: [peer.sender for peer in peers][:k]):
        expected = routes_of(texts, [0, 1, 7], router, 2, "levenshtein", seed="s")
        backwards = routes_of(dict(sorted(texts.items())), [7, 1, 0], router, 2, "levenshtein", seed="s")
        assert backwards == expected


def test_ties_go_to_the_lower_path_index():
    """Would catch: an order among equals that changes from run to run."""
    texts = dict.fromkeys([9, 4, 2, 7], "same")
    for router in ("dispersed", "clustered"):
        assert [peer for peer, _ in routes_of(texts, [7], router, 2, "levenshtein", seed="")[7]] == [2, 4]


def test_random_routes_change_with_the_seed_and_differ_between_receivers():
    """Would catch: one draw for all receivers, or a seed that is not used."""
    texts = {i: "" for i in range(12)}
    routes = [routes_of(texts, range(12), "random", 3, "levenshtein", seed=seed) for seed in ("0/0", "0/0", "0/1", "1/0")]
    assert routes[0] == routes[1]
    assert routes[0] != routes[2] != routes[3] != routes[0]
    # the same generator for both would draw the same places among the eleven others
    places = {tuple(peer - (peer > receiver) for peer, _ in chosen) for receiver, chosen in routes[0].items()}
    assert len(places) > 6


def test_a_router_of_the_users_own_gets_messages_k_and_a_generator_and_decides_the_order():
    """Would catch: a router handed the receiver itself, or whose order is not kept; a generator that is not seeded; a text,
    an answer or a block of another path's.
    """
    seen = []

    def router(receiver, messages, k, rng):
        seen.append((receiver, list(messages), k, rng.random()))
        return (np.int64(message.sender) for message in reversed(messages))

    texts, answers = {2: "ba", 0: "ab", 1: "ab"}, {0: None, 1: "7", 2: "8", 3: "9"}
    for _ in range(2):
        routes = routed(texts, answers, 5, [0, 3], router, 2, "levenshtein", seed="s")
        assert routes == {0: [(2, 0.0), (1, 1.0)], 3: [(2, None), (1, None), (0, None)]}
        assert all(type(peer) is int for chosen in routes.values() for peer, _ in chosen)  # what JSON can hold
    assert seen[0][:3] == (Message(0, "ab", 5, None, None),
                           [Message(1, "ab", 5, "7", 1.0), Message(2, "ba", 5, "8", 0.0)], 2)
    assert seen[1][:3] == (Message(3, "", 5, "9", None), [
        Message(0, "ab", 5, None, None), Message(1, "ab", 5, "7", None), Message(2, "ba", 5, "8", None)], 2)
    assert seen[:2] == seen[2:] and seen[0][3] != seen[1][3]


def test_a_similarity_of_the_users_own_is_used():
    """Would catch: a callable taken and Eq. 4 used all the same."""
    texts = {0: "aaaa", 1: "aaab", 2: "z"}
    routes = routes_of(texts, [0], "clustered", 1, lambda a, b: -abs(len(a) - 1 - len(b)), seed="")
    assert routes == {0: [(1, -1.0)]}
    assert routes_of(texts, [0], "clustered", 1, lambda a, b: float(b == "z"), seed="") == {0: [(2, 1.0)]}


@pytest.mark.parametrize("chosen", [[0], [1, 1], [5], [1, 0], ["1"]])
def test_a_router_that_chooses_the_receiver_a_stranger_or_a_peer_twice_is_refused(chosen):
    """Would catch: a path that reads its own summary as a peer's, or a KeyError in the middle of a block."""
    with pytest.raises(ValueError, match=r"path 0.*allowed are \[1, 2\], each once"):
        routes_of({0: "a", 1: "b", 2: "c"}, [0], lambda own, peers, k, rng: chosen, 2, "levenshtein", seed="")


def test_a_group_where_nobody_has_a_summary_sends_nothing():
    """Would catch: an error on an empty matrix when every summary came out empty."""
    for router in ROUTERS:
        assert routes_of({}, [0, 1], router, 4, "levenshtein", seed="") == {0: [], 1: []}
        assert routes_of({0: "a"}, [0], router, 4, lambda a, b: 1.0, seed="") == {0: []}


# -- in a run -----------------------------------------------------------------------------------------------------------


def run(**changes):
    return generator().generate(QUESTION, n=4, leap=LEAP.replace(**changes), sampling=SAMPLING, seed=3)


def read_by(output):
    return [{path: [route.peer for route in routes] for path, routes in block.routes.items()} for block in output.blocks]


def test_a_ring_can_be_written():
    """Would catch: a router that cannot tell who asks, so that no fixed topology can be had."""
    def ring(receiver, messages, k, rng):
        return [m.sender for m in messages if m.sender == (receiver.sender + 1) % 4]

    output = run(router=ring)
    assert len(output.blocks) == 2
    assert read_by(output) == [{i: [(i + 1) % 4] for i in range(4)}] * 2


def test_a_filter_by_answers_can_be_written(monkeypatch):
    """Would catch: a router that sees no texts or answers; an answer of another path's, of a peer's words, or of later."""
    def stated(text):  # in place of a box, which a random model does not write
        return text[:1] if "e" in text else None

    monkeypatch.setattr("leapgen.protocol.leap.extract_answer", stated)
    seen = {}

    def answered(receiver, messages, k, rng):
        seen.update({(m.block, m.sender): m for m in (receiver, *messages)})
        return [m.sender for m in messages if m.answer is not None]

    output = run(router=answered)
    for block, routes in zip(output.blocks, read_by(output), strict=True):
        answers = {}
        for path in output.paths:
            before = itertools.takewhile(lambda s, held=block.index: s.block is None or s.block < held, path.segments)
            answers[path.index] = stated("".join(s.text for s in before if s.kind == "own"))
            message = seen[block.index, path.index]
            assert (message.answer, message.text) == (answers[path.index], block.summaries[path.index].text)
        assert routes == {i: [j for j in range(4) if j != i and answers[j]] for i in range(4)}
    assert len({bool(answer.answer) for answer in seen.values()}) == 2  # some had one and some had none


def test_a_similarity_of_embeddings_can_be_written():
    """Would catch: embeddings that have to be computed pair by pair, n * n times; similarities of other paths recorded."""
    calls = []

    def cosine(texts):
        counts = np.array([[text.count(letter) + 1e-6 for letter in "aeiou "] for text in texts])
        counts /= np.linalg.norm(counts, axis=1, keepdims=True)
        calls.append((list(texts), counts @ counts.T))
        return calls[-1][1]

    output = run(similarity=cosine, router="clustered")
    assert len(output.blocks) == 2
    for block, (texts, matrix) in zip(output.blocks, calls, strict=True):
        paths = [path for path in sorted(block.summaries) if block.summaries[path].text]
        assert texts == [block.summaries[path].text for path in paths]
        for row, path in enumerate(paths):
            by_likeness = sorted((-matrix[row, column], peer) for column, peer in enumerate(paths) if peer != path)[:2]
            assert [(-route.similarity, route.peer) for route in block.routes[path]] == by_likeness


def test_a_similarity_that_returns_nan_ends_the_run_with_what_there_is():
    """Would catch: routes that depend on where NaN happens to stand."""
    with pytest.raises(GenerationFailed, match="NaN") as failed:
        run(similarity=lambda texts: np.full((len(texts), len(texts)), np.nan))
    assert all(path.count("own") for path in failed.value.outputs[0].paths)
