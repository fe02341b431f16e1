"""Whether a window is the reference itself: two samples need not be compared that are one."""

from __future__ import annotations

import json
import math

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.profiles.documents import to_document
from harness.monitoring.profiles.features import CategoricalCounts, Feature, NumericCounts, Profile, VectorCounts, is_optional

_COINCIDENCE = math.log(1e-6)


def same_features(reference: Profile, current: Profile) -> frozenset[str]:
    """The features of a window that holds the reference's own rows; empty where it holds others.

    How many rows are needed to see drift is a question about two samples that were drawn independently. Where the window is the reference,
    there is one sample, and that nothing changed is certain for any number of rows. It is taken for the reference where every count of every
    input is the same, and other rows would have the same counts with a probability below 1e-6: at most that of the least likely feature, which
    is hypergeometric given the counts of both samples together.

    Args:
        reference: The reference's profile.
        current: The window's, on the same scales.
    """
    inputs = [name for name in reference.features if not is_optional(name)]
    if reference.n != current.n or not reference.n or not all(name in current.features for name in inputs):
        return frozenset()
    before, now = (to_document(profile)["features"] for profile in (reference, current))
    equal = {name for name in reference.features if name in now and json.dumps(before[name]) == json.dumps(now[name])}
    if not inputs or not equal.issuperset(inputs):
        return frozenset()
    if min(_coincidence(reference.features[name]) for name in inputs) > _COINCIDENCE:
        return frozenset()
    return frozenset(equal)


def _coincidence(feature: Feature) -> float:
    """The logarithm of the probability that as many other rows have exactly these counts."""
    if isinstance(feature, VectorCounts):
        return min(_coincidence(direction) for direction in feature.directions)
    if isinstance(feature, NumericCounts):
        return _log_probability(np.array([*feature.counts, feature.nan, feature.positive_inf, feature.negative_inf], np.float64))
    return _of_levels(feature)


def _of_levels(feature: CategoricalCounts) -> float:
    levels = feature.buckets if feature.buckets.size else np.array([*feature.counts, feature.rest, feature.unseen])
    counts = np.array([*levels, feature.missing], np.float64)
    if feature.clusters is not None:  # values of one row may all be alike, so that each row counts for one
        counts = counts * feature.clusters.rows / max(counts.sum(), 1.0)
    return _log_probability(counts)


def _log_probability(counts: NDArray[np.float64]) -> float:
    """Of two equal rows of counts in a table with these margins."""
    found = sum(_log_central(float(count)) for count in counts) - _log_central(float(counts.sum()))
    return min(0.0, found)


def _log_central(count: float) -> float:
    """The logarithm of ``2c`` choose ``c``."""
    return math.lgamma(2 * count + 1) - 2 * math.lgamma(count + 1)
