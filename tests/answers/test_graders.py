"""Graders: which answers are one, by spelling, as mathematics and as a choice."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leapgen.answers import ChoiceGrader, MathGrader, extract_answer, grader
from leapgen.record.run import LeapOutput, PathOutput, Segment
from leapgen.tasks.base import Problem
from leapgen.tasks.problems import load_problems

pytest.importorskip("math_verify")

SAME, OTHER = True, False


def table(text):
    """Rows of ``one | other``."""
    return [tuple(part.strip() for part in row.split(" | ")) for row in text.strip().splitlines()]


ONE_NUMBER = table(r"""
    042 | 42
    $42$ | 42
    42. | 42
    -0 | 0
    3.0 | 3
    1,000 | 1000
    \boxed{204} | 204
    033 | 33
    \frac{1}{2} | 0.5
    \frac12 | \frac{1}{2}
    1/2 | \frac{1}{2}
    \dfrac{7}{3} | 7/3
    25\% | 25
    25\% | 0.25
    12 - 3 | 9
    10^{3} | 1000
    2^{10} | 1024
    2^10 | 1024
    2 1/2 | 2.5
    2\frac{1}{2} | \frac{5}{2}
    -\frac{3}{4} | \frac{-3}{4}
    -\frac{3}{4} | -0.75
    .5 | 1/2
    1,234.50 | 1234.5
    1/3 | 0.333333
    \frac{200}{3} | 66.6666667
    33.333333\% | 1/3
    3 \cdot 4 | 12
    3(4) | 12
    5! | 120
    \binom{10}{3} | 120
""")
ONE_UNIT = table(r"""
    5\text{ cm} | 5
    5 cm | 5\text{cm}
    90^\circ | 90
    90° | 90 degrees
    204 | 204 minutes
    18 | 18 apples
    \frac{3}{4}\text{ hours} | 0.75
    \$18 | 18 dollars
    \$1,250.50 | 1250.5
    €7 | 7\text{ euros}
    12\text{ square units} | 12
    12\text{ cm}^2 | 12 cm^2
    60\text{ miles per hour} | 60
    40\text{ percent} | 40\%
""")
ONE_NAME = table(r"""
    x=5 | 5
    x = 5 | 5
    m+n=033 | 33
    m+n = 11+22 = 33 | 33
    f(2) = 7 | 7
    a_{10} = 55 | 55
    \text{Area} = 12\text{ cm}^2 | 12
    x = 3 \text{ or } x = -3 | x = -3 \text{ or } x = 3
    x = 3 \text{ or } x = -3 | \{-3, 3\}
    x = 3 or x = -3 | \pm 3
    x = \frac{3 \pm \sqrt{5}}{2} | \frac{3-\sqrt5}{2}, \frac{3+\sqrt5}{2}
    x=2, y=-1 | y=-1, x=2
    (x, y) = (2, -1) | (2,-1)
    y = 2x + 3 | 2x - y + 3 = 0
    y = 2x + 3 | 2x + 3 = y
""")
ONE_TERM = table(r"""
    \sqrt{8} | 2\sqrt{2}
    sqrt(8) | 2\sqrt2
    2√2 | \sqrt{8}
    \frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2}
    1/\sqrt{2} | \frac{\sqrt2}{2}
    2+3i | 3i+2
    \pi/2 | \frac{\pi}{2}
    2pi | 2\pi
    0.5\pi | \frac{\pi}{2}
    x^2-1 | (x-1)(x+1)
    (x+y)^2 | x^2+2xy+y^2
    \frac{x^3-1}{x-1} | x^2+x+1
    \ln 8 | 3\ln 2
    \log_2 8 | 3
    \log_{2}{8} | 3
    \ln{8} | 3 \ln 2
    \log_{10} 1000 | 3
    \sqrt{2} | 1.41421356
    e^{2} | 7.389056
    2\sin x\cos x | \sin(2x)
    0.1 + 0.2 | 0.3
