"""Text from tokens and tokens from text: streaming, cutting, encoding in context, and words that must stay words."""

import copy
import re
import unicodedata

import pytest
import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from leapgen.protocol.prompts import TAGS, PromptSet
from leapgen.protocol.text import Quoted, TextStream, Untrusted, Vocabulary, between_quotes, decode


def with_think_tokens(tokenizer):
    twin = copy.deepcopy(tokenizer)
    twin.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
    return twin


TOKENIZERS = {"byte-level": tiny_tokenizer.byte_level(), "byte-level, thinking": tiny_tokenizer.byte_level(thinking=True),
              "sentencepiece": tiny_tokenizer.sentencepiece_like(),
              "sentencepiece, thinking": with_think_tokens(tiny_tokenizer.sentencepiece_like())}
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())
both_kinds = pytest.mark.parametrize("tokenizer", [TOKENIZERS["byte-level"], TOKENIZERS["sentencepiece"]],
                                     ids=["byte-level", "sentencepiece"])

# Whole words, characters of 1 to 4 bytes (some with a token of their own, some not), white space and LaTeX.
PIECES = ["a", "the ", "So ", " ", "  ", ".", ",", "\n", "\n\n", "\t", "<", ">", "|", "/", "1", "42", "é", "漢",
          "日本", "🙂", "🎲", "e\u0301", "'", '"', "\\boxed{", "}", "<sum", "marize>"]
SPELLED = [*tiny_tokenizer.SPECIAL, "<think>", "</think>", *TAGS, "<COMMENT>", "</Summarize>", "s>", "im_end|>", "<|"]
WORDS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
TEXTS = st.one_of(WORDS, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=6))
CONTEXTS = st.sampled_from(["", "So", "What is 2 + 2?\n\n", "é 漢\n"])
HOSTILE = st.lists(st.sampled_from([*PIECES, *SPELLED]), max_size=6).map("".join)


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def stream_of(tokenizer, tokens, context=()):
    stream = TextStream(tokenizer, context)
    stream.extend(tokens)
    return stream


def state(stream):
    return stream.text, stream.ends, len(stream)


# -- TextStream ---------------------------------------------------------------------------------------------------------


@every_tokenizer
@settings(max_examples=40)
@given(text=TEXTS)
def test_text_read_token_by_token_is_the_text_decoded_at_once(tokenizer, text):
    """Would catch: a lost or doubled space, a character whose bytes come in several tokens shown as U+FFFD or dropped."""
    tokens = encode(tokenizer, text)
    stream = TextStream(tokenizer)
    pushed = "".join(stream.push(token) for token in tokens)
    assert pushed == stream.text == decode(tokenizer, tokens) == text
    assert len(stream) == len(tokens)


@settings(max_examples=40)
@given(tokens=st.lists(st.integers(0, len(TOKENIZERS["byte-level"]) - 1), max_size=12))
def test_bytes_that_are_no_characters_read_as_they_decode_once_the_next_word_comes(tokens):
    """Would catch: a model's broken UTF-8 that silences the stream for good, or that shifts what follows."""
    tokenizer = TOKENIZERS["byte-level"]
    tokens = [*tokens, *encode(tokenizer, "x")]
    assert stream_of(tokenizer, tokens).text == decode(tokenizer, tokens)


@both_kinds
def test_a_character_appears_with_its_last_token_and_not_before(tokenizer):
    """Would catch: half a character shown as U+FFFD in a live view, or an ``ends`` that counts it too early."""
    tokens = encode(tokenizer, "a🎲")
    stream = TextStream(tokenizer)
    new = [stream.push(token) for token in tokens]
    assert len(tokens) >= 4  # the die has no token of its own
    assert new[-1] == "🎲" and stream.ends[-2:] == [1, 2] and "".join(new) == "a🎲"


