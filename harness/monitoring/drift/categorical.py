"""Categories compared: two samples, both random, with rare levels pooled."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from harness.monitoring.drift.cells import Cells, cells_of, present
from harness.monitoring.drift.chi_square import noncentrality_for
from harness.monitoring.drift.contingency import contingency_p_value, cramers_v
from harness.monitoring.drift.difference import ALIKE, Difference, nothing_to_compare
from harness.monitoring.drift.effect import Effect, Resolution
from harness.monitoring.profiles.features import CategoricalCounts, NumericCounts


def compare_categories(
    feature: str, reference: CategoricalCounts, current: CategoricalCounts, floor: float, draws: int
) -> Difference:
    """The difference of the values that are not missing.

    Args:
        feature: Name of the feature.
        reference: Its counts in the reference.
        current: Its counts in the window, of the same levels.
        floor: The least Cramér's V that matters.
        draws: Most random tables, where the chi-square distribution cannot be relied on.
    """
    return compare_cells(feature, "values", cells_of(reference, current), floor, draws)


def compare_missing(feature: str, reference: NumericCounts, current: NumericCounts, floor: float, draws: int) -> list[Difference]:
    """The difference of the shares of NaN and infinities; none where neither sample has any."""
    table = [[side.finite, side.nan, side.positive_inf, side.negative_inf] for side in (reference, current)]
    return compare_shares(feature, ("finite values", "NaN", "+inf", "-inf"), table, floor, draws)


def compare_absent(
    feature: str, reference: CategoricalCounts, current: CategoricalCounts, floor: float, draws: int
) -> list[Difference]:
    """The difference of the shares of missing values; none where neither sample has any."""
    table = [[present(side), side.missing] for side in (reference, current)]
    return compare_shares(feature, ("values that are there", "missing values"), table, floor, draws)


def compare_shares(feature: str, labels: tuple[str, ...], table: list[list[int]], floor: float, draws: int) -> list[Difference]:
    """The difference of a feature's missing values; none where neither sample has any.

    Args:
        feature: Name of the feature.
        labels: What the values are, first those that are not missing.
        table: How many of each the reference has, and the window.
        floor: The least Cramér's V that matters.
        draws: Most random tables.
    """
    cells = Cells(labels, *(np.array(row, np.int64) for row in table))
    if not cells.pooled[1:].any():
        return []
    return [compare_cells(feature, "missing values", cells.filled, floor, draws)]


def compare_cells(feature: str, aspect: str, cells: Cells, floor: float, draws: int) -> Difference:
    """The difference of two samples in a table.

    Args:
        feature: Name of the feature.
        aspect: What of it the table is of.
        cells: The table, without empty cells.
        floor: The least Cramér's V that matters.
        draws: Most random tables.
    """
    m, n = int(cells.reference.sum()), int(cells.current.sum())
    df = max(len(cells.labels) - 1, 1)
    resolution = Resolution(partial(chi_square_constant, df=df), m, n)
    if not (m and n) or len(cells.labels) < 2:
        return nothing_to_compare(feature, aspect, "chi-square", "Cramér's V", floor, resolution, ALIKE)
    return Difference(
        feature=feature,
        aspect=aspect,
        test="chi-square",
        p=contingency_p_value(cells.reference, cells.current, draws),
        effect=Effect("Cramér's V", *cramers_v(cells.reference, cells.current), floor),
        resolution=resolution,
        where=where_in(cells),
    )


def chi_square_constant(alpha: float, power: float, df: int) -> float:
    """Cramér's V that the test finds, in units of ``sqrt(1/n + 1/m)``: V squared is the noncentrality over ``4 / (1/n + 1/m)``."""
    return math.sqrt(noncentrality_for(power, alpha, df)) / 2


def where_in(cells: Cells) -> str:
    """``'cat' went from 12% to 31%``, of the named cell that makes most of the difference."""
    p, q = cells.reference / cells.reference.sum(), cells.current / cells.current.sum()
    parts = np.where([bool(label) for label in cells.labels], (p - q) ** 2 / (p + q), -1.0)
    most = int(parts.argmax())
    if parts[most] <= 0:
        return ""
    return f"{cells.labels[most]} went from {p[most]:.1%} to {q[most]:.1%}"
