"""Many tests at once: what is left of a p-value that is the smallest of hundreds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): held against alpha, any error among all tests is made with a probability of at most alpha.

    Valid however the tests depend on each other.

    Args:
        p_values: One a test.

    Returns:
        An adjusted p-value a test, in the order given.
    """
    p = np.array(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    found = np.empty_like(p)
    found[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return found.tolist()


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's q-values (1995): naming all with ``q <= alpha``, a share of alpha of the names is wrong on average.

    Args:
        p_values: One a test.

    Returns:
        A q-value a test, in the order given.
    """
    p = np.array(p_values, np.float64)
    order = np.argsort(-p, kind="stable")
    found = np.empty_like(p)
    found[order] = np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1)).clip(max=1.0)
    return found.tolist()
