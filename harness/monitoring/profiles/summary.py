"""A profile for people: a line a feature."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.experiments.text_table import aligned
from harness.monitoring.profiles.features import CategoricalCounts, Feature, NumericCounts, Profile, VectorCounts

_SHOWN = 3


def summary_rows(profile: Profile) -> list[dict[str, Any]]:
    """Name, kind, values, missing ones and a summary of each feature, ready for JSON."""
    return [
        {"feature": name, "kind": feature.kind, "n": feature.n, "missing": feature.missing, "summary": summary_of(feature)}
        for name, feature in profile.features.items()
    ]


def summary_table(profile: Profile) -> str:
    """The same as text in aligned columns."""
    rows = [[str(value) for value in row.values()] for row in summary_rows(profile)]
    return aligned([["FEATURE", "KIND", "N", "MISSING", "SUMMARY"], *rows])


def summary_of(feature: Feature) -> str:
    """What a feature's values are like, in a few words."""
    if isinstance(feature, NumericCounts):
        return _numbers(feature)
    return _levels(feature) if isinstance(feature, CategoricalCounts) else _vectors(feature)


def _numbers(feature: NumericCounts) -> str:
    if not feature.finite:
        return "no finite value"
    if not len(feature.edges):
        return "not binned: its reference has no finite value"
    low, middle, high = (_quantile(feature, share) for share in (0.05, 0.5, 0.95))
    return f"median {middle:.4g}" if low == middle == high else f"median {middle:.4g}, 90% in {low:.4g} to {high:.4g}"


def _quantile(feature: NumericCounts, share: float) -> float:
    """The lower edge of the bin that a quantile is in; of the first bin, its upper one."""
    at = int(np.searchsorted(np.cumsum(feature.counts), share * feature.finite, side="right"))
    return float(feature.edges[min(max(at - 1, 0), len(feature.edges) - 1)])


def _levels(feature: CategoricalCounts) -> str:
    values = feature.n - feature.missing
    if not values:
        return "no value"
    order = np.argsort(-feature.counts, kind="stable")[:_SHOWN]
    named = [f"{feature.levels[at]} {feature.counts[at] / values:.1%}" for at in order]
    left = values - int(feature.counts[order].sum())
    others = [f"{left / values:.1%} others"] if left else []
    unseen = [f"{feature.unseen / values:.1%} never seen before"] if feature.unseen else []
    return ", ".join(named + others + unseen)


def _vectors(feature: VectorCounts) -> str:
    return f"{feature.projection.width} numbers along {len(feature.directions)} random directions"
