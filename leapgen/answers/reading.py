"""Reads an answer as mathematics: collections taken apart, units and names set aside, what is left bounded in advance.

What cannot be read for certain is not read. The bounds are on the text, so that a verdict depends on the answers and not on
how fast a machine evaluates ``10^{10^{10}}``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from leapgen.answers import tokens as t
from leapgen.answers.tokens import Tokens, Unreadable
from leapgen.answers.units import split_unit

MAX_DEPTH, MAX_ITEMS = 6, 16
SIGNIFICANT = 6  # digits from which a decimal may be a rounded value
_RELATIONS = {"<": "<", ">": ">", "\\lt": "<", "\\gt": ">", "\\le": "≤", "\\leq": "≤", "\\leqslant": "≤", "\\ge": "≥",
              "\\geq": "≥", "\\geqslant": "≥"}
_FLIPPED = str.maketrans("<>≤≥", "><≥≤")
_VALUE = re.compile(r"(?P<sign>[+-]?)(?:(?P<whole>[0-9]+)?\\frac\{(?P<top>-?[0-9]+)\}\{(?P<bottom>[0-9]+)\}"
                    r"|(?P<left>[0-9]+)/(?P<right>[0-9]+)|(?P<decimal>[0-9]*\.?[0-9]+))")


@dataclass(frozen=True)
class Term:
    """One value or equation.

    Args:
        latex: the value, as ``verification`` reads it; empty for an equation that gives no name a value.
        value: where the text is a plain number.
        places: decimals, if there are enough of them for a rounded value; else 0.
        percent: whether a percent sign stood behind the value.
        unit: what stood behind the value.
        name: what stood left of ``=``.
        equation: left side minus right side.
    """

    latex: str
    value: Fraction | None = None
    places: int = 0
    percent: bool = False
    unit: str = ""
    name: str = ""
    equation: str = ""


@dataclass(frozen=True)
class Group:
    """Several parts. ``kind`` is ``{}`` (a set, or a list without brackets), ``∪``, brackets, ``matrix`` or relations."""

    kind: str
    items: tuple[Reading, ...]

    @property
    def ordered(self) -> bool:
        return self.kind not in ("{}", "∪")


Reading = Term | Group


def read(answer: str) -> Reading | None:
    """What an answer says as mathematics; None if it is none, if it is not certain, or if it is out of bounds."""
    try:
        return _read(t.tokens(answer), 0)
    except Unreadable:
        return None


def _read(tokens: Tokens, depth: int) -> Reading:
    tokens = t.stripped(tokens)
    if not tokens or depth > MAX_DEPTH:
        raise Unreadable
    parts = t.split(tokens, {","})
    if len(parts) > 1:
        return _group("{}", parts, depth)
    if tokens[0].startswith("\\begin"):
        return _matrix(tokens, depth)
    if tokens.count("\\pm") == 1:
        return _both_signs(tokens, depth)
    parts = t.split(tokens, {"\\in"})
    if len(parts) == 2 and t.is_name(parts[0]):
        return _read(parts[1], depth + 1)
    parts = t.split(tokens, {"\\cup"})
    if len(parts) > 1:
        return _group("∪", parts, depth)
    parts = t.split(tokens, {"="})
    if len(parts) > 1:
        return _equation(parts, depth)
    parts = t.split(tokens, _RELATIONS.keys())
    if len(parts) > 1:
        return _inequality(tokens, parts, depth)
    return _brackets(tokens, depth) or _term(tokens)


def _group(kind: str, parts: list[Tokens], depth: int) -> Group:
    if len(parts) > MAX_ITEMS:
        raise Unreadable
    items: list[Reading] = []
    for part in parts:
        item = _read(part, depth + 1)
        both = kind == "{}" and "\\pm" in part and isinstance(item, Group)
        items += item.items if both and isinstance(item, Group) else [item]
    return Group(kind, tuple(items))


def _matrix(tokens: Tokens, depth: int) -> Group:
    environment = re.fullmatch(r"\\begin\{([pbB]matrix)\}", tokens[0])
    if environment is None or tokens[-1] != f"\\end{{{environment[1]}}}":
        raise Unreadable
    rows = [row for row in t.split(tokens[1:-1], {"\\cr"}) if t.stripped(row)]
    if len(rows) > MAX_ITEMS:
        raise Unreadable
    return Group("matrix", tuple(_group("row", t.split(row, {"&"}), depth + 1) for row in rows))


def _both_signs(tokens: Tokens, depth: int) -> Group:
    place = tokens.index("\\pm")
    leading = "".join(tokens[:place]).strip()[-1:] in ("", "=", "(", ",", "[", "{")
    signs: tuple[Tokens, Tokens] = ([] if leading else ["+"], ["-"])
    return _group("{}", [tokens[:place] + sign + tokens[place + 1:] for sign in signs], depth)


def _equation(parts: list[Tokens], depth: int) -> Reading:
    first, last = parts[0], parts[-1]
    if not t.is_name(first) and t.is_name(last) and len(parts) == 2:
        first, last = last, first
    if t.is_name(first):
        value = _read(last, depth + 1)
        if isinstance(value, Group):
            return value
        return replace(value, name=t.joined(first), equation=_difference(first, last))
    equation = _difference(first, last)
    if len(parts) > 2 or not equation or not re.search("[a-z]", re.sub(r"\\[a-z]+", "", equation)):
        raise Unreadable
    return Term("", equation=equation, places=_places(first + last))


def _difference(left: Tokens, right: Tokens) -> str:
    try:
        rounded = _places(left + right) > 0
        return f"( {t.latex(left, rounded)} ) - ( {t.latex(right, rounded)} )"
    except Unreadable:
        return ""


def _inequality(tokens: Tokens, parts: list[Tokens], depth: int) -> Group:
    signs = "".join(_RELATIONS[token] for token in tokens if token in _RELATIONS)
    if len(signs) != len(parts) - 1:
        raise Unreadable
    if set(signs) <= set(">≥"):
        signs, parts = signs[::-1].translate(_FLIPPED), parts[::-1]
    return _group(signs, parts, depth)


def _brackets(tokens: Tokens, depth: int) -> Reading | None:
    if tokens[0] in ("\\emptyset", "\\varnothing") and len(tokens) == 1:
        return Group("{}", ())
    if tokens[0] not in ("(", "[", "\\{") or t.closing(tokens, 0) != len(tokens) - 1:
        return None
    inner = t.split(tokens[1:-1], {","})
    kind = (tokens[0] + tokens[-1]).replace("\\", "")
    if kind == "{}" and not t.stripped(tokens[1:-1]):
        return Group(kind, ())
    if len(inner) == 1 and kind == "()":
        return _read(inner[0], depth + 1)
    if len(inner) == 1 and kind != "{}":
        raise Unreadable
    return _group(kind, inner, depth)


def _term(tokens: Tokens) -> Term:
    text, unit = split_unit("".join(tokens))
    tokens = t.scan(text)
    value, places, percent = _value(tokens), _places(tokens), unit == "%"
    if value is None or places:
        latex = t.latex(tokens, rounded=places > 0)
    else:
        latex = f"\\frac {{ {value.numerator} }} {{ {value.denominator} }}"
    if unit == "degree" and any(function in latex for function in t.FUNCTIONS):
        raise Unreadable
    return Term(latex, value, places, percent, "" if percent else unit)


def _value(tokens: Tokens) -> Fraction | None:
    match = _VALUE.fullmatch(t.joined(tokens))
    if match is None:
        return None
    top, bottom = match["top"] or match["left"], match["bottom"] or match["right"]
    if match["decimal"]:
        value = Fraction(match["decimal"])
    elif int(bottom) == 0 or (match["whole"] and not 0 <= int(top) < int(bottom)):
        raise Unreadable  # 3\frac{7}{2} may be a product
    else:
        value = int(match["whole"] or 0) + Fraction(int(top), int(bottom))
    return -value if match["sign"] == "-" else value


def _places(tokens: Tokens) -> int:
    decimals = [token for token in tokens if "." in token]
    if not any(len(token.replace(".", "").lstrip("0")) >= SIGNIFICANT for token in decimals):
        return 0
    return max(len(token.split(".")[1]) for token in decimals)
