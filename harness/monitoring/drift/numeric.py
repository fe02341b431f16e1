"""Numbers compared: the distance of Kolmogorov and Smirnov, at the edges of the profile; and vectors, by a few of their coordinates."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.drift.difference import ALIKE, Difference, nothing_to_compare
from harness.monitoring.drift.effect import Effect, Resolution
from harness.monitoring.drift.kolmogorov import ks_critical, ks_distance, ks_p_value
from harness.monitoring.profiles.features import NumericCounts, VectorCounts

_CONFIDENCE = 0.95


def compare_numbers(feature: str, reference: NumericCounts, current: NumericCounts, floor: float, among: int = 1) -> Difference:
    """The difference of the finite values.

    The interval of D holds at all edges at once: ``D ± c`` with the critical distance ``c`` of the test, so that it leaves out 0 where an
    uncorrected test rejects.

    Args:
        feature: Name of the feature.
        reference: Its counts in the reference.
        current: Its counts in the window, on the same edges.
        floor: The least D that matters.
        among: Of how many such differences this is one, of which the most significant is told; all bounds are for that one (Bonferroni).
    """
    m, n = reference.finite, current.finite
    edges = int(np.count_nonzero(reference.counts + current.counts)) - 1
    resolution = Resolution(partial(_constant, edges=edges, among=among), m, n)
    if not (m and n) or not edges:
        return nothing_to_compare(feature, "values", "KS", "KS D", floor, resolution, ALIKE)
    distance = ks_distance(reference.counts, current.counts)
    margin = ks_critical((1 - _CONFIDENCE) / among, edges) * math.sqrt(1 / m + 1 / n)
    return Difference(
        feature=feature,
        aspect="values",
        test="KS",
        p=min(1.0, among * ks_p_value(reference.counts, current.counts, _single(reference.edges))),
        effect=Effect("KS D", distance, max(0.0, distance - margin), min(1.0, distance + margin), floor),
        resolution=resolution,
        noise=_mean_square(among) * (1 / m + 1 / n),
        where=_where(reference, current),
    )


def compare_directions(feature: str, reference: VectorCounts, current: VectorCounts, floor: float) -> Difference:
    """The difference of vectors along the random direction where it is most significant, corrected for their number.

    Args:
        feature: Name of the feature.
        reference: Its counts in the reference.
        current: Its counts in the window, along the same directions.
        floor: The least D that matters.
    """
    pairs = zip(reference.directions, current.directions, strict=True)
    among = len(reference.directions)
    found = [compare_numbers(feature, one, other, floor, among) for one, other in pairs]
    best = min(range(among), key=lambda direction: (found[direction].p, -found[direction].effect.value))
    where = f"along random direction {best + 1} of {among}"
    return replace(found[best], test="KS along random directions", where=where)


def _constant(alpha: float, power: float, edges: int, among: int) -> float:
    """The critical distance, and from there on the normal distribution of the difference at the edge where it is largest."""
    return ks_critical(alpha / among, edges) + 0.5 * NormalDist().inv_cdf(power)


def _mean_square(among: int) -> float:
    """What chance alone makes of D squared, in units of ``1/n + 1/m``: of one by Kolmogorov's distribution, of the largest by its tail."""
    return math.pi**2 / 12 if among == 1 else (math.log(2 * among) + 0.5772) / 2


def _single(edges: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which bins hold a single value: those that end at the next greater float, or after zero at the least normal one."""
    after = np.where(edges[:-1] == 0, np.finfo(np.float64).tiny, np.nextafter(edges[:-1], np.inf))
    return np.concatenate([[False], edges[1:] <= after, [False]])[: len(edges) + 1]


def _where(reference: NumericCounts, current: NumericCounts) -> str:
    """``the share below 3.2 went from 40% to 55%``, at the edge where the two are furthest apart."""
    before, now = (np.cumsum(side.counts)[:-1] / side.finite for side in (reference, current))
    edge = int(np.abs(now - before).argmax())
    return f"the share below {reference.edges[edge]:.4g} went from {before[edge]:.1%} to {now[edge]:.1%}"