""")
ONE_COLLECTION = table(r"""
    (1,2) | (1, 2)
    (\frac12, 3) | (0.5, 3)
    \{1,2\} | \{2,1\}
    1, 2 | 2,1
    1 and 2 | \{1,2\}
    \{(1,2),(3,4)\} | \{(3,4),(1,2)\}
    \emptyset | \{\}
    [0, \infty) | [0,\infty)
    [\frac{1}{2}, \infty) | [0.5, infinity)
    x \in (-\infty, 3] | (-\infty, 3]
    (-\infty,1)\cup(2,3) | (2,3) \cup (-\infty,1)
    x < 5 | 5 > x
    1 \le x < 3 | 3 > x \geq 1
    \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{bmatrix}1&2\\3&\frac{8}{2}\end{bmatrix}
    \begin{pmatrix} 1/2 \\ 3 \end{pmatrix} | \begin{pmatrix} 0.5 \\ 3 \end{pmatrix}
""")
ONE_WORD = table(r"""
    mill egg fish bug | mill egg fish bug
    \text{even} | even
    \text{(C)} | C
    \textbf{C} | C
    \mathbf{C} | C
""")
TWO_NUMBERS = table(r"""
    42 | 43
    42 | -42
    116 | 116.0001
    116 | 116.0000001
    1/3 | 0.3333
    1/3 | 0.333334
    0.0000001 | 0
    10^{-8} | 0
    10^{-20} | 10^{-21}
    e^{-50} | e^{-60}
    \pi \cdot 10^{-8} | 0.00000003
    \pi | 3.14
    3(4) | 7
    (3)(4) | 7
    5 6 | 11
    1.5.2 | 0.3
    1e5 | 5e
    2 1/2 | 21/2
    5\% | 500
    25\% | 0.0025
    12345678901234567890 | 12345678901234567891
    12345678901234567890\sqrt{2} | 12345678901234567891\sqrt{2}
    1,2 | 12
    \frac{1}{0} | \frac{2}{0}
    \infty | -\infty
    1/2x | \frac{1}{2x}
    \pm 3 | 3
    x2 | 2x
""")
TWO_UNITS = table(r"""
    5\text{ cm} | 5\text{ km}
    5\text{ cm} | 5\text{ cm}^2
    45\% | 45\text{ cm}
    18 dollars | 18 euros
    \$18 | 18\text{ euros}
    5 million | 5
    5\text{ hundred} | 5
    3 tenths | 3
    2 halves | 2
    5m | 5
    3xy | 3
    2 pi | 2
    4 abc | 4
    2 dozen | 2
    7 or less | 7
    90^\circ | 90\text{ radians}
    \sin 30^\circ | \sin 30
""")
TWO_OTHERS = table(r"""
    x=5 | y=5
    x=2, y=-1 | x=-1, y=2
    2x=10 | 10
    x^2=-1 | x^2=-5
    1=2 | 3=4
    x<5 | x\le 5
    x<5 | x>5
    1<x<2 | (1,2)
    (1,2) | \{1,2\}
    (1,2) | [1,2]
    (1,2) | (2,1)
    (2,1) | (3,1)
    [0,1) | (0,1]
    \{1,2\} | \{1,2,3\}
    \{1,1,2\} | \{1,2,2\}
    \{5\} | 5
    \begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix}
    \begin{pmatrix}1\\2\end{pmatrix} | (1,2)
    (0,1)\cup(2,3) | (0,1)\cup(2,4)
    \sqrt{x^2} | x
    \sin 2x | x \sin 2
    a_1 | a_2
    x^2-1 | (x-1)^2
    N - n | 0
    x^2+1 | x^2+2
