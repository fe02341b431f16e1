"""Which of many features changed, where a few may be named wrongly."""

from __future__ import annotations

from collections.abc import Sequence


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's q-values (1995): naming all with ``q <= alpha``, a share of alpha of the names is wrong on average.

    Args:
        p_values: One a test.

    Returns:
        A q-value a test, in the order given.
    """
    order = sorted(range(len(p_values)), key=lambda test: -p_values[test])
    found = [1.0] * len(p_values)
    least = 1.0
    for place, test in enumerate(order):
        least = min(least, p_values[test] * len(p_values) / (len(p_values) - place))
        found[test] = least
    return found
