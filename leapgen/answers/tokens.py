"""Tokens of LaTeX and plain mathematics, within bounds, and the LaTeX that is made of them again.

Whatever math-verify would guess at is settled here or refused: it adds two numbers that stand side by side, takes words for
products of their letters, and reads what it understands of a text that it does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from fractions import Fraction

from leapgen.answers.extraction import balanced
from leapgen.answers.spelling import typeset

MAX_LENGTH, MAX_TOKENS, MAX_DIGITS, MAX_DEPTH = 300, 150, 40, 6
MAX_POWER = 20_000
MAX_FACTORIAL, MAX_CHOSEN = 999, 9_999

Tokens = list[str]

FUNCTIONS = frozenset(f"\\{name}" for name in (
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln", "exp"))
SYMBOLS = frozenset(f"\\{name}" for name in (
    "pi", "infty", "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "kappa", "lambda",
    "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda",
    "Sigma", "Phi", "Psi", "Omega"))
OPERATORS = {"+": "+", "-": "-", "*": "\\cdot", "/": "/", "\\cdot": "\\cdot", "\\times": "\\cdot", "\\div": "/"}
_BUILT = frozenset(("\\frac", "\\sqrt", "\\binom"))
_KINDS: dict[str, Collection[str]] = {
    "function": FUNCTIONS, "symbol": SYMBOLS, "operator": OPERATORS, "built": _BUILT, "open": ("(", "[", "{"),
    "close": (")", "]", "}"), "script": ("^", "_"), "factorial": ("!",)}
_CLOSERS = {"{": "}", "\\{": "\\}", "(": ")]", "[": ")]"}

_TOKEN = re.compile(
    r"\\(?:text(?:bf|it|rm)?|mathrm|mbox)\{[^{}\\]*\}|\\(?:begin|end)\{[a-zA-Z]+\}|\\[A-Za-z]+|\\[{}]|[0-9]+(?:\.[0-9]+)?"
    r"|\.[0-9]+|[A-Za-z]|[-+*/^_=<>(),\[\]{}!&%]|\s+")
_CHARACTERS = str.maketrans({
    "√": "\\sqrt ", "π": "\\pi ", "∞": "\\infty ", "×": "\\cdot ", "·": "\\cdot ", "÷": "/", "≤": "\\le ", "≥": "\\ge ",
    "±": "\\pm ", "∪": "\\cup ", "∈": "\\in ", "θ": "\\theta ", "°": "^\\circ ", "²": "^{2}", "³": "^{3}"})
_NAMES = "|".join(sorted((name[1:] for name in FUNCTIONS | {"\\pi", "\\infty", "\\theta"}), key=len, reverse=True))
_GREEK = "|".join(name[1:] for name in SYMBOLS)
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"\\\\", r"\\cr "),
    (r"\\\$\s*([0-9][0-9.,]*)", r"\1\\text{dollars}"),
    (r"€\s*([0-9][0-9.,]*)", r"\1\\text{euros}"),
    (r"£\s*([0-9][0-9.,]*)", r"\1\\text{pounds}"),
    (r"\\math(?:bf|it|rm)\{\s*([0-9A-Za-z])\s*\}", r"\1"),
    (r"(?:,\s*)?(?:\\text\{\s*,?\s*(?:or|and)\s*\}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z]))", ","),
    (r"(?<![A-Za-z\\])inf(?:inity|ty)(?![A-Za-z])", r"\\infty "),
    (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (rf"(?<![A-Za-z\\])({_NAMES})(?![A-Za-z])", r"\\\1 "),
    (r"\^\s*\(([^()]*)\)", r"^{\1}"),
    (r"\^\s*(-?\s*(?:[0-9]+|[A-Za-z]))", r"^{\1}"),
    (r"_\s*([0-9]+|[A-Za-z])", r"_{\1}"),
)]
_THOUSANDS = re.compile(r"([^0-9(\[{,]*)([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9])(.[^0-9,]*|\.[0-9]+[^0-9,]*)?")
_WRAPPER = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox|boxed|fbox)\{")
_AMBIGUOUS = re.compile(
    rf"/ (?:[0-9.]+|[A-Za-z]|\\(?:{_GREEK})|\\frac \{{ [0-9]+ \}} \{{ [0-9]+ \}}) (?:[A-Za-z(]|\\(?!cdot))"  # 1/2x
    r"|\\(?:sin|cos|tan|cot|sec|csc|log|ln|exp) \^ \{ -")  # an inverse, or a reciprocal


class Unreadable(Exception):
    """A text that is no mathematics, not certain, or out of bounds."""


def tokens(answer: str) -> Tokens:
    """The tokens of an answer, spaces among them; brackets are balanced.

    Raises:
        Unreadable: it has other characters, or too many.
    """
    if len(answer) > MAX_LENGTH:
        raise Unreadable
    text = answer.translate(_CHARACTERS)
    for _ in range(3):  # a wrapper may hold another
        text = _unwrapped(typeset(_rewritten(text)).strip().rstrip(".").strip())
    thousands = _THOUSANDS.fullmatch(text)
    if thousands:
        text = thousands[1] + thousands[2].replace(",", "") + (thousands[3] or "")
    if not re.search(r"[0-9\\]", text) and len(text) != 1:
        raise Unreadable
    found = scan(text)
    if "".join(found) != text or len(found) > MAX_TOKENS or any(len(token) > MAX_DIGITS for token in found):
        raise Unreadable
    _check_brackets(found)
    return found


def scan(text: str) -> Tokens:
    """The tokens of a text; characters that are none are left out."""
    return _TOKEN.findall(text)


def _rewritten(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def _unwrapped(text: str) -> str:
    wrapper = _WRAPPER.match(text)
    return text[wrapper.end():-1] if wrapper and balanced(text, wrapper.end()) == text[wrapper.end():-1] else text


def _check_brackets(found: Sequence[str]) -> None:
    expected: list[str] = []
    for token in found:
        if token in _CLOSERS:
            expected.append(_CLOSERS[token])
        elif token in ("}", "\\}", ")", "]") and (not expected or token not in (expected[-1], *expected.pop())):
            raise Unreadable
        if len(expected) > MAX_DEPTH:
            raise Unreadable
    if expected:
        raise Unreadable


def closing(found: Sequence[str], opening: int) -> int:
    """Where the bracket at ``opening`` is closed."""
    depth = 0
    for i in range(opening, len(found)):
        depth += (found[i] in _CLOSERS) - (found[i] in ("}", "\\}", ")", "]"))
        if depth == 0:
            return i
    raise Unreadable


def stripped(found: Tokens) -> Tokens:
    """Without spaces at both ends."""
    start, end = 0, len(found)
    while start < end and found[start].isspace():
        start += 1
    while end > start and found[end - 1].isspace():
        end -= 1
    return found[start:end]


def joined(found: Sequence[str]) -> str:
    """The text without spaces; digits that a space kept apart stay apart."""
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", "".join(found))


def split(found: Tokens, separators: Collection[str]) -> list[Tokens]:
    """The parts between separators that stand in no brackets and no environment."""
    parts: list[Tokens] = [[]]
    depth = 0
    for token in found:
        depth += token in _CLOSERS or token.startswith("\\begin")
        depth -= token in ("}", "\\}", ")", "]") or token.startswith("\\end")
        if depth == 0 and token in separators:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def is_name(found: Tokens) -> bool:
    r"""Whether it names a value: ``x``, ``m+n``, ``a_{10}``, ``f(2)``, ``(x, y)``, ``\text{Area}``; no two words."""
    text = "".join(found).strip()
    word = r"(?:\\text\{\s*[A-Za-z]+\s*\}|\\angle\s*[A-Za-z]+|\\[A-Za-z]+|[A-Za-z]+)"
    argument = r"(?:\s*_\{[0-9A-Za-z]+\})?(?:\s*\([0-9A-Za-z]\))?"
    one = rf"{word}{argument}"
    return bool(re.fullmatch(rf"{one}(?:\s*[+-]\s*{one})*|\(\s*{one}(?:\s*,\s*{one})*\s*\)", text)) and not any(
        token in FUNCTIONS | _BUILT | {"\\infty", "\\pi", "\\cr"} for token in found)


def latex(found: Tokens, rounded: bool = False) -> str:
    """LaTeX of one value, a space between tokens, in which nothing is left to guess; decimals are fractions unless rounded.

    Raises:
        Unreadable: it is no single value.
    """
    found = stripped(found)
    if _power(found) > MAX_POWER:
        raise Unreadable
    if any(token == "_" and found[i + 1:i + 2] + found[i + 3:i + 4] != ["{", "}"] for i, token in enumerate(found)):
        raise Unreadable  # an index is one number or letter
    out = _Writer(rounded)
    for token in found:
        out.add(token)
    written = " ".join(out.written)
    if not written or _AMBIGUOUS.search(written):
        raise Unreadable
    return written


def _power(found: Tokens) -> float:
    """The highest power of a term, in which exponents of exponents and of brackets are multiplied."""
    highest, base, i = 1.0, 1.0, 0
    while i < len(found):
        end = i
        if found[i] == "^":
            if found[i + 1:i + 2] != ["{"]:
                raise Unreadable
            end = closing(found, i + 1)
            base *= _exponent(found[i + 2:end])
        elif found[i] in _CLOSERS:
            end = closing(found, i)
            base = _power(found[i + 1:end])
        elif not found[i].isspace():
            base = 1.0
        highest, i = max(highest, base), end + 1
    return highest


def _exponent(found: Tokens) -> float:
    """All numbers of an exponent multiplied; towers of numbers are refused, which no such product bounds."""
    if {"!", "\\binom"} & set(found) or any(token == "^" and not found[i - 1].isalpha() for i, token in enumerate(found)):
        raise Unreadable
    return math.prod(max(1.0, float(token)) for token in found if token[-1].isdecimal())


class _Writer:
    """Writes tokens one after another and refuses what stands beside what it must not."""

    def __init__(self, rounded: bool) -> None:
        self.written: list[str] = []
        self._rounded = rounded
        self._last = "start"  # kind of the last token
        self._spaced = False
        self._run = ""  # letters side by side
        self._beside_letters = False  # whether only a space parts the run from letters before it
        self._opened: list[tuple[str, bool, int]] = []  # what an open bracket belongs to; see _open
        self._command = ""  # what the last opened bracket belongs to
        self._missing = 0  # arguments in braces that a command waits for
        self._applies = False  # whether a function waits for its argument

    def add(self, token: str) -> None:
        if token.isspace():
            self._spaced = True
            return
        kind = _kind(token)
        if self._missing and token != "{" and not (token == "[" and self._last == "built"):
            raise Unreadable
        if kind == "letter":
            self._letter(token)
        elif kind == "number":
            self._number(token)
        elif kind == "open":
            self._open(token)
        elif kind == "close":
            _, self._applies, self._missing = self._opened.pop()
        elif kind == "script":
            self._script(token)
        elif kind == "factorial":
            self._factorial()
        elif kind == "built":
            if token == "\\frac" and self._last in ("number", "close"):
                raise Unreadable  # a mixed number, or a product
            self._missing = 1 if token == "\\sqrt" else 2
        if kind not in ("open", "close", "script"):
            self._applies = kind == "function"
        if "." in token and not self._rounded:
            value = Fraction(token)
            token = f"\\frac {{ {value.numerator} }} {{ {value.denominator} }}"
        self.written.append(OPERATORS.get(token, token))
        self._last, self._spaced = kind, False

    def _letter(self, letter: str) -> None:
        if self._last == "letter" and not self._spaced:
            self._run += letter
        else:
            self._beside_letters = self._last == "letter"
            if self._beside_letters and len(self._run) > 1:
                raise Unreadable
            self._run = letter
        # Letters side by side are a product only in the order of the alphabet: no word is one with its anagram.
        if len(self._run) > 3 or self._run != "".join(sorted(set(self._run))) or (self._beside_letters and self._run[1:]):
            raise Unreadable

    def _number(self, token: str) -> None:
        if self._last in ("number", "letter", "symbol", "factorial") or (self._last == "close" and not self._applies):
            raise Unreadable
        if float(token) > MAX_CHOSEN and any(command == "\\binom" for command, _, _ in self._opened):
            raise Unreadable

    def _open(self, token: str) -> None:
        """Keeps the command or script that the bracket belongs to, whether a function waits behind it, and arguments."""
        before = self.written[-1] if self.written else ""
        applies, missing = False, 0
        if token == "{":
            if self._last != "script" and not self._missing and not self._applies:
                raise Unreadable
            applies, missing = self._last == "script" and self._applies, max(self._missing - 1, 0)
            command = before if self._last in ("built", "script") else self._command
        elif token == "[":
            if before != "\\sqrt":
                raise Unreadable
            missing, command = 1, before
        else:
            if self._last in ("number", "factorial") or (self._last == "close" and not self._applies):
                self.written.append("\\cdot")
            command = ""
        self._command = command
        self._opened.append((command, applies, missing))
        self._missing, self._applies = 0, False

    def _script(self, token: str) -> None:
        if self._last in ("start", "operator", "open", "script", "built"):
            raise Unreadable
        if token == "_" and not (self._last == "letter" or self.written[-1] == "\\log"):
            raise Unreadable

    def _factorial(self) -> None:
        if not (self._last == "letter" or (self._last == "number" and float(self.written[-1]) <= MAX_FACTORIAL)):
            raise Unreadable


def _kind(token: str) -> str:
    for kind, members in _KINDS.items():
        if token in members:
            return kind
    if token[-1].isdecimal():
        return "number"
    if len(token) == 1 and token.isalpha():
        return "letter"
    raise Unreadable