@every_tokenizer
@settings(max_examples=40)
@given(before=WORDS, after=WORDS)
def test_a_stream_with_a_context_reads_only_what_comes_after_it(tokenizer, before, after):
    """Would catch: a first word without its space, since SentencePiece drops the space of whatever it decodes first."""
    tokens = encode(tokenizer, before + after)
    for cut in range(len(tokens) + 1):
        context = decode(tokenizer, tokens[:cut])
        if not context.endswith("\ufffd"):
            assert context + stream_of(tokenizer, tokens[cut:], tokens[:cut]).text == before + after


@both_kinds
def test_a_context_that_is_seen_from_inside_a_character_changes_nothing(tokenizer):
    """Would catch: a window of context tokens that begins inside a character, which makes SentencePiece's byte decoder
    give up on every byte after it, so that a path's first characters are lost.
    """
    tokens = encode(tokenizer, "日本日本日本日本")
    befores = [decode(tokenizer, tokens[:cut]) for cut in range(len(tokens))]
    cuts = [cut for cut, before in enumerate(befores) if not before.endswith("\ufffd")]
    assert len(cuts) > 6
    for cut in cuts:
        assert befores[cut] + stream_of(tokenizer, tokens[cut:], tokens[:cut]).text == "日本日本日本日本"


@every_tokenizer
@settings(max_examples=40)
@given(text=TEXTS, data=st.data())
def test_cropped_and_read_on_is_as_if_read_afresh(tokenizer, text, data):
    """Would catch: text, ends or decoder state of tokens that were cut and are no more; a cut counted from the context."""
    context, tokens = encode(tokenizer, data.draw(CONTEXTS)), encode(tokenizer, text)
    cut = data.draw(st.integers(0, len(tokens)))
    other = encode(tokenizer, data.draw(WORDS))
    stream = stream_of(tokenizer, tokens, context)
    stream.crop(cut)
    assert state(stream) == state(stream_of(tokenizer, tokens[:cut], context))
    stream.extend(tokens[cut:])
    assert state(stream) == state(stream_of(tokenizer, tokens, context))
    stream.crop(cut)
    stream.extend(other)
    assert state(stream) == state(stream_of(tokenizer, tokens[:cut] + other, context))


@both_kinds
def test_cropped_inside_a_character_it_can_be_completed_again(tokenizer):
    """Would catch: a crop after a character's first bytes that makes the stream lose the character when the rest comes."""
    tokens = encode(tokenizer, "ab 漢字日本x")
    for cut in range(len(tokens) + 1):
        stream = stream_of(tokenizer, tokens)
        stream.crop(cut)
        stream.extend(tokens[cut:])
        assert state(stream) == state(stream_of(tokenizer, tokens)), cut


@both_kinds
def test_cropped_far_behind_a_characters_middle_it_reads_on(tokenizer):
    """Would catch: after a crop, looking back to the middle of a character and failing to read all bytes from there on."""
    tokens = encode(tokenizer, "日本日本日本")
    cuts = [cut for cut in range(len(tokens)) if not decode(tokenizer, tokens[:cut]).endswith("\ufffd")]
    assert len(cuts) > 4
    for cut in cuts:
        stream = stream_of(tokenizer, tokens)
        stream.crop(cut)
        stream.extend(tokens[cut:])
        assert state(stream) == state(stream_of(tokenizer, tokens)), cut


def test_cropping_to_more_than_there_is_changes_nothing():
    """Would catch: a crop that drops decoder state (here half a character) though no token is cut."""
    tokens = encode(TOKENIZERS["byte-level"], "a🎲b")
    stream = stream_of(TOKENIZERS["byte-level"], tokens[:3])
    stream.crop(3)
    stream.crop(7)
    stream.extend(tokens[3:])
    assert stream.text == "a🎲b"


