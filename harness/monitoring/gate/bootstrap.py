"""The paired bootstrap of a mean, bias-corrected and accelerated, as infinitely many resamples would have it."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.statistics import Cumulants, blocks, normal_score, tilt_at_score, tilt_of


class Bootstrap:
    """The BCa bootstrap (Efron, JASA 82, 1987) of the mean of paired differences.

    The mean of a resample is a sum of n draws from the differences, whose distribution a saddlepoint approximation gives directly (Davison
    and Hinkley, Biometrika 75, 1988). So the result has no noise of its own and needs no seed, takes a few passes over the data, and
    resolves p-values far below what 10,000 resamples could, which corrected levels ask for. For a mean, bias correction and acceleration
    are the same number, a sixth of the skewness of the mean. Normal quantiles are widened to those of Student's t (Hesterberg, The American
    Statistician 69, 2015), without which any bootstrap interval is too narrow at small n.

    Args:
        values: The differences, ``[n]``, not all equal.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._count = len(values)
        self._mean = float(values.mean())
        centred = values - self._mean
        self._scale = math.sqrt(float(np.square(centred).sum()))
        self._centred = centred / self._scale

    def interval(self, alpha: float) -> tuple[float, float]:
        """The confidence interval of the mean, with alpha on either side."""
        return self._end(alpha), self._end(1 - alpha)

    def p_at_most(self, bound: float) -> float:
        """How far the mean speaks against a true mean of ``bound`` or less: the alpha whose interval begins at ``bound``."""
        return self._level(bound)

    def p_at_least(self, bound: float) -> float:
        """How far the mean speaks against a true mean of ``bound`` or more: the alpha whose interval ends at ``bound``."""
        return 1 - self._level(bound)

    @cached_property
    def _acceleration(self) -> float:
        return float((self._centred * self._centred * self._centred).sum()) / 6

    @property
    def _widening(self) -> float:
        return math.sqrt(self._count / (self._count - 1))

    def _end(self, level: float) -> float:
        from scipy.special import stdtrit

        shift = self._acceleration
        moved = shift + self._widening * float(stdtrit(self._count - 1, level))
        stretch = 1 - shift * moved
        score = shift + moved / stretch if stretch > 0 else math.copysign(math.inf, moved)
        return self._quantile(score)

    def _quantile(self, score: float) -> float:
        least, greatest = float(self._centred.min()), float(self._centred.max())
        if math.isinf(score):
            return self._mean + self._scale * (greatest if score > 0 else least)
        tilt = tilt_at_score(self._cumulants, score)
        return self._mean + self._scale * self._cumulants(tilt).slope / self._count

    def _level(self, bound: float) -> float:
        """The level at which an end of the interval is ``bound``."""
        from scipy.special import stdtr

        score, shift = self._score(bound), self._acceleration
        stretch = 1 + shift * (score - shift)
        if math.isinf(score) or stretch <= 0:
            return 0.0 if score < 0 else 1.0
        return float(stdtr(self._count - 1, ((score - shift) / stretch - shift) / self._widening))

    def _score(self, bound: float) -> float:
        """The normal quantile of the share of resamples whose mean is at most ``bound``."""
        target = (bound - self._mean) / self._scale
        if target <= self._centred.min():
            return -math.inf
        if target >= self._centred.max():
            return math.inf
        tilt = tilt_of(self._cumulants, target * self._count)
        return normal_score(tilt, self._cumulants(tilt))

    def _cumulants(self, tilt: float) -> Cumulants:
        """Of the sum of n draws."""
        peak = max(tilt * float(self._centred.min()), tilt * float(self._centred.max()))
        weight = first = second = 0.0
        for part in blocks(self._centred):
            weights = np.exp(tilt * part - peak)
            weight += float(weights.sum())
            first += float(weights @ part)
            second += float(weights @ (part * part))
        mean = first / weight
        return Cumulants(
            value=self._count * (peak + math.log(weight / self._count)),
            slope=self._count * mean,
            curvature=self._count * max(second / weight - mean * mean, 0.0),
        )
