"""Units, currencies, percent signs and degrees behind a value."""

from __future__ import annotations

import re

_KNOWN = frozenset((
    "mm", "cm", "dm", "km", "nm", "ft", "yd", "mi", "mg", "kg", "lb", "lbs", "oz", "ml", "cl", "ms", "sec", "min",
    "hr", "hrs", "mph", "kmh", "kph", "rpm", "hz", "khz", "mhz", "rad", "deg", "cent", "dollar", "euro", "pound",
    "inch", "foot", "feet", "unit", "minute", "hour", "second", "day", "week", "month", "year", "degree", "radian",
    "mile", "meter", "metre", "gram", "liter", "litre", "person", "people", "child", "man", "woman"))
_IRREGULAR = {"feet": "foot", "people": "person", "children": "child", "men": "man", "women": "woman", "inches": "inch"}
_CHANGES_THE_VALUE = re.compile(
    r"hundred|thousand|lakh|crore|dozen|score|(?:m|b|tr|quadr)illion|half|halve|third|quarter|(?!month$).*th$|squared|cubed|"
    r"factorial|times?$|(?:plus|minus|over|mod|choose|not?|or|and|less|more|pair|abs|sin|cos|tan|log|exp|pi|sqrt)$")
_NOUN = r"[A-Za-z]+"
_UNIT = rf"(?P<power>square|cubic|sq|cu)?\s*(?P<noun>{_NOUN})(?:\s*(?:/|\s+per\s+)\s*(?P<per>{_NOUN}))?"
_IN_TEXT = re.compile(rf"\s*\\(?:text(?:bf|it|rm)?|mathrm|mbox)\{{\s*{_UNIT}\s*\}}\s*(?:\^\{{(?P<exponent>[23])\}})?$")
_PLAIN = re.compile(rf"(?<=[0-9}})])\s+{_UNIT}(?:\^\{{(?P<exponent>[23])\}})?$")
_PERCENT = re.compile(r"\s*(?:%|\\(?:text|mathrm)\{\s*percent\s*\}|(?<=[0-9}])\s+percent)$")
_DEGREE = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)$")


def split_unit(text: str) -> tuple[str, str]:
    """The value and its unit, in the singular: ``%``, ``degree``, ``meter^2``; an empty one if there is none."""
    for pattern, unit in ((_PERCENT, "%"), (_DEGREE, "degree")):
        match = pattern.search(text)
        if match:
            return text[:match.start()], unit
    in_text = _IN_TEXT.search(text)
    match = in_text or _PLAIN.search(text)
    if match is None or not text[:match.start()].strip():
        return text, ""
    nouns = [noun for noun in match.group("noun", "per") if noun]
    units = [_singular(noun) for noun in nouns]
    if any(map(_CHANGES_THE_VALUE.match, units)) or not (in_text or all(map(_is_noun, nouns))):
        return text, ""
    exponent = match["exponent"] or {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}.get(match["power"] or "", "")
    return text[:match.start()], "/".join(units) + (f"^{exponent}" if exponent else "")


def _is_noun(word: str) -> bool:
    """Whether letters behind a number are a unit, or the plural of things that are counted; else they may be variables."""
    return _singular(word) in _KNOWN or (len(word) > 3 and word.endswith("s"))


def _singular(noun: str) -> str:
    noun = noun.casefold()
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    return noun[:-1] if len(noun) > 3 and noun.endswith("s") and not noun.endswith("ss") else noun
