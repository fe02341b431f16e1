"""Several tests at once: no more than alpha of error in all of them together."""

from __future__ import annotations

from collections.abc import Sequence


def adjusted(p_values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Holm's weighted step-down (Scandinavian Journal of Statistics 6, 1979), valid however the tests depend on each other.

    Args:
        p_values: One a test.
        weights: Which share of alpha each test begins with; they need not add up to 1.

    Returns:
        A p-value a test, to be held against alpha itself, in the order given.
    """
    order = sorted(range(len(p_values)), key=lambda test: p_values[test] / weights[test])
    found = [1.0] * len(p_values)
    left, largest = float(sum(weights)), 0.0
    for test in order:
        largest = max(largest, min(1.0, p_values[test] / weights[test] * left))
        found[test] = largest
        left -= weights[test]
    return found
