"""Logistic regression on a handful of measures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS = 50
_PENALTY = 1.0


def fit_logistic(measures: NDArray[np.float64], outcomes: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights by Newton's method, with a ridge penalty of 1 on the standardised measures.

    Args:
        measures: ``[N, P]``, the last of them 1.
        outcomes: ``[N]``.

    Returns:
        float64 ``[P]``; where all outcomes are alike, all measures weigh the same, in their own spread.
    """
    spread = measures[:, :-1].std(axis=0)
    scale = np.append(np.where(spread > 0, spread, 1.0), 1.0)
    if outcomes.all() or not outcomes.any():
        return np.append(1 / scale[:-1], 0.0)
    centre = np.append(measures[:, :-1].mean(axis=0), 0.0)
    standard = (measures - centre) / scale
    penalty = np.append(np.full(len(scale) - 1, _PENALTY), 0.0)
    weights = np.zeros(len(scale))
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-(standard @ weights).clip(-30, 30)))
        slope = standard.T @ (outcomes - chance) - penalty * weights
        bend = (standard * (chance * (1 - chance))[:, None]).T @ standard + np.diag(penalty + 1e-9)
        step = np.linalg.solve(bend, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    found = weights / scale
    found[-1] -= float(centre[:-1] @ found[:-1])
    return found