""")
TWO_WORDS = table(r"""
    mill egg fish bug | mill egg bug fish
    mill egg 5 | egg mill 5
    \text{odd} | even
    \text{no} | \text{on}
    \text{no }5 | \text{on }5
    no 5 | on 5
    act+5\text{ and more} | cat+5\text{ and more}
    C | D
    yes | 5
    5 ? | 5
    5}{ | 5
    \foo 5 | 5
    not 5 | 5
""")
ROWS = [(*row, SAME) for rows in (ONE_NUMBER, ONE_UNIT, ONE_NAME, ONE_TERM, ONE_COLLECTION, ONE_WORD) for row in rows] + [
    (*row, OTHER) for rows in (TWO_NUMBERS, TWO_UNITS, TWO_OTHERS, TWO_WORDS) for row in rows]


@pytest.mark.parametrize(("one", "other", "same"), ROWS)
def test_answers_are_one_if_they_are_the_same_mathematics(one, other, same):
    """Would catch: a verdict that depends on which of the two was expected; words taken for products of their letters, two
    numbers side by side added, small numbers rounded to 0, brackets, units and names that do not count.
    """
    assert (grader("math").same(one, other), grader("math").same(other, one)) == (same, same)


@pytest.mark.parametrize("answer", [f"{number:03d}" for number in range(0, 1000, 37)])
def test_a_competitions_integer_has_many_spellings_and_no_neighbours(answer):
    """Would catch: leading zeros, names, units or a product that loses an answer of AIME; a tolerance that lets one in."""
    math, number = grader("math"), int(answer)
    for spelling in (str(number), f"{number}.0", f"m+n={number}", f"${number}$ minutes", f"\\boxed{{{number}}}",
                     f"{number}.", f"{number} \\text{{ square units}}", f"{2 * number}/2", f"x = {number}"):
        assert math.same(answer, spelling), spelling
    for other in (str(number + 1), f"-{number + 1}", f"{number}.0001", f"{number + 1}0", f"m+n={number + 1}"):
        assert not math.same(answer, other), other


# -- choices ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [
    "C", "c", "(C)", "(c)", "C.", "C)", "**C**", "$C$", "\\text{C}", "\\text{(C)}", "\\textbf{(C)}", "\\mathrm{C}",
    "\\boxed{C}", "\\boxed{\\text{(C)}}", "C) a red fox", "(C) a red fox", "C. a red fox", "C: a red fox", "ANSWER: C",
    "the answer is (C)",
    "The correct answer is C.", "option C", "Choice (C)", "C because it is red", "C, since B is wrong", "**C.** a red fox",
    "$\\text{(C)}$",
])
def test_a_choice_has_many_spellings(said):
    """Would catch: votes for one choice, and right answers to GPQA, lost over how the letter is set."""
    choice = grader("choice")
    assert choice.same("C", said) and choice.same(said, "c") and not choice.same("D", said) and not choice.same(said, "B")


@pytest.mark.parametrize("said", [
    "A cat", "C or D", "A and B", "A, C", "(A) or (C)", "(A)(C)", "cat", "a cat", "I think", "E = mc^2", "CD", "", "42",
    "Carbon", "e.g. carbon", "K",
])
def test_what_names_no_choice_or_several_is_none(said):
    """Would catch: the first letter of whatever is said taken for a choice."""
    assert not any(grader("choice").same(letter, said) for letter in "ABCDEFGHIJ")
    assert grader("choice").same(said, said)


def test_the_text_of_a_choice_names_it_where_the_texts_are_known():
    """Would catch: an answer in words that is wrong though it is the right choice's; two choices of one text; a choice whose
    text is another's letter.
    """
    choice = ChoiceGrader({"A": "$\\frac12$", "B": "a red fox", "C": "twice", "D": "twice", "E": "B"})
    assert choice.same("A", "1/2") and choice.same("B", "\\text{a red fox}") and choice.same("B", "B")
    assert not choice.same("C", "twice") and not choice.same("D", "twice") and not choice.same("E", "B")
    assert not grader("choice").same("A", "1/2") and grader("choice", {"A": "1/2"}).same("A", "\\frac{1}{2}")


@pytest.mark.parametrize(("text", "answer"), [
    ("So.\nANSWER: C", "C"),
    ("So.\nANSWER: C because the fox is red.", "C"),
    ("**ANSWER: C**\n\nI hope this helps.", "C"),
    ("Thus the answer is (C), because the fox is red.", "C"),
    ("Thus the answer is **(C)**.", "C"),
    ("Thus the correct answer is **C**, a red fox", "C"),
    ("so the answer is option C.\nWe are done", "C"),
    ("The answer is (A). Wait, no. The answer is (C) after all.", "C"),
    ("ANSWER: A\nOn reflection the final answer is: (C)", "C"),
    ("the answer is (A), or rather \\boxed{\\text{(C)}}", "C"),
])
def test_a_choice_is_found_in_a_paths_own_words(text, answer):
    """Would catch: GPQA's forms not read where words or Markdown follow; the first one stated in place of the last."""
    assert grader("choice").same(answer, extract_answer(text))


@pytest.mark.parametrize("text", [
    "the answer is a number", "the answer is A number", "the answer is I think 5", "The answer is 42 or so",
    "the answer is Clear.", "is the answer C or D?", "The answer is not (C)", "the best option is A.",
])
def test_other_sentences_state_no_choice(text):
    """Would catch: the first letter after "the answer is" taken for a choice."""
    assert extract_answer(text) is None


# -- votes -----------------------------------------------------------------------------------------------------------------


def run(*answers):
    return LeapOutput("?", [PathOutput(i, [Segment("own", [1] * 9)], answer=answer) for i, answer in enumerate(answers)])


def test_votes_are_counted_by_the_grader():
    """Would catch: a grader that only grades, so that equal answers split the vote; an answer that no path gave."""
    output = run("7", "\\frac12", "7.0", "0.5", "1/2", None)
    assert output.majority() == "\\frac12" and run("7", "7", "0.5", "1/2", "\\sqrt{0.25}").majority() == "7"
    assert run("7", "7", "0.5", "1/2", "\\sqrt{0.25}").majority("math") == "0.5"
    assert run("7", "7", "0.5", "1/2", "\\sqrt{0.25}").shortest_majority(grader("math")) == "0.5"
    assert run("B", "the answer is (C)", "C) a fox", "B", "\\text{(C)}").majority(grader="choice") == "the answer is (C)"
    assert run(None).majority("math") is None
    with pytest.raises(ValueError, match=r"no grader 'maths'.*'math'"):
        output.majority("maths")


def test_groups_come_in_order_of_first_appearance_and_join_the_first_that_fits():
    """Would catch: groups that depend on how a relation is walked that is not transitive: 25% is both 25 and 0.25."""
    math = grader("math")
    assert math.groups(["25", "0.25", "25\\%", "1/4", "25", "7"]) == [[0, 2, 4], [1, 3], [5]]
    assert math.groups(["0.25", "25", "25\\%"]) == [[0, 2], [1]]
    assert math.groups(["25\\%", "25", "0.25"]) == [[0, 1, 2]]
    assert math.groups([]) == [] and grader("exact").groups(["042", "7", "42"]) == [[0, 2], [1]]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["1", "1.0", "2", "x=1", "\\frac{2}{2}", "cat", "\\text{cat}", "1\\%", "0.01"]), max_size=9),
       st.sampled_from(["exact", "math", "choice"]))
