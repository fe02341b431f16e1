"""Softmax outputs compared while their rows are at hand: black-box shift detection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.monitoring.drift.categorical import compare_cells, compare_shares
from harness.monitoring.drift.cells import Cells
from harness.monitoring.drift.difference import Difference
from harness.monitoring.drift.floors import DEFAULT_FLOORS, Floors
from harness.monitoring.drift.numeric import compare_numbers
from harness.monitoring.drift.rows import Rows
from harness.monitoring.profiles.features import NumericCounts

_DRAWS = 1999
_MOST_BINS = 200


def compare_softmax(
    reference: ArrayLike,
    current: ArrayLike,
    *,
    feature: str = "output",
    classes: Sequence[str] = (),
    floors: Floors = DEFAULT_FLOORS,
    draws: int = _DRAWS,
) -> list[Difference]:
    """The differences of what a classifier says, for ``compare_profiles(..., more=...)`` or ``judge_differences``.

    The probability of each class is compared by itself, and the histogram of the likeliest classes, on which a shift of labels shows first
    (Rabanser et al. 2019, "Failing loudly"; Lipton et al. 2018). A profile of a model's outputs holds the same, with bins on the quantiles of
    the reference instead of both samples.

    Args:
        reference: Probabilities ``[N, C]``.
        current: Probabilities ``[M, C]``.
        feature: What begins the names of the differences.
        classes: What the classes are called.
        floors: The least effects that matter.
        draws: Most random tables.

    Raises:
        DataError: They are not of the same classes.
    """
    rows = Rows.of(reference, current)
    names = tuple(classes) or tuple(map(str, range(rows.reference.shape[1])))
    table = [
        [rows.reference_n - rows.reference_missing, rows.reference_missing],
        [rows.current_n - rows.current_missing, rows.current_missing],
    ]
    return [
        compare_cells(f"{feature}.class", "values", _histogram(rows, names), floors.cramers_v, draws),
        *(_probability(f"{feature}.probability.{name}", rows, place, floors.ks) for place, name in enumerate(names)),
        *compare_shares(f"{feature}.class", ("finite values", "values that are not finite"), table, floors.cramers_v, draws),
    ]


def _histogram(rows: Rows, names: tuple[str, ...]) -> Cells:
    one, other = (np.bincount(side.argmax(axis=1), minlength=len(names)) for side in (rows.reference, rows.current))
    return Cells(tuple(map(repr, names)), one, other).filled


def _probability(feature: str, rows: Rows, place: int, floor: float) -> Difference:
    sides = rows.reference[:, place], rows.current[:, place]
    edges = _quantiles(np.concatenate(sides))
    one, other = (np.bincount(np.searchsorted(edges, side, "right"), minlength=len(edges) + 1) for side in sides)
    return compare_numbers(feature, NumericCounts(edges, one), NumericCounts(edges, other), floor)


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges on the quantiles of both samples together, so that either may be dealt the other's values without moving them."""
    if not values.size:
        return np.zeros(0)
    return np.unique(np.quantile(values, np.arange(1, _MOST_BINS) / _MOST_BINS, method="higher"))
