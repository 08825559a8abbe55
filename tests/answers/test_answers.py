"""What a path answered, when two answers are one, and what a group's vote is."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapgen.answers import extract_answer, normalize_answer
from leapgen.protocol.prompts import PromptSet
from leapgen.record.run import LeapOutput, PathOutput, Segment

BALANCED = st.recursive(st.sampled_from(["1", "x", " + ", "\\frac", "\\{", "\\}", "漢"]),
                        lambda inner: st.lists(inner, max_size=4).map(lambda parts: "{" + "".join(parts) + "}"),
                        max_leaves=8)
PROSE = st.text("ab 1{}\n", max_size=12)


# -- reading an answer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "answer"), [
    ("So it is \\boxed{42}.", "42"),
    ("First \\boxed{1}, no: \\boxed{2}. Done.", "2"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("\\boxed{ \\{1, 2\\} } and more }", "\\{1, 2\\}"),
    ("\\boxed{a\\}b}", "a\\}b"),
    ("\\boxed {7}, \\fbox{8}", "8"),
    ("\\boxed{7}, then \\boxed{8", "7"),
    ("\\boxed{7}, then \\boxed{\\frac{1}{2}", "7"),
    ("\\boxed{7}, then \\boxed{} or \\boxed{ }", "7"),
    ("\\boxed{\\boxed{3}}", "3"),
    ("\\boxed{8", None),
    ("\\boxed{}", None),
    ("boxed{8}", None),
])
def test_the_answer_is_the_last_complete_box(text, answer):
    """Would catch: the first box, a box cut at its first brace, a box that the budget cut short hiding an earlier one."""
    assert extract_answer(text) == answer


@settings(max_examples=100)
@given(PROSE, BALANCED, st.text("ab 1\n", max_size=12), st.sampled_from(["", "\\boxed{", "\\boxed{{1}", "\\boxed{}"]))
def test_a_box_gives_back_exactly_what_is_in_it(before, content, after, cut):
    """Would catch: nested braces counted wrongly, escaped ones counted at all, prose before or after that gets in."""
    assert extract_answer(f"{before}\\boxed{{{content}}}{after}{cut}") == content.strip()


@pytest.mark.parametrize(("text", "answer"), [
    ("Answer: 42", "42"),
    ("ANSWER: C", "C"),
    ("So.\n\nFinal answer: $\\frac{1}{2}$.", "\\frac{1}{2}"),
    ("**Answer:** 42", "42"),
    ("**Answer**: 42", "42"),
    ("**Final Answer: 42**", "42"),
    ("Answer: **42**", "42"),
    ("Answer is 42.\nor so", "42"),
    ("Answer: 1\nWait.\nAnswer: 2\nDone", "2"),
    ("Answer: 1\nWait.\nanswer:\n 2", "2"),
    ("Answer: -3.50", "-3.50"),
    ("Answer: 42 \\boxed{7}", "7"),
    ("\\boxed{7}\nAnswer: 42", "7"),
])
def test_without_a_box_the_last_stated_answer_counts(text, answer):
    """Would catch: GPQA's ``ANSWER: C`` not read, Markdown kept in the answer, a stated answer preferred to a box."""
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), [("Answer: .5", ".5"), ("Answer: $.75$.", ".75")])
def test_a_decimal_point_in_front_is_part_of_the_answer(text, answer):
    """Would catch: a full stop taken off the wrong end, which makes .5 into 5."""
    assert extract_answer(text) == answer


@pytest.mark.parametrize("text", ["", "I do not know.", "The answering machine: 5", "Answer:", "Answer: **", "42"])
def test_a_path_that_states_nothing_has_no_answer(text):
    """Would catch: any number in the text taken for the answer."""
    assert extract_answer(text) is None