def test_groups_are_a_partition_in_order(answers, name):
    """Would catch: a path that votes twice or not at all."""
    groups = grader(name).groups(answers)
    assert sorted(place for group in groups for place in group) == list(range(len(answers)))
    assert [group[0] for group in groups] == sorted(group[0] for group in groups) and all(g == sorted(g) for g in groups)


# -- names and files -------------------------------------------------------------------------------------------------------


def test_an_unknown_grader_is_refused_with_the_nearest_name():
    """Would catch: a typing error that grades by another rule."""
    with pytest.raises(ValueError, match=r"no grader 'maht': graders are 'exact', 'math', 'choice'\. Did you mean 'math'"):
        grader("maht")


def test_math_without_math_verify_says_what_to_install(monkeypatch):
    """Would catch: an evaluation that runs for hours and then cannot be graded."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "leapgen\[eval\]"'):
        MathGrader()


def test_a_problem_is_graded_by_its_own_grader(tmp_path):
    """Would catch: a file's grader that is ignored, or that is only found wrong when the answers are there."""
    file = tmp_path / "problems.jsonl"
    file.write_text('{"problem": "?", "answer": "1/2", "grader": "math"}\n{"problem": "?", "answer": "1/2"}\n')
    math, exact = load_problems(file)
    assert math.is_solved_by("0.5") and not exact.is_solved_by("0.5") and not math.is_solved_by(None)
    choice = Problem("a", "?", "B", "choice", {"choices": {"A": "cat", "B": "red fox"}})
    assert choice.is_solved_by("(b)") and choice.is_solved_by("red fox") and not choice.is_solved_by("cat")
    file.write_text('{"problem": "?", "answer": "1/2", "grader": "mth"}\n')
    with pytest.raises(ValueError, match=r"problems.jsonl, line 1: there is no grader 'mth'.*'math'"):
        load_problems(file)


def test_importing_answers_costs_nothing():
    """Would catch: torch, sympy or math-verify needed to read an answer."""
    code = ("import sys, leapgen.answers; leapgen.answers.grader('math').same('1', '2'); "
            "print([m for m in ('torch', 'sympy', 'math_verify', 'leapgen.record', 'leapgen.config') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