@both_kinds
@settings(max_examples=40)
@given(text=WORDS, one=WORDS, other=WORDS, data=st.data())
def test_a_copy_goes_its_own_way(tokenizer, text, one, other, data):
    """Would catch: a list shared by a path and the fork that writes its summary."""
    context, tokens = encode(tokenizer, data.draw(CONTEXTS)), encode(tokenizer, text)
    cut = data.draw(st.integers(0, len(tokens)))
    stream = stream_of(tokenizer, tokens, context)
    twin = stream.copy()
    twin.crop(cut)
    twin.extend(encode(tokenizer, one))
    stream.extend(encode(tokenizer, other))
    assert state(twin) == state(stream_of(tokenizer, tokens[:cut] + encode(tokenizer, one), context))
    assert state(stream) == state(stream_of(tokenizer, tokens + encode(tokenizer, other), context))
    stream.crop(len(tokens))  # back to where the twin has said something else
    stream.extend(encode(tokenizer, one))
    assert state(stream) == state(stream_of(tokenizer, tokens + encode(tokenizer, one), context))


@every_tokenizer
@settings(max_examples=40)
@given(text=TEXTS, data=st.data())
def test_ends_spans_and_positions_agree(tokenizer, text, data):
    """Would catch: positions off by one, which cut a word in two or take a think tag into the reasoning."""
    tokens = encode(tokenizer, text)
    stream = stream_of(tokenizer, tokens)
    assert stream.ends == [len(stream_of(tokenizer, tokens[: i + 1]).text) for i in range(len(tokens))]
    middle = data.draw(st.integers(0, len(tokens)))
    assert stream.span(0, middle) + stream.span(middle, len(tokens)) == text
    assert stream.span(middle, middle) == ""
    character = data.draw(st.integers(0, len(text)))
    count = stream.tokens_before(character)
    assert len(stream.span(0, count)) <= character
    assert count == len(tokens) or stream.ends[count] > character


def test_an_end_token_counts_and_says_nothing():
    """Would catch: ``<|im_end|>`` in a path's text, or a length that is one off from the path's tokens."""
    tokenizer = TOKENIZERS["byte-level"]
    tokens = encode(tokenizer, "done")
    stream = stream_of(tokenizer, tokens)
    assert stream.push_silent() == ""
    assert (stream.text, len(stream), stream.ends[-1]) == ("done", len(tokens) + 1, 4)
    stream.crop(len(tokens))
    stream.extend(encode(tokenizer, " it"))
    assert stream.text == "done it"


# -- where a thought ends -------------------------------------------------------------------------------------------------


class Words:
    """A tokenizer whose tokens are given words, so that a test decides where they begin and end."""

    def __init__(self, words):
        self.words = words

    def decode(self, tokens, **options):
        return "".join(self.words[token] for token in tokens)


def words_of(*words):
    return stream_of(Words(words), range(len(words)))


@pytest.mark.parametrize(("words", "first", "kept"), [
    (["So", " 1", ".", "\n", "Then"], 0, 5),
    (["So", ".\n\n", "Then"], 0, 2),
    (["So", ".\n\n", "Then", "\n\n", "And"], 0, 4),
    (["So", ".\n", "\n", "Then"], 0, 3),
    (["So", "\n \t\n", "Then"], 0, 2),
    (["So", "\n\n"], 0, 2),
    (["So", "\n\n", "   ", "Then"], 0, 3),
    (["So", "\n\n", "   Then"], 0, 2),
    (["So", "\n\n", "\n\n", "Then"], 0, 3),
    (["So", ".\n\n", "Then", ":\n\nx", "=1"], 0, 2),
    (["So", ":\n\nx", "=1"], 0, 3),
    (["\n\n", "So", " on"], 0, 3),
    ([" \n", "\n", "So"], 0, 3),
    (["What?", "\n\n", "So", " on"], 2, 4),
    (["What?", "\n\n", "So", " on"], 1, 4),
    (["What?", "\n", "\n", "So"], 2, 4),
    (["What?", "\n\n", "So", ".\n\n", "Then"], 2, 4),
    (["What?", "\n\n"], 2, 2),
    ([], 0, 0),
])
def test_a_path_is_cut_back_to_the_last_blank_line_of_its_own(words, first, kept):
    """Would catch: cutting the question or a comment, cutting all of a path without a blank line, a blank line that no
    token ends with taken for one, a cut at an earlier blank line than the last.
    """
    assert words_of(*words).last_blank_line(first) == kept


