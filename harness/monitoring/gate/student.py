"""Student's t for the mean of paired differences, where they are too few, or too alike, to resample."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class Student:
    """The mean of paired differences by Student's t (1908).

    Args:
        values: The differences, ``[n]`` with n of at least 2.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._freedom = len(values) - 1
        self._mean = float(values.mean())
        self._error = float(values.std(ddof=1)) / math.sqrt(len(values))

    def interval(self, alpha: float) -> tuple[float, float]:
        """The confidence interval of the mean, with alpha on either side."""
        from scipy.special import stdtrit

        half = -float(stdtrit(self._freedom, alpha)) * self._error
        return self._mean - half, self._mean + half

    def p_at_most(self, bound: float) -> float:
        """How far the mean speaks against a true mean of ``bound`` or less."""
        return self._upper_tail(self._mean - bound)

    def p_at_least(self, bound: float) -> float:
        """How far the mean speaks against a true mean of ``bound`` or more."""
        return self._upper_tail(bound - self._mean)

    def _upper_tail(self, excess: float) -> float:
        from scipy.special import stdtr

        if self._error == 0:
            return 0.0 if excess > 0 else 1.0
        return float(stdtr(self._freedom, -excess / self._error))
