"""Vectors compared by what their profiles keep: coordinates along a few random directions."""

from __future__ import annotations

from dataclasses import replace

from harness.monitoring.drift.difference import Difference
from harness.monitoring.drift.numeric import compare_numbers
from harness.monitoring.profiles.features import VectorCounts


def compare_directions(feature: str, reference: VectorCounts, current: VectorCounts, floor: float) -> Difference:
    """The difference along the direction where it is most significant, corrected for their number.

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
