"""Plots of what drifted, as data: how a feature was distributed in the reference, and how it is now.

They travel as JSON in the details of evidence, ``details["plots"]``, and are drawn by the health report, which knows this structure and
nothing of profiles.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.evidence import Status
from harness.health.plots import bin_labels
from harness.monitoring.drift.kolmogorov import ks_distance
from harness.monitoring.drift.report import DriftReport, FeatureDrift
from harness.monitoring.drift.verdict import Verdict
from harness.monitoring.profiles.features import CategoricalCounts, NumericCounts, Profile, VectorCounts

MOST_PLOTS = 6
MOST_POINTS = 50
_MOST_LEVELS = 10
_FEW_BINS = 12

Plot = dict[str, Any]
"""``feature``, ``title``, ``kind``, ``reference``, ``current``, ``edges`` or ``labels``, ``caption``, ``contribution``: what the health report
draws (``harness.health.plots``)."""


def plots_of(report: DriftReport, reference: Profile, current: Profile, among: Container[str] | None = None) -> list[Plot]:
    """Plots of the features that changed, those that contribute most to the drift first, at most 6 of at most 50 shares.

    Numbers become shares between edges of the profile, of which neighbours are joined where there are too many. Levels are those that changed
    most. Vectors are shown along the random direction where the two sides are furthest apart. Each is of the respect that its feature's
    gravest verdict is on: its values, or which of them are missing.

    Args:
        report: What the comparison of the two profiles came to.
        reference: The reference's profile.
        current: The window's. A feature that was compared on rows, and is in neither profile, has no plot.
        among: The features to choose from; ``None`` for all.
    """
    changed = [one for one in report.features if one.status in (Status.WARN, Status.FAIL)]
    chosen = [one for one in changed if among is None or one.feature in among]
    return list(islice((plot for one in chosen for plot in _plots(one, reference, current)), MOST_PLOTS))


def _plots(drift: FeatureDrift, of_reference: Profile, of_current: Profile) -> Iterator[Plot]:
    """The plot of a feature, of the respect in which it changed; none where a side has no values."""
    reference, current = of_reference.features.get(drift.feature), of_current.features.get(drift.feature)
    if isinstance(reference, VectorCounts) and isinstance(current, VectorCounts):
        reference, current = _direction(reference, current)
    if reference is None or current is None or not (reference.n and current.n):
        return
    head: Plot = {
        "feature": drift.feature,
        "title": drift.feature,
        "contribution": drift.contribution,
        "caption": _caption(drift.verdicts[0], drift.contribution),
    }
    if isinstance(reference, CategoricalCounts) and isinstance(current, CategoricalCounts):
        yield {**head, **_of_levels(reference, current)}
    elif isinstance(reference, NumericCounts) and isinstance(current, NumericCounts):
        if drift.verdicts[0].difference.aspect != "values" or not (reference.finite and current.finite):
            yield {**head, "title": f"{drift.feature}: missing values", **_of_missing(reference, current)}
        else:
            yield {**head, **_of_numbers(reference, current)}


def _direction(reference: VectorCounts, current: VectorCounts) -> tuple[NumericCounts, NumericCounts]:
    """Both sides along the direction where they are furthest apart."""
    pairs = list(zip(reference.directions, current.directions, strict=True))
    return max(pairs, key=lambda pair: ks_distance(pair[0].counts, pair[1].counts) if pair[0].finite and pair[1].finite else 0.0)


def _caption(verdict: Verdict, contribution: float) -> str:
    effect = verdict.difference.effect
    parts = [f"{effect.name} {effect.value:.2g}", f"{contribution:.0%} of the drift", verdict.difference.where]
    return "; ".join(part for part in parts if part)


def _of_numbers(reference: NumericCounts, current: NumericCounts) -> Plot:
    starts = _joined((reference.counts / reference.finite + current.counts / current.finite) / 2, MOST_POINTS)
    before, now = (_shares(np.add.reduceat(side.counts, starts)) for side in (reference, current))
    edges = reference.edges[starts[1:] - 1].tolist()
    if len(starts) > _FEW_BINS:
        return {"kind": "numeric", "reference": before, "current": now, "edges": edges}
    # so few distinct values are levels to the eye
    labels = bin_labels(edges)
    held = [place for place in range(len(labels)) if before[place] or now[place]]
    return {
        "kind": "categorical",
        "reference": [before[place] for place in held],
        "current": [now[place] for place in held],
        "labels": [labels[place] for place in held],
    }


def _joined(shares: NDArray[np.float64], most: int) -> NDArray[np.intp]:
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


def _of_missing(reference: NumericCounts, current: NumericCounts) -> Plot:
    sides = [[side.finite, side.nan, side.positive_inf, side.negative_inf] for side in (reference, current)]
    return _pairs(["finite", "NaN", "+inf", "-inf"], *(np.array(side, np.int64) for side in sides))


def _of_levels(reference: CategoricalCounts, current: CategoricalCounts) -> Plot:
    """The levels that changed most, by their part of Cramér's V; the others together."""
    p, q = reference.counts / reference.n, current.counts / current.n
    total = np.where(p + q > 0, p + q, 1.0)
    order = np.argsort(-((p - q) ** 2) / total, kind="stable")[:_MOST_LEVELS]
    sides = []
    for side in (reference, current):
        named = side.counts[order]
        others = int(side.counts.sum() - named.sum()) + side.rest
        sides.append(np.array([*named, others, side.unseen, side.missing], np.int64))
    labels = [reference.levels[place] for place in order]
    return _pairs([*labels, "(other levels)", "(never seen before)", "(missing)"], *sides)


def _pairs(labels: list[str], before: NDArray[np.int64], now: NDArray[np.int64]) -> Plot:
    """Shares by label, without what neither side has."""
    held = np.flatnonzero(before + now)
    return {
        "kind": "categorical",
        "reference": [_shares(before)[place] for place in held],
        "current": [_shares(now)[place] for place in held],
        "labels": [labels[place] for place in held],
    }


def _shares(counts: NDArray[np.int64]) -> list[float]:
    found: list[Any] = np.round(counts / counts.sum(), 6).tolist()
    return found
