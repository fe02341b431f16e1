"""Embeddings compared while their rows are at hand."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.monitoring.drift.categorical import compare_shares
from harness.monitoring.drift.classifier_test import FOLDS, ClassifierTest, classifier_test
from harness.monitoring.drift.difference import ALIKE, TOO_FEW, Difference, nothing_to_compare
from harness.monitoring.drift.effect import Effect, Resolution
from harness.monitoring.drift.floors import DEFAULT_FLOORS, Floors
from harness.monitoring.drift.mmd import gaussian_kernel, mmd_p_value
from harness.monitoring.drift.rows import Rows

MOST_ROWS = 1000
_DRAWS = 9_999
_FEWEST_ROWS = 2 * FOLDS


def compare_embeddings(
    reference: ArrayLike,
    current: ArrayLike,
    *,
    feature: str = "embedding",
    floors: Floors = DEFAULT_FLOORS,
    draws: int = _DRAWS,
    most_rows: int = MOST_ROWS,
) -> list[Difference]:
    """The difference of vectors, for ``compare_profiles(..., more=...)`` or ``judge_differences``.

    Whether there is one is told by the MMD with permutations (Gretton et al. 2012), how large it is by a classifier's AUC (Lopez-Paz and
    Oquab 2017). Vectors that are not finite are left out, and their shares compared by themselves.

    Args:
        reference: Vectors ``[N, D]``.
        current: Vectors ``[M, D]``.
        feature: What they are called.
        floors: The least effects that matter.
        draws: Most permutations. No p-value is below ``1 / (draws + 1)``, so that there should be many times ``tests / alpha``.
        most_rows: The most rows to use of either; time grows with the square of it.

    Raises:
        DataError: They are not of the same width.
    """
    rows = Rows.of(reference, current, most_rows)
    return [_compare(rows, feature, floors.auc, draws), *_missing(rows, feature, floors.cramers_v, draws)]


def most_shifted(reference: ArrayLike, current: ArrayLike, count: int = 10, *, most_rows: int = MOST_ROWS) -> NDArray[np.intp]:
    """The rows of a window that are most unlike the reference, the most unlike first.

    Args:
        reference: Vectors ``[N, D]``.
        current: Vectors ``[M, D]``.
        count: How many to name.
        most_rows: The most rows to use of either.

    Returns:
        Their numbers, ``[count]`` or fewer; none where rows are too few to learn a difference from.
    """
    rows = Rows.of(reference, current, most_rows)
    if min(len(rows.reference), len(rows.current)) < _FEWEST_ROWS:
        return np.zeros(0, np.intp)
    return rows.places[np.argsort(-_classified(rows).scores, kind="stable")[:count]]


def _compare(rows: Rows, feature: str, floor: float, draws: int) -> Difference:
    m, n = len(rows.reference), len(rows.current)
    resolution = Resolution(_constant, m, n, none=0.5)
    pooled = rows.pooled
    why = TOO_FEW if min(m, n) < _FEWEST_ROWS else "" if pooled.any() else ALIKE
    if why:
        return nothing_to_compare(feature, "values", "MMD", "AUC", floor, resolution, why)
    kernel = gaussian_kernel(pooled)
    found = classifier_test(kernel, n)
    return Difference(
        feature=feature,
        aspect="values",
        test="MMD",
        p=mmd_p_value(kernel, n, draws),
        effect=Effect("AUC", found.auc, found.low, found.high, floor, none=0.5),
        resolution=resolution,
        noise=(1 / m + 1 / n) / 12,
    )


def _classified(rows: Rows) -> ClassifierTest:
    return classifier_test(gaussian_kernel(rows.pooled), len(rows.current))


def _constant(alpha: float, power: float) -> float:
    """Of a difference of ranks (Mann and Whitney), whose variance is ``(1/n + 1/m) / 12``.

    The MMD finds what a classifier with its kernel ranks so well about as often, and a change of scale more often.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) / math.sqrt(12)


def _missing(rows: Rows, feature: str, floor: float, draws: int) -> list[Difference]:
    table = [
        [rows.reference_n - rows.reference_missing, rows.reference_missing],
        [rows.current_n - rows.current_missing, rows.current_missing],
    ]
    return compare_shares(feature, ("finite values", "values that are not finite"), table, floor, draws)
