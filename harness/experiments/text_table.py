"""Rows of text in aligned columns."""

from __future__ import annotations

import math
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows with each column as wide as its widest cell; a column of numbers is aligned to the right."""
    columns = list(zip(*rows, strict=True))
    right = [all(cell == "" or _is_number(cell) for cell in column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    cells = zip(right, widths, strict=True)
    forms = [">" if number else "<" for number, _ in cells]
    lines = ("  ".join(f"{cell:{form}{width}}" for cell, form, width in zip(row, forms, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def number(value: float | None) -> str:
    """A number in six digits, or nothing."""
    return "" if value is None else f"{value:.6g}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(math.floor(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
