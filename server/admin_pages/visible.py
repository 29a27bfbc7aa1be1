"""Users' text as pages show it: no character of it is invisible or changes the writing direction of
its surroundings, so two ids that differ look different."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

_SPACE = "␣"
_ESCAPE = re.compile(r"⟨U\+([0-9A-F]{4,6})⟩")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
# Characters that are shown as nothing or as empty space, whatever their Unicode category
# (Default_Ignorable_Code_Point, and the empty Braille pattern).
_HIDDEN = frozenset(
    map(
        chr,
        (
            0x034F,
            0x115F,
            0x1160,
            0x17B4,
            0x17B5,
            *range(0x180B, 0x1810),
            0x2800,
            0x3164,
            *range(0xFE00, 0xFE10),
            0xFFA0,
            *range(0xE0100, 0xE01F0),
        ),
    )
)
_MARKS = frozenset(_SPACE + "⟨⟩")  # a text that itself contains these must not look like an escape
_PLAIN = re.compile(r"[ -~]*")
_LOOSE_SPACE = re.compile(r"^ +| +$|  +")


def without_hidden(text: str) -> str:
    """The text with an escape, such as ⟨U+200B⟩, for every character that is invisible, changes the
    writing direction, or combines with the letter before it out of sight. Plain spaces stay."""
    if _PLAIN.fullmatch(text):
        return text
    composed = unicodedata.is_normalized("NFC", text)
    return "".join(
        f"⟨U+{ord(letter):04X}⟩" if _hides(letter, composed) else letter for letter in text
    )


def visible(text: str) -> str:
    """A user's name or id as without_hidden() gives it, with ␣ for each space that would not be
    seen, at an end or beside another space."""
    return _LOOSE_SPACE.sub(lambda found: _SPACE * len(found[0]), without_hidden(text))


def exact(shown: str) -> str:
    """The text that visible() shows in this form; for text that people copy from a page."""
    return _ESCAPE.sub(_character, shown.replace(_SPACE, " "))


def _character(escape: re.Match[str]) -> str:
    number = int(escape[1], 16)
    is_character = 0 < number < 0x110000 and not 0xD800 <= number < 0xE000
    return chr(number) if is_character else escape[0]


def _hides(letter: str, composed: bool) -> bool:
    if letter == " ":
        return False
    return (
        unicodedata.category(letter) in _HIDDEN_CATEGORIES
        or letter in _HIDDEN
        or letter in _MARKS
        or (not composed and unicodedata.combining(letter) > 0)
    )


def finalize(value: Any) -> Any:
    """What a template's expression is rendered as: hidden characters in texts are escaped; markup
    is left alone."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return without_hidden(value)
    return value


def mark_visible(value: str | None) -> Markup:
    """The filter `visible`: a user's name or id; nothing for None."""
    return escape("" if value is None else visible(value))


def mark_exact(value: Any) -> Markup:
    """The filter `exact`: a value that a form sends back unchanged."""
    return escape(value)
