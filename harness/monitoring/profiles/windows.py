"""The windows that the rows of a reference are in: by days, weeks or another unit of a column of dates, or by the values of a column."""

from __future__ import annotations

import zlib
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ProfileError

FEWEST_WINDOWS = 10
"""Of fewer windows nobody knows what is usual."""

MOST_WINDOWS = 64
"""So many are looked at; of more, some that no data had a say in."""

UNITS = ("hour", "day", "week", "month")
"""By what dates are put into windows."""

FEWEST_ROWS = 50
"""Below as many the distribution of a window, or of another part, is not judged."""


class ChosenWindows:
    """Which windows are looked at: all, or of many a part, by a hash of their labels.

    Attributes:
        sizes: The rows of every window, by label.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._kept: set[str] = set()
        self._step = 1

    def add(self, label: str, rows: int) -> bool:
        """Counts rows of a window; whether it is one that is looked at, as far as is known."""
        self.sizes[label] = self.sizes.get(label, 0) + rows
        if label in self:
            self._kept.add(label)
        while len(self._kept) > MOST_WINDOWS:
            self._step *= 2
            self._kept = {each for each in self._kept if each in self}
        return label in self

    def __contains__(self, label: str) -> bool:
        return zlib.crc32(label.encode()) % self._step == 0

    def check(self, asked: str) -> None:
        """Refuses windows that say nothing: too few of them, or of too few rows.

        Raises:
            ProfileError: They are too few, or too small.
        """
        name, unit = window_column(asked)
        if len(self.sizes) < FEWEST_WINDOWS:
            what = f"{unit}s" if unit else "days or values"
            raise ProfileError(
                f"`windows`: `{name}` has {len(self.sizes)} {what}, and it takes {FEWEST_WINDOWS} to know how far they differ: profile "
                "a longer time, or leave `windows` out"
            )
        typical = median(self.sizes.values())
        if typical < FEWEST_ROWS:
            raise ProfileError(
                f"`windows`: the {len(self.sizes):,} of `{asked}` have about {typical:g} rows each, and {FEWEST_ROWS} are the fewest: "
                f'name longer ones, such as "{name}:week" of dates'
            )


def window_column(asked: str) -> tuple[str, str | None]:
    """A column, and by what its dates are put into windows: ``ordered:week`` is ``ordered`` by weeks."""
    name, _, unit = asked.rpartition(":")
    return (name, unit) if name and unit in UNITS else (asked, None)


def window_labels(values: NDArray[Any], unit: str | None) -> NDArray[Any]:
    """The window that each row is in, as text, ``[N]``; empty where it is in none.

    Args:
        values: Dates, or names of windows, ``[N]``.
        unit: By what dates are put together; days by default.

    Raises:
        ProfileError: A unit is given, and they are no dates.
    """
    if values.dtype.kind != "M":
        if unit is not None:
            raise ProfileError(f"only dates are put together by {unit}, and these are none, such as {values[:1].tolist()}")
        texts = np.array(["" if _is_missing(value) else str(value) for value in values.tolist()], object)
        return texts.astype(str)
    days = values.astype("M8[D]")
    if unit == "week":
        days = days - (days.astype(np.int64) + 3) % 7  # 1 January 1970 was a Thursday
    shown = days if unit in (None, "day", "week") else values.astype({"hour": "M8[h]", "month": "M8[M]"}[unit or ""])
    return np.where(np.isnat(values), "", shown.astype(str))


def _is_missing(value: object) -> bool:
    return value is None or value == "" or value != value
