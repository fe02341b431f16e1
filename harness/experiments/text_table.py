"""Rows of text in aligned columns."""

from __future__ import annotations

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


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
