"""The exact test of paired differences: would they look as bad had each pair been swapped at random?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.gate.blocks import blocks
from harness.monitoring.gate.saddlepoint import Cumulants, normal_score, tilt_of

_ENUMERATED = 16
_TIE = 1e-9


def worsening_p(worsening: NDArray[np.float64]) -> float:
    """The one-sided sign-flip test (Fisher 1935): the share of all swaps of baseline and candidate that make the sum as large.

    Two models that are equal but for chance swap their scores with equal probability, so the test never exceeds its level for them, at any
    n and with tails of any weight; of 0/1 scores it is the exact McNemar test. Up to 16 differences are enumerated; beyond, the share comes
    from a saddlepoint approximation (Robinson, JRSS B 44, 1982), moved by the least difference, which is half the step between two sums
    where the differences are all alike.

    Args:
        worsening: By how much each sample is worse, ``[n]``.
    """
    sizes = np.abs(worsening[worsening != 0])
    total = float(worsening.sum())
    if not len(sizes):
        return 1.0
    if len(sizes) <= _ENUMERATED:
        return _enumerated(sizes, total)
    step = float(sizes.min())
    return _upper_tail(sizes, max(total - step, step - float(sizes.sum())))


def _enumerated(sizes: NDArray[np.float64], total: float) -> float:
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return float((sums >= total - _TIE * sizes.sum()).mean())


def _upper_tail(sizes: NDArray[np.float64], total: float) -> float:
    """How likely the sum of the sizes with random signs reaches ``total``."""
    from scipy.special import ndtr

    scale = math.sqrt(float(np.square(sizes).sum()))
    scaled, target = sizes / scale, total / scale
    tilt = tilt_of(lambda tilt: _cumulants(scaled, tilt), target)
    return float(ndtr(-normal_score(tilt, _cumulants(scaled, tilt))))


def _cumulants(sizes: NDArray[np.float64], tilt: float) -> Cumulants:
    value = slope = curvature = 0.0
    for part in blocks(sizes):
        tilted = np.abs(tilt) * part
        tangent = np.tanh(tilted)
        value += float((tilted + np.log1p(np.exp(-2 * tilted))).sum()) - len(part) * math.log(2)
        slope += float(part @ tangent)
        curvature += float((part * part) @ (1 - tangent * tangent))
    return Cumulants(value, math.copysign(slope, tilt), curvature)
