"""Numeric features: counts between edges, distance, summary and plot."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from functools import partial
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.charts.pictures import bin_labels
from harness.monitoring import DriftOptions
from harness.monitoring.features import (
    ALIKE,
    Difference,
    Effect,
    FeatureKind,
    Plot,
    Resolution,
    log_coincidence_of,
    nothing_to_compare,
    shares_by_label,
    shares_of,
)
from harness.monitoring.features.category_drift import compare_shares
from harness.monitoring.features.counts import NumericCounts
from harness.monitoring.features.edges import NumericSurvey
from harness.monitoring.features.ranges import DATE, RANGE, compare_ranges, continues, far_beyond, looks_like, shown
from harness.monitoring.features.values import Numbers, is_missing
from harness.monitoring.statistics import ks_critical, ks_distance, ks_p_value

FEW_LEVELS = 20
"""Whole numbers with no more distinct values than this are levels, where each occurs five times or more on average."""

MOST_POINTS = 50
"""Points of a plot."""

_FEW_BINS = 12
_SORTED_AT_ONCE = 1 << 15
_CONFIDENCE = 0.95


def count_numbers(edges: NDArray[np.float64], values: NDArray[np.float64]) -> NumericCounts:
    """Counts values between edges.

    Sorting pieces that fit into the cache and finding the edges among them is several times faster than finding each value among the
    edges, and as exact.

    Args:
        edges: Strictly increasing, float64 ``[B - 1]``.
        values: float64 ``[N]``.
    """
    marks = np.concatenate([[-np.finfo(np.float64).max], edges, [np.inf]])
    below = np.zeros(len(marks), np.int64)
    nan = 0
    for start in range(0, len(values), _SORTED_AT_ONCE):
        piece = np.sort(values[start : start + _SORTED_AT_ONCE])  # NaN goes to the end
        numbers = int(np.searchsorted(piece, np.nan))
        nan += len(piece) - numbers
        below += np.searchsorted(piece[:numbers], marks)
    return NumericCounts(edges, np.diff(below), nan, len(values) - nan - int(below[-1]), int(below[0]))


class NumericCounter:
    """Counts numbers."""

    def __init__(self, scale: NumericCounts) -> None:
        self._counts = scale

    def add(self, values: Numbers) -> None:
        """Counts values."""
        self._counts = self._counts.merge(count_numbers(self._counts.edges, values.values))

    def result(self) -> NumericCounts:
        """The counts of all."""
        return self._counts


def compare_distributions(
    feature: str, reference: NumericCounts, current: NumericCounts, options: DriftOptions
) -> Iterable[Difference]:
    """The difference of the finite values; none of moments that continue, as those at which rows were made do."""
    if continues(reference, current):
        return []
    return [ks_difference(feature, reference, current, options.floors.ks, has_p=bool(options.draws))]


def compare_missing(
    feature: str, reference: NumericCounts, current: NumericCounts, options: DriftOptions
) -> Iterable[Difference]:
    """The difference of the shares of NaN and infinities; none where neither sample has any."""
    return compare_shares(
        feature, ("finite values", "NaN", "+inf", "-inf"), _by_finiteness(reference), _by_finiteness(current), options
    )


def ks_difference(
    feature: str, reference: NumericCounts, current: NumericCounts, floor: float, among: int = 1, *, has_p: bool = True
) -> Difference:
    """The difference of the finite values.

    The interval of D holds at all edges at once: ``D ± c`` with the critical distance ``c`` of the test, so that it leaves out 0 where an
    uncorrected test rejects.

    Args:
        feature: Name of the feature.
        reference: Its counts in the reference.
        current: Its counts in the window, on the same edges.
        floor: The least D that matters.
        among: Of how many such differences this is one, of which the most significant is told; all bounds are for that one (Bonferroni).
        has_p: Whether its p-value is wanted; 1 otherwise.
    """
    m, n = reference.finite, current.finite
    edges = int(np.count_nonzero(reference.counts + current.counts)) - 1
    resolution = Resolution(partial(_detectable_constant, edges=edges, among=among), m, n)
    if not (m and n) or not edges:
        return nothing_to_compare(feature, "values", "KS", "KS D", floor, resolution, ALIKE)
    distance = ks_distance(reference.counts, current.counts)
    margin = ks_critical((1 - _CONFIDENCE) / among, edges) * math.sqrt(1 / m + 1 / n)
    return Difference(
        feature=feature,
        aspect="values",
        test="KS",
        p=min(1.0, among * ks_p_value(reference.counts, current.counts, _holds_one_value(reference.edges))) if has_p else 1.0,
        effect=Effect("KS D", distance, max(0.0, distance - margin), min(1.0, distance + margin), floor),
        resolution=resolution,
        noise=_mean_square(among) * (1 / m + 1 / n),
        where=_largest_gap(reference, current) + (_explained(feature, reference, current) if distance >= floor else ""),
    )


def _detectable_constant(alpha: float, power: float, edges: int, among: int) -> float:
    """The critical distance, and from there on the normal distribution of the difference at the edge where it is largest.

    Of many edges, Smirnov's bound is for more points than are looked at, by 0.58 steps of the walk (Broadie, Glasserman and Kou 1997), and the
    largest of the differences beside that edge lies higher than the one at it, by about 0.12 (simulated). For values that moved across one
    point, which are harder to find than values that all moved, power 0.8 is then reached within 10% of the rows that are told.
    """
    level = alpha / among
    critical = ks_critical(level, edges)
    if edges >= _MANY_EDGES:
        at_one_edge = NormalDist().inv_cdf(1 - level / 2) / 2
        critical = min(critical, max(math.sqrt(math.log(2 / level) / 2) - 0.5826 / math.sqrt(edges + 1) - 0.12, at_one_edge))
    return critical + 0.5 * NormalDist().inv_cdf(power)


_MANY_EDGES = 10


def _mean_square(among: int) -> float:
    """What chance alone makes of D squared, in units of ``1/n + 1/m``: of one by Kolmogorov's distribution, of the largest by its tail."""
    return math.pi**2 / 12 if among == 1 else (math.log(2 * among) + 0.5772) / 2