@settings(max_examples=200)
@given(words=st.lists(st.sampled_from(["a", "b.", "\n", "\n\n", " ", "\t", ".\n\n", "c\n\nd", "\n \n", "\n\ne", ""]),
                      max_size=9), data=st.data())
def test_what_is_kept_ends_with_a_blank_line_and_what_is_cut_has_none(words, data):
    """Would catch: any of the above in a combination nobody thought of. A boundary is a token that ends with white space
    holding two line breaks, with something said since ``first``; a token without text (half a character) is none.
    """
    first = data.draw(st.integers(0, len(words)))
    boundaries = []
    for length in range(first + 1, len(words) + 1):
        own = "".join(words[first:length])
        white = own[len(own.rstrip()) :]
        if own.strip() and white.count("\n") >= 2 and words[length - 1]:
            boundaries.append(length)
    assert words_of(*words).last_blank_line(first) == max(boundaries, default=len(words))


@both_kinds
def test_half_a_character_after_a_blank_line_is_cut_off(tokenizer):
    """Would catch: a token that adds no text yet counted as the end of the blank line, and left to spoil what follows."""
    whole, die = encode(tokenizer, "So it is.\n\n"), encode(tokenizer, "a🎲")[1:]
    assert len(die) == 4
    assert stream_of(tokenizer, whole + die[:2]).last_blank_line(0) == len(whole)
    assert stream_of(tokenizer, whole + die).last_blank_line(0) == len(whole)


# -- encoding in context --------------------------------------------------------------------------------------------------


@every_tokenizer
@settings(max_examples=40)
@given(before=WORDS, pieces=st.lists(TEXTS, max_size=3))
def test_pieces_continue_the_context_letter_by_letter(tokenizer, before, pieces):
    """Would catch: the space that SentencePiece puts before whatever is encoded alone (``Peer 1: " 42``)."""
    context = encode(tokenizer, before)
    ids = Vocabulary(tokenizer).encode(pieces, after=context)
    assert decode(tokenizer, context + ids) == before + "".join(pieces)


@both_kinds
@pytest.mark.parametrize("after", ["日", "🎲 yes", "\tx", "<", "ok"])
def test_pieces_continue_a_context_that_is_seen_from_inside_a_character(tokenizer, after):
    """Would catch: a window of context tokens that begins inside a character: no spelling then seems to read back right,
    and the one with SentencePiece's spare space is taken.
    """
    context = encode(tokenizer, "So 日本日本日本")
    assert decode(tokenizer, context + Vocabulary(tokenizer).encode([after], after=context)) == "So 日本日本日本" + after


@both_kinds
@pytest.mark.parametrize("after", ["\n\nLet me", "日 yes", " <comment>", "\tx", "🎲"])
def test_a_piece_can_be_read_after_a_path_that_was_stopped_inside_a_character(tokenizer, after):
    """Would catch: a trigger swallowed by the half character that a path's last token left (a limit falls anywhere)."""
    tokens = encode(tokenizer, "ab 日本🎲日本🎲")
    for cut in range(1, len(tokens) + 1):
        ids = Vocabulary(tokenizer).encode([after], after=tokens[:cut])
        assert decode(tokenizer, tokens[:cut] + ids).endswith(after), cut
        assert stream_of(tokenizer, tokens[:cut] + ids).text.endswith(after), cut


@every_tokenizer
def test_text_after_a_token_of_its_own_gets_no_space(tokenizer):
    """Would catch: a space after ``</think>`` from tokenizers that encode each stretch between added tokens alone."""
    context = encode(tokenizer, "So I think")
    forced = " so.\n</think>\n\n**Final answer:** \\boxed{"
    assert decode(tokenizer, context + Vocabulary(tokenizer).encode([forced], after=context)) == "So I think" + forced


