"""The slope of a function along a line, by central differences whose error is measured rather than guessed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.properties.noise import FACTOR

_STEP = 1e-6
"""Apart from each other, points between which a smooth function is straight and rounding is not."""

_SMALLEST, _LARGEST = 1e-5, 1e-2
_NEARER = 1 / 8
"""Of the first step size, another at which a disagreement must show too, and be the same: what a kink nearby makes of one, it does not make of
the other."""

_TINY = (1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13)
"""Steps at which rounding drowns most functions: where it does not, an agreement at one of them is enough."""


@dataclass(frozen=True)
class Slope:
    """A slope, twice.

    Attributes:
        claimed: What autograd says.
        measured: What central differences say.
        error: How far these may be off: the change between two step sizes (Richardson), the gap between the slopes on both sides of a
            kink, and rounding.
        is_flat: Whether the function did not change by more than rounding.
    """

    claimed: float
    measured: float
    error: float
    is_flat: bool

    @property
    def gap(self) -> float:
        """How far the two are apart."""
        return abs(self.claimed - self.measured)

    @property
    def size(self) -> float:
        """The larger of the two."""
        return max(abs(self.claimed), abs(self.measured))

    @property
    def is_wrong(self) -> bool:
        """Whether they are further apart than the error allows."""
        return self.gap > self.error

    @property
    def is_right(self) -> bool:
        """Whether they agree, and would not by chance."""
        return self.is_telling and not self.is_wrong

    @property
    def is_telling(self) -> bool:
        """Whether the error is small enough to see a tenth of the slope."""
        return FACTOR * self.error < self.size


def slope_of(function: Callable[[float], float], claimed: float) -> Slope:
    """Holds a slope against central differences at zero.

    Args:
        function: From a place on the line to the value there; the same place gives the same value.
        claimed: The slope at zero that is to be held against it.
    """
    middle = function(0.0)
    noise = _noise(function, middle)
    typical = max(abs(claimed), abs(function(_STEP) - function(-_STEP)) / (2 * _STEP), sys.float_info.min)
    # Truncation grows with the square of the step and rounding with its inverse, so the best step is the cube root of their ratio.
    step = min(_LARGEST, max(_SMALLEST, (noise / typical) ** (1 / 3)))
    found = _at(function, middle, claimed, noise, step)
    if not found.is_wrong:
        return found
    # Of a function that turns within the step, differences over a far smaller one may still know the slope.
    absolving = (_at(function, middle, claimed, 0.0, tiny) for tiny in _TINY)
    agreeing = next((slope for slope in absolving if slope.is_right and FACTOR * slope.gap < found.gap), None)
    if agreeing is not None:
        return agreeing
    nearer = _at(function, middle, claimed, noise, step * _NEARER)
    apart = abs(found.measured - nearer.measured)
    if nearer.is_wrong and apart <= found.error + nearer.error:
        return found
    return replace(nearer, error=max(nearer.error, apart, nearer.gap))  # finite differences do not know either


def _at(function: Callable[[float], float], middle: float, claimed: float, noise: float, step: float) -> Slope:
    above, below, nearer_above, nearer_below = (function(place) for place in (step, -step, step / 2, -step / 2))
    wide, narrow = (above - below) / (2 * step), (nearer_above - nearer_below) / step
    bend, nearer_bend = (above - 2 * middle + below) / step, (nearer_above - 2 * middle + nearer_below) / (step / 2)
    # Of a smooth function the difference of the two one-sided slopes halves with the step; what does not is a kink.
    kink = abs(2 * nearer_bend - bend)
    error = FACTOR * (abs(narrow - wide) + kink + 4 * noise / step)
    is_flat = max(abs(value - middle) for value in (above, below, nearer_above, nearer_below)) <= FACTOR * noise
    return Slope(claimed, narrow + (narrow - wide) / 3, error, is_flat)


def _noise(function: Callable[[float], float], middle: float) -> float:
    """The rounding error of a value, from second differences (Moré and Wild 2011, Estimating Computational Noise)."""
    before, after, later = (function(place * _STEP) for place in (-1, 1, 2))
    seen = max(abs(before - 2 * middle + after), abs(middle - 2 * after + later))
    return max(seen, sys.float_info.epsilon * abs(middle))
