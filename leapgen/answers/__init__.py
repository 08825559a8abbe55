"""What an answer is: read from a path's own words, compared by a grader, counted in votes."""

from leapgen.answers.extraction import all_answers, extract_answer
from leapgen.answers.graders import ChoiceGrader, ExactGrader, Grader, grader
from leapgen.answers.mathematics import MathGrader
from leapgen.answers.spelling import normalize_answer

__all__ = [
    "ChoiceGrader", "ExactGrader", "Grader", "MathGrader", "all_answers", "extract_answer", "grader", "normalize_answer",
]