@pytest.mark.parametrize("said", ["", "12 because", "\\frac{1}{"])
def test_a_forced_answer_that_never_closes_its_box_is_none(said):
    """Would catch: the forced phrase itself (``**Final answer:** \\boxed{``) read as a stated answer, so that such paths
    vote for ``\\boxed{12 because``.
    """
    prompts = PromptSet()
    text = "So." + prompts.forced_answer + "\n</think>" + prompts.answer_lead + said
    assert extract_answer(text) is None
    assert extract_answer("\\boxed{5} hm" + text) == "5"


@pytest.mark.parametrize("think_end", ["", "\n</think>"])
def test_a_forced_answer_is_read_together_with_the_phrase_that_opened_its_box(think_end):
    """Would catch: an answer that is missed because its ``\\boxed{`` was injected and not sampled."""
    prompts = PromptSet()
    text = "So." + prompts.forced_answer + think_end + prompts.answer_lead + "\\sqrt{2}}. I hope"
    assert extract_answer(text) == "\\sqrt{2}"


# -- when two answers are one -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [
    ("042", "42"), ("$42$", "42"), ("42.", "42"), (" 4 2 ", "42"), ("1,000", "1000"), ("12,345,678", "12345678"),
    ("+5", "5"), ("-0", "0"), ("-07", "-7"), ("\\text{A}", "a"), ("\\mathrm{cm}", "cm"), ("\\dfrac{1}{2}", "\\frac{1}{2}"),
    ("\\tfrac{1}{2}", "\\frac{1}{2}"), ("\\left(1,\\, 2\\right)", "(1,2)"), ("C", "c"), ("x = 5", "x=5"),
    ("$1,000.$", "1000"),
])
def test_answers_that_differ_in_typesetting_are_one(one, other):
    """Would catch: votes for one answer split over its spellings."""
    assert normalize_answer(one) == normalize_answer(other)


@pytest.mark.parametrize(("one", "other"), [("\\text{42.}", "42"), ("\\$18", "18")])
def test_a_full_stop_inside_text_and_an_escaped_dollar_are_typesetting_too(one, other):
    """Would catch: a backslash left behind by its dollar sign; a full stop that is only looked for on the outside."""
    assert normalize_answer(one) == normalize_answer(other)


@pytest.mark.parametrize(("one", "other"), [
    ("\\text{(C)}", "C"), ("(C)", "C"), ("\\mathrm{C}", "C"), ("\\textbf{(c)}", "\\mathbf{C}"),
    ("\\boxed{\\text{(C)}}", "c"), ("(1/2, 1/3)", "(\\frac12,\\frac13)"),
    ("\\frac12", "\\frac{1}{2}"), ("1/2", "\\frac{1}{2}"), ("\\tfrac12", "1/2"), ("\\frac 1 2", "1 / 2"),
    ("-\\frac{7}{3}", "-7/3"), ("\\frac\\pi2", "\\pi/2"), ("2\\sqrt3/3", "\\frac{2\\sqrt{3}}{3}"),
    ("2 1/2", "2\\frac12"), ("x^{2}", "x^2"), ("90^\\circ", "90^{\\circ}"), ("\\sqrt{2}", "\\sqrt2"), ("1{,}000", "1000"),
    ("1,\\!000", "1000"), ("\\(42\\)", "42"), ("\N{MINUS SIGN}5", "-5"), ("25\\%", "25%"), ("5\\text{ cm}", "5 cm"),
    ("(1,2)", "\\left( 1 , 2 \\right)"), ("mill  egg", "\\text{mill egg}"),
])
def test_a_choice_a_fraction_and_a_number_have_one_spelling_each(one, other):
    """Would catch: votes, and the filter of training data, split over how TeX lets one thing be written."""
    assert normalize_answer(one) == normalize_answer(other)