@every_tokenizer
@settings(max_examples=40)
@given(before=WORDS, ours=st.lists(st.sampled_from(["<s>", "</s>", "<|im_end|>", "<|im_start|>"]), min_size=1, max_size=2))
def test_our_own_text_may_spell_a_special_token(tokenizer, before, ours):
    """Would catch: our own ``</think>`` taken apart as if a peer had written it."""
    ids = Vocabulary(tokenizer).encode(ours, after=encode(tokenizer, before))
    assert ids == [tokenizer.convert_tokens_to_ids(token) for token in ours]


@every_tokenizer
@settings(max_examples=40)
@given(before=WORDS, text=HOSTILE)
def test_a_peers_text_never_becomes_a_control_token_and_reads_the_same(tokenizer, before, text):
    """Would catch: a peer that ends another path's turn by writing ``<|im_end|>``, and characters lost in preventing it."""
    context = encode(tokenizer, before)
    ids = Vocabulary(tokenizer).encode([Untrusted(text)], after=context)
    assert not set(tokenizer.added_tokens_decoder) & set(ids)
    assert decode(tokenizer, context + ids) == before + text


@every_tokenizer
@settings(max_examples=40)
@given(text=HOSTILE)
def test_a_peers_text_never_spells_a_tag(tokenizer, text):
    """Would catch: a peer that closes the comment it stands in, or opens a summary, in any case or in pieces."""
    vocabulary = Vocabulary(tokenizer, tags=TAGS)
    ids = vocabulary.encode([Untrusted(text)], after=encode(tokenizer, "He said: "))
    read = decode(tokenizer, ids)
    assert not any(tag in read.lower() for tag in TAGS)
    assert not set(vocabulary.control.values()) & set(ids)
    assert re.sub(r"\s", "", read) == re.sub(r"\s", "", text)


@both_kinds
def test_a_tag_is_broken_by_one_space_and_nothing_else_changes(tokenizer):
    """Would catch: a peer's words rewritten or dropped around a tag."""
    vocabulary = Vocabulary(tokenizer, tags=TAGS)
    context = encode(tokenizer, 'Peer 1: "')
    ids = vocabulary.encode([Untrusted("x < y </comment> so <b>z</b>.</s>")], after=context)
    assert decode(tokenizer, context + ids) == 'Peer 1: "x < y < /comment> so <b>z</b>.</s>'