def _holds_one_value(edges: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which bins hold a single value: those that end at the next greater float, or after zero at the least normal one."""
    after = np.where(edges[:-1] == 0, np.finfo(np.float64).tiny, np.nextafter(edges[:-1], np.inf))
    return np.concatenate([[False], edges[1:] <= after, [False]])[: len(edges) + 1]


def _largest_gap(reference: NumericCounts, current: NumericCounts) -> str:
    """``the share below 3.2 went from 40% to 55%``, at the edge where the two are furthest apart; below an edge may be a single value."""
    before, now = (np.cumsum(side.counts)[:-1] / side.finite for side in (reference, current))
    edge = int(np.abs(now - before).argmax())
    is_of_one = _holds_one_value(reference.edges)[edge]
    is_least = not edge or not (reference.counts[:edge].any() or current.counts[:edge].any())
    where = ("of" if is_least else "up to") if is_of_one else "below"
    value = shown(float(reference.edges[edge - is_of_one]), reference.unit)
    return f"the share {where} {value} went from {before[edge]:.1%} to {now[edge]:.1%}"


def _explained(feature: str, reference: NumericCounts, current: NumericCounts) -> str:
    """``, as if every value were 2.54 times as large: centimetres instead of inches?``, or how far beyond the range most values are."""
    found = looks_like(reference, current, feature) or far_beyond(reference, current, feature)
    return f", {found}" if found else ""


def _by_finiteness(counts: NumericCounts) -> NDArray[np.int64]:
    return np.array([counts.finite, counts.nan, counts.positive_inf, counts.negative_inf], np.int64)


def _quantile(feature: NumericCounts, share: float) -> float:
    """The lower edge of the bin that a quantile is in; of the first bin, its upper one."""
    at = int(np.searchsorted(np.cumsum(feature.counts), share * feature.finite, side="right"))
    return float(feature.edges[min(max(at - 1, 0), len(feature.edges) - 1)])


def _plot_of_numbers(reference: NumericCounts, current: NumericCounts) -> Plot:
    starts = _joined_bins((reference.counts / reference.finite + current.counts / current.finite) / 2, MOST_POINTS)
    before, now = (np.add.reduceat(side.counts, starts) for side in (reference, current))
    edges = reference.edges[starts[1:] - 1].tolist()
    if len(starts) > _FEW_BINS:
        return {"kind": "numeric", "reference": shares_of(before), "current": shares_of(now), "edges": edges}
    return shares_by_label(bin_labels(edges), before, now)  # so few distinct values are levels to the eye


def _joined_bins(shares: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """Where groups of neighbouring bins begin, at most so many, light bins being joined and heavy ones left alone.

    Two groups in a row always hold more than the limit together, which bounds how many there are.
    """
    if len(shares) <= most:
        return np.arange(len(shares))
    limit = 2 / (most - 1)
    starts, held = [0], 0.0
    for place, share in enumerate(shares.tolist()):
        if place and held + share > limit:
            starts.append(place)
            held = 0.0
        held += share
    return np.array(starts)


def _has_few_levels(array: NDArray[Any]) -> bool:
    distinct = len(np.unique(array))
    return distinct <= FEW_LEVELS and 5 * distinct <= len(array)


def _numbers(array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind in "mM":
        whole = array.astype(f"{array.dtype.kind}8[us]").astype(np.int64)  # whatever unit the column came in
        return np.where(np.isnat(array), np.nan, whole.astype(np.float64))
    if array.dtype.kind in "OSU":
        return np.fromiter((_float(value) for value in array), np.float64, len(array))
    return array.astype(np.float64, copy=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, Decimal)) and not isinstance(value, (bool, np.bool_))


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


class Numeric(FeatureKind[NumericCounts]):
    """Numbers and dates, counted between edges on the quantiles of the reference and compared by Kolmogorov and Smirnov's distance."""

    counts = NumericCounts
    statistics = (compare_distributions, compare_ranges, compare_missing)

    def accepts(self, array: NDArray[Any]) -> bool:
        """Whether a column holds floats, dates, many different whole numbers, or nothing but numbers and missing values."""
        if array.ndim != 1:
            return False
        if array.dtype.kind in "iu":
            return not _has_few_levels(array)
        if array.dtype.kind == "O":
            return all(_is_number(value) or is_missing(value) for value in array)
        return array.dtype.kind in "fmM"

    def values(self, array: NDArray[Any]) -> Numbers:
        """A column as numbers; a text that is no number counts as NaN."""
        return Numbers(_numbers(array), DATE if array.dtype.kind == "M" else "")

    def survey(self) -> NumericSurvey:
        """Quantiles of a reference."""
        return NumericSurvey()

    def counter(self, scale: NumericCounts) -> NumericCounter:
        """A counter between edges."""
        return NumericCounter(scale.emptied())

    def log_coincidence(self, counts: NumericCounts) -> float:
        """By bins, and what is not finite."""
        return log_coincidence_of(self.cells(counts).astype(np.float64))

    def summary(self, counts: NumericCounts) -> str:
        """``median 38.2, 90% in 21.5 to 61.3``."""
        if not counts.finite:
            return "no finite value"
        if not len(counts.edges):
            return "not binned: its reference has no finite value"
        low, middle, high = (_quantile(counts, share) for share in (0.05, 0.5, 0.95))
        least, half, most = (shown(value, counts.unit) for value in (low, middle, high))
        return f"median {half}" if low == middle == high else f"median {half}, 90% in {least} to {most}"

    def cells(self, counts: NumericCounts) -> NDArray[np.int64]:
        """Bins, then NaN, +inf and -inf."""
        return np.array([*counts.counts, counts.nan, counts.positive_inf, counts.negative_inf], np.int64)

    def cells_of(self, counts: NumericCounts, array: NDArray[Any]) -> NDArray[np.intp]:
        """The bin of each value."""
        values = self.values(array).values
        special = np.isnan(values), np.isposinf(values), np.isneginf(values)
        return np.select(
            special, [len(counts.counts) + place for place in range(3)], np.searchsorted(counts.edges, values, side="right")
        )

    def plot(self, reference: NumericCounts, current: NumericCounts, aspect: str) -> Plot | None:
        """Shares between edges; of few distinct values as bars; of missing ones where these differ."""
        if not (reference.n and current.n):
            return None
        if aspect in ("values", RANGE) and reference.finite and current.finite:
            return _plot_of_numbers(reference, current)
        shares = shares_by_label(["finite", "NaN", "+inf", "-inf"], _by_finiteness(reference), _by_finiteness(current))
        return {"about": "missing values", **shares}