@pytest.mark.parametrize(("one", "other"), [
    ("42", "-42"), ("42", "420"), ("0.5", "5"), ("1,2", "12"), ("(1,2)", "(12)"), ("1,00", "100"),
    ("\\frac{1}{2}", "\\frac{2}{1}"), ("1.0", "10"), ("\\text{A}", "\\text{B}"), ("100", "1"), ("x_1", "x1"),
    ("1,2", "1,200"), ("1, 200", "1,200"), ("(1,2)", "\\{1,2\\}"), ("(1,2)", "[1,2]"), ("(C)", "(C,D)"), ("(-1)", "1"),
    ("2 1/2", "21/2"), ("1/2", "2/1"), ("1/2", "12"), ("\\frac12", "\\frac{12}{}"), ("\\frac{12}{3}", "\\frac123"),
    ("2^{10}", "2^10"), ("x^{12}", "x^12"), ("1/2x", "\\frac{1}{2x}"), ("1/2", "2/4"), ("5\\text{ cm}", "5"),
    ("\\Delta", "\\delta"), ("\\leftarrow", "arrow"), ("25\\%", "25"), ("\\mathbf{x}+x", "2x"), ("1/2.5", "\\frac{1}{2}.5"),
    ("mill egg", "egg mill"),
])
def test_answers_that_differ_stay_apart(one, other):
    """Would catch: a pair taken for a number with separators, trailing zeros or signs dropped."""
    assert normalize_answer(one) != normalize_answer(other)


SPELLINGS = st.lists(st.sampled_from([
    "1", "2", "12", "000", "x", "C", "\\frac", "\\dfrac", "\\sqrt", "\\pi", "\\Delta", "\\text", "\\mathrm", "\\boxed",
    "\\left", "\\right", "\\", "\\,", "\\!", "\\ ", "\\$", "\\(", "\\)", "\\{", "\\}", "{", "}", "(", ")", "[", "]", "{,}",
    ",", " ", ".", "/", "^", "_", "-", "+", "$", "~", "=", "\\%", "cm", "é", "İ"]), max_size=12).map("".join)


@settings(max_examples=1000)
@given(SPELLINGS)
def test_a_normal_spelling_is_its_own(answer):
    """Would catch: a group's vote that depends on whether an answer was normalized once or twice."""
    assert normalize_answer(normalize_answer(answer)) == normalize_answer(answer)


FRACTIONS = st.tuples(st.integers(0, 30), st.integers(1, 30))
FORMS = st.sampled_from(["{}/{}", "\\frac{{{}}}{{{}}}", "\\dfrac{{{}}}{{{}}}", "$\\frac{{{}}} {{{}}}$", "{} / {}"])


@settings(max_examples=300)
@given(FRACTIONS, FRACTIONS, FORMS, FORMS)
def test_two_fractions_are_one_only_if_their_digits_are(one, other, form, another):
    """Would catch: a slash or a brace that moves from one number to the next."""
    assert (normalize_answer(form.format(*one)) == normalize_answer(another.format(*other))) == (one == other)


@pytest.mark.parametrize("part", ["1", "1/", "1/2,", "a", "\\a", "\\pi", "\\frac", "\\frac{", "\\text{", "$", " ", ", "])
def test_a_path_that_repeats_itself_for_ever_is_normalized_at_once(part):
    """Would catch: a pattern whose time explodes with the length of an answer, so that a finished run never ends."""
    began = time.perf_counter()
    normalize_answer(part * 2000 + "!")
    assert time.perf_counter() - began < 2


@settings(max_examples=100)
@given(st.integers(), st.integers(0, 3), st.sampled_from(["{}", "${}$", " {} ", "{}.", "$ {} $."]))
def test_every_spelling_of_an_integer_is_that_integer(number, zeros, form):
    """Would catch: a sign or zeros in front lost or kept, thousands that are only read once."""
    padded = f"{'-' if number < 0 else ''}{'0' * zeros}{abs(number)}"
    assert normalize_answer(form.format(padded)) == normalize_answer(f"{number:,}") == str(number)


def test_an_answer_of_thousands_of_digits_is_an_answer_like_any_other():
    """Would catch: one path that repeats a digit for ever and makes the whole group's vote, and its repr, raise."""
    output = group(("7", 5), ("7", 5), ("1" * 5000, 5))
    assert output.majority() == output.shortest_majority() == "7"
    assert "majority='7'" in repr(output)