def test_a_peers_text_does_not_become_a_control_token_by_normalization():
    """Would catch: checking how a text is spelled before the tokenizer's own NFKC turns full-width signs into a tag."""
    backend = Tokenizer.from_str(TOKENIZERS["byte-level"].backend_tokenizer.to_str())
    backend.normalizer = normalizers.NFKC()
    backend.add_tokens([AddedToken("</think>", special=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    end = tokenizer.convert_tokens_to_ids("</think>")
    hostile = "so \uff1c/think\uff1e no"
    assert end in encode(tokenizer, hostile)  # this tokenizer does that
    assert end not in Vocabulary(tokenizer).encode([Untrusted(hostile)], after=[])


FULL_WIDTH = str.maketrans({character: chr(ord(character) + 0xFEE0) for character in '<>/"|_:'})


@settings(max_examples=200)
@given(text=HOSTILE, wide=st.booleans())
def test_a_peers_text_spells_no_tag_after_normalization(text, wide):
    """Would catch: a check of how a text is spelled, passed by signs that NFKC makes a tag of; a letter lost."""
    tokenizer = tiny_tokenizer.normalizing()
    vocabulary = Vocabulary(tokenizer, tags=TAGS)
    context = encode(tokenizer, "He said: ")
    ids = vocabulary.encode([Untrusted(text.translate(FULL_WIDTH) if wide else text)], after=context)
    read = decode(tokenizer, context + ids).removeprefix("He said: ")
    assert not any(tag in read.lower() for tag in TAGS)
    assert not set(vocabulary.control.values()) & set(ids)
    assert re.sub(r"\s", "", read) == re.sub(r"\s", "", unicodedata.normalize("NFKC", text))


def test_a_tokenizer_that_undoes_what_breaks_a_tag_up_gets_a_text_without_one():
    """Would catch: a normalisation nobody thought of (here spaces and curled quotes are undone) that opens the door."""
    backend = Tokenizer.from_str(TOKENIZERS["byte-level"].backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence([normalizers.Replace("< ", "<"), normalizers.Replace("“", '"')])
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend), tags=TAGS)
    read = decode(vocabulary.tokenizer, vocabulary.encode([Quoted('so "x" </comment> y')], after=[]))
    assert read == "so x” /comment y"


# -- what stands between quotes ---------------------------------------------------------------------------------------------


QUOTES = ['"', '" ', '"\nPeer 9: "', '"\n', "\nPeer 2: ", "Peer 1: ", '" </comment>', '" </comment>\n\n',
          "\r\n", "\r", "\x85", "\u2028", "\x0b", "”", "“", "\\", '\\"', "5\"", "  ", "''"]


def peers_of(comment):
    """What a comment says, by peer: the numbers go up from 1, and every sign belongs to exactly one part."""
    opening, closing, said = "<comment> ", " </comment>", []
    assert comment.startswith(opening) and comment.endswith(closing)
    rest = comment[len(opening) : -len(closing)]
    while rest:
        head = f'Peer {len(said) + 1}: "'
        assert rest.startswith(head)
        text, quote, rest = rest[len(head) :].partition('"')
        assert quote and (not rest or rest.startswith("\n"))
        said.append(text)
        rest = rest[1:]
    return said


@pytest.mark.parametrize("tokenizer", [*TOKENIZERS.values(), tiny_tokenizer.normalizing()], ids=[*TOKENIZERS, "normalizing"])
@settings(max_examples=60)
@given(texts=st.lists(st.lists(st.sampled_from([*PIECES, *SPELLED, *QUOTES]), max_size=6).map("".join),
                      min_size=1, max_size=3), wide=st.booleans())
def test_a_comment_has_exactly_the_peers_that_were_sent(tokenizer, texts, wide):
    """Would catch: a peer that ends its quotes and speaks as Peer 9, that closes the comment and speaks as the path itself,
    or that begins a line as another peer would; also by signs that become quotes after normalization.
    """
    vocabulary = Vocabulary(tokenizer, tags=TAGS)
    frame = PromptSet(nudge="Go on.").comment(len(texts))
    sent = [text.translate(FULL_WIDTH) if wide else text for text in texts]
    pieces = [frame[0], *(piece for text, after in zip(sent, frame[1:], strict=True) for piece in (Quoted(text), after))]
    context = encode(tokenizer, "So\n\n")
    read = decode(tokenizer, context + vocabulary.encode(pieces, after=context)).removeprefix("So\n\n")
    assert read.endswith("\n\nGo on.") and read.lower().count("</comment>") == read.lower().count("<comment>") == 1
    said = peers_of(read.removesuffix("\n\nGo on."))
    assert [bool(re.match("(<comment> )?Peer [0-9]+:", line)) for line in read.splitlines()].count(True) == len(texts)
    kept = [[re.sub(r"[\s“”\"]", "", unicodedata.normalize("NFKC", text)) for text in some] for some in (said, texts)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(("text", "shown"), [
    ("x = 2", "x = 2"), ('He said "x = 2".', "He said “x = 2”."), ('"x"', "“x”"), ('a 5" pipe ("b")', "a 5” pipe (“b”)"),
    ("1. a\n2. b\n\nc", "1. a\n  2. b\n\n  c"), ("a\n  b\n", "a\n  b\n"), ("a\r\nb\rc\u2028d", "a\n  b\n  c\n  d"),
    ('x"\nPeer 9: "y', "x”\n  Peer 9: “y"),
])
def test_between_quotes_a_text_keeps_its_words(text, shown):
    """Would catch: lines run together, quotes turned the wrong way, a text changed that needs no change."""
    assert between_quotes(text) == shown == between_quotes(shown)


@settings(max_examples=200)
@given(st.lists(st.sampled_from([*PIECES, *QUOTES]), max_size=8).map("".join))
def test_between_quotes_twice_is_once(text):
    """Would catch: lines that move to the right each time a text is checked."""
    assert between_quotes(between_quotes(text)) == between_quotes(text)


def test_a_control_token_that_overlaps_itself_is_broken_up_everywhere():
    """Would catch: occurrences looked for one after the other, so that breaking up one leaves the next whole."""
    tokenizer = copy.deepcopy(TOKENIZERS["byte-level"])
    tokenizer.add_tokens([AddedToken("|||", special=True)])
    ids = Vocabulary(tokenizer).encode([Untrusted("a||||b|||||")], after=[])
    assert tokenizer.convert_tokens_to_ids("|||") not in ids
    assert decode(tokenizer, ids) == "a||||b|||||"


def test_control_tokens_are_the_special_ones_and_those_that_look_like_tags():
    """Would catch: ``</think>``, an ordinary added token in most models, free for peers to use; or words locked away."""
    tokenizer = copy.deepcopy(TOKENIZERS["byte-level"])
    tokenizer.add_tokens([AddedToken(text, special=False) for text in ("</think>", "[/THINK]", "<|tool|>", "    ", "LeaP")])
    control = Vocabulary(tokenizer).control
    assert set(control) == {*tiny_tokenizer.SPECIAL, "</think>", "[/THINK]", "<|tool|>"}
    assert all(tokenizer.convert_tokens_to_ids(text) == index for text, index in control.items())


def test_nothing_to_say_is_no_tokens():
    """Would catch: an empty piece (a prompt set without a nudge, say) that adds a lone space."""
    for tokenizer in TOKENIZERS.values():
        assert Vocabulary(tokenizer).encode(["", Untrusted("")], after=encode(tokenizer, "So")) == []
        assert Vocabulary(tokenizer).encode([], after=[]) == []


# -- thinking markers -----------------------------------------------------------------------------------------------------


def test_thinking_markers_are_found_among_the_added_tokens():
    """Would catch: a Qwen-like tokenizer whose paths never notice that they ended their thinking."""
    vocabulary = Vocabulary(TOKENIZERS["byte-level, thinking"])
    assert vocabulary.thinking_markers() == ("<think>", "</think>")
    assert vocabulary.token("</think>") == TOKENIZERS["byte-level, thinking"].convert_tokens_to_ids("</think>")


@pytest.mark.parametrize(("template", "markers"), [
    ("{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{{ c.split('</think>')[-1] }}",
     ("<think>", "</think>")),
    ("{{ '[THINK]' + t + '[/THINK]' }}", ("[THINK]", "[/THINK]")),
    ({"default": "{{ m }}", "reasoning": "<seed:think>{{ m }}</seed:think>"}, ("<seed:think>", "</seed:think>")),
    ("<|begin_of_thought|>{{ m }}<|end_of_thought|>", ("<|begin_of_thought|>", "<|end_of_thought|>")),
    ("{{ 'think' }}", ("", "")),
    (None, ("", "")),
])
def test_thinking_markers_are_found_in_the_chat_template(template, markers):
    """Would catch: models whose markers are ordinary text, known from the template alone; several templates by name."""
    tokenizer = copy.deepcopy(TOKENIZERS["byte-level"])
    tokenizer.chat_template = template
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.thinking_markers() == markers
    assert vocabulary.token(markers[1]) is None  # in this vocabulary it is several tokens, or there is none
