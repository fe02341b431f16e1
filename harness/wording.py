"""Numbers, amounts, durations, lists and tables as people read them; answers of commands, for people and for programs."""

from __future__ import annotations

import codecs
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any

_DIRECTIONS_AND_HALVES = "\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff"
_UNSEEN = re.compile(f"[\\x00-\\x1f{_DIRECTIONS_AND_HALVES}]")
_UNSEEN_BUT_LINES = re.compile(f"[\\x00-\\x08\\x0b-\\x1f{_DIRECTIONS_AND_HALVES}]")
_SIBILANT = re.compile(r"(s|x|z|(?<!o)ch|sh)$")  # batches, but epochs: the ch of "epoch" is a k
_CONSONANT_Y = re.compile(r"(?<![aeiou])y$")


_PLAIN_SIGNS = {"→": "->", "≥": ">=", "≤": "<=", "…": "...", "·": "-", "–": "-", "×": "x", "’": "'", "✕": "x", "▲": "!", "✓": "+"}
"""What is written for a sign that a console does not have; any other is written as an escape."""


def _plain_signs(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN_SIGNS.get(each) or each.encode("ascii", "backslashreplace").decode() for each in missing), error.end


codecs.register_error("plain_signs", _plain_signs)


def write_plain_signs() -> None:
    """Makes a console that cannot show every character (such as Windows' cp1252) show others instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="plain_signs")


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2,000 rows``, ``3 batches``, ``2 queries``."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """``rows``, ``batches``, ``queries``."""
    if _SIBILANT.search(noun):
        return f"{noun}es"
    return _CONSONANT_Y.sub("ies", noun) if _CONSONANT_Y.search(noun) else f"{noun}s"


def command_in_lines(command: str, room: int, indent: str = "  ") -> list[str]:
    """A command of a shell in lines that fit and that can be copied as they are: broken between its words, where the shell reads on.

    Args:
        command: The command.
        room: How long a line may be. A longer word stays whole.
        indent: What stands before all lines but the first.
    """
    if os.name == "nt":  # whose shells do not agree on how a line goes on
        return [command]
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        if lines[-1].strip() and len(f"{lines[-1]} {word} \\") > room:
            lines[-1] += " \\"
            lines.append(f"{indent}{word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def and_others(count: int, noun: str) -> str:
    """`` (and 2 other rows)`` after the one that is named, or nothing where it is the only one."""
    return f" (and {counted(count, f'other {noun}')})" if count else ""


def listed(names: Sequence[str], most: int = 5) -> str:
    """```a`, `b` and 3 others``: names as code, of many only the first."""
    shown, left = ", ".join(f"`{name}`" for name in names[:most]), len(names) - most
    return shown if left <= 0 else f"{shown} and {counted(left, 'other')}"


def joined(words: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def figure(value: float, digits: int = 3) -> str:
    """A number in a few significant digits: ``0.0213``, ``1``, ``25,600``, ``3.1e-5``, ``nan``.

    Args:
        value: The number.
        digits: Significant digits; one less for a number so large or small that it needs an exponent.
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{max(digits - 2, 0)}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"


def with_unit(value: float, unit: str) -> str:
    """``61 ms``, ``1 tensor``, ``2 tensors``: the unit is written for many."""
    noun, space, rest = unit.partition(" ")
    if value == 1 and noun.endswith("s") and len(noun) > 2:
        noun = noun.removesuffix("s")
    return f"{figure(value)} {noun}{space}{rest}".rstrip()


def p_value(p: float) -> str:
    """``p = 0.0003``, ``p < 0.0001``."""
    if p < 1e-4:
        return "p < 0.0001"
    return f"p = {p:.2g}" if p < 0.0995 else f"p = {p:.2f}"


def duration(seconds: float) -> str:
    """``4 ms``, ``1.2 s``, ``2 min 5 s``, ``3 h 10 min``; empty when nothing was measured."""
    if seconds <= 0:
        return ""
    if seconds < 0.9995:
        return "<1 ms" if seconds < 0.001 else f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def amount_of_memory(size: float) -> str:
    """Bytes as people read them: ``1.5 GiB``, ``64 MiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def visible(text: str, lines: bool = False) -> str:
    """A text in which characters that would control a terminal, or turn the direction of a line, are written as escapes.

    Args:
        text: From a model, its files or whoever else.
        lines: Whether line breaks and tabs stay what they are.
    """
    if lines:
        text = text.replace("\r\n", "\n")
    return (_UNSEEN_BUT_LINES if lines else _UNSEEN).sub(_escape, text)


def visible_values(value: Any) -> Any:
    """JSON values with all texts in them ``visible``."""
    if isinstance(value, str):
        return visible(value, lines=True)
    if isinstance(value, dict):
        return {visible_values(key): visible_values(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(visible_values(one) for one in value)
    return value


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def shortened(text: str, most: int) -> str:
    """A text in one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows with each column as wide as its widest cell; a column of numbers is aligned to the right."""
    columns = list(zip(*rows, strict=True))
    right = [all(cell == "" or _is_figure(cell) for cell in column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    cells = zip(right, widths, strict=True)
    forms = [">" if is_right else "<" for is_right, _ in cells]
    lines = ("  ".join(f"{cell:{form}{width}}" for cell, form, width in zip(row, forms, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def six_digits(value: float | None) -> str:
    """A number in six digits, or nothing."""
    return "" if value is None else f"{value:.6g}"


def _is_figure(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Answer:
    """An answer of the command line.

    Attributes:
        data: One JSON object; NaN and infinities are text in it.
        text: The same for people.
    """

    data: dict[str, Any]
    text: str
