"""Smoothing: the course of a noisy curve."""

from __future__ import annotations

from collections.abc import Sequence

_SHARE = 80
_LEAST = 20


def half_window(points: int) -> int:
    """How many neighbours on each side a mean is taken over; 0 for curves too short to be smoothed."""
    return max(points // _SHARE, 1) if points >= _LEAST else 0


def smoothed(values: Sequence[float | None], half: int) -> tuple[float | None, ...]:
    """Means over each value and ``half`` neighbours on both sides, within stretches that are not broken by ``None``.

    At the start of a stretch, where a loss falls most, the window shrinks on both sides alike, so that the line begins where the
    values do. At its end it only ends: shrunk, it would follow the noise just where people look.
    """
    means: list[float | None] = []
    stretch: list[float] = []
    for value in (*values, None):
        if value is not None:
            stretch.append(value)
            continue
        means += _means(stretch, half)
        stretch = []
        means.append(None)
    return tuple(means[:-1])


def _means(stretch: Sequence[float], half: int) -> list[float]:
    means = []
    for index in range(len(stretch)):
        reach = min(half, index)
        # Not by running sums: one huge value would cost all after it their digits.
        window = stretch[index - reach : index + reach + 1]
        means.append(sum(window) / len(window))
    return means