# -- votes ------------------------------------------------------------------------------------------------------------------


def group(*answers, others=0):
    """A run whose paths gave these (answer, own tokens); a third number is of answer tokens."""
    paths = []
    for index, (answer, *counts) in enumerate(answers):
        segments = [Segment("prompt", [0] * 50)]
        for kind, count in zip(("own", "answer"), counts, strict=False):
            segments.append(Segment(kind, [1] * count))
        segments.append(Segment("comment", [2] * others))
        paths.append(PathOutput(index, segments, answer=answer))
    return LeapOutput("?", paths)


@pytest.mark.parametrize(("answers", "majority"), [
    (["1", "2", "2"], "2"),
    (["1", "2", "2", "1"], "1"),
    (["2", "1", "1", "2"], "2"),
    ([None, None, None, "2"], "2"),
    ([None, "3", "2", "2", None, None], "2"),
    (["042", "7", "42"], "042"),
    (["7", "42.", "$42$"], "42."),
    (["B", "a", "b"], "B"),
    ([None, None], None),
    ([], None),
])
def test_the_majority_is_what_most_paths_answered_and_the_first_paths_on_a_tie(answers, majority):
    """Would catch: None winning the vote, spellings counted apart, a tie that falls by chance, the spelling changed."""
    assert group(*((answer, 5) for answer in answers)).majority() == majority


@pytest.mark.parametrize(("answers", "winner"), [
    ([("1", 10_000), ("1", 10_000), ("1", 10_000), ("2", 20), ("2", 20)], "2"),
    ([("1", 100), ("1", 100), ("1", 100), ("2", 50), ("2", 50)], "1"),
    ([("1", 100), ("2", 50)], "2"),
    ([("1", 100), ("2", 100)], "1"),
    ([("1", 3), ("2", 2)], "2"),
    ([(None, 3), (None, 3), (None, 3), ("2", 900)], "2"),
    ([("1", 10, 990), ("2", 500, 0)], "2"),
    ([("1", 300), ("1", 500), ("2", 398, 1)], "1"),
    ([("042", 100), ("7", 60), ("42", 100)], "042"),
    ([(None, 3)], None),
])
def test_the_shortest_majority_weighs_votes_against_the_log_of_their_mean_length(answers, winner):
    """Would catch: plain majority under another name, a median, the length of answers only, or None taking part. Three
    votes of 10,000 tokens (3 / ln 10000 = 0.33) lose to two of 20 (2 / ln 20 = 0.67).
    """
    assert group(*answers).shortest_majority() == winner


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.integers(2, 5000)), min_size=1, max_size=9))
def test_the_shortest_majority_is_the_published_formula(answers):
    """Would catch: the log of each length averaged, in place of the log of the average (Zeng et al., arXiv 2502.12215)."""
    scores = {}
    for answer in dict.fromkeys(answer for answer, _ in answers if answer is not None):
        lengths = [length for other, length in answers if other == answer]
        scores[answer] = len(lengths) / math.log(sum(lengths) / len(lengths))
    assert group(*answers).shortest_majority() == max(scores, key=scores.get, default=None)


@pytest.mark.parametrize("length", [0, 1])
def test_a_path_of_no_or_one_token_has_a_vote_of_finite_weight(length):
    """Would catch: a division by log 1 = 0, or a log of 0."""
    assert group(("1", length), ("2", 100), ("2", 100)).shortest_majority() == "1"
    assert group(("1", length), ("2", 2), ("2", 2)).shortest_majority() == "2"


def test_what_peers_and_prompt_say_does_not_make_a_path_longer():
    """Would catch: comments or the prompt counted as the path's own length."""
    answers = [("1", 100), ("2", 50)]
    assert group(*answers, others=100_000).shortest_majority() == group(*answers).shortest_majority() == "2"
    many = LeapOutput("?", [*group(("1", 10), others=100_000).paths, *group(("2", 20)).paths])
    assert many.shortest_majority() == "1"
