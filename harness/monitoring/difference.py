"""The difference of two samples in one respect: how large it is, how certain, and what could have been seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

ALIKE = "all values are alike"
TOO_FEW = "too few rows to compare"


@dataclass(frozen=True)
class Difference:
    """One hypothesis tested: that a feature is, in one respect, distributed as it was.

    Attributes:
        feature: Name of the feature.
        aspect: What of it was compared, such as ``values`` or ``missing values``.
        test: Name of the test.
        p: Probability of a difference as large where there is no drift.
        effect: How large it is.
        resolution: What could have been seen.
        noise: Mean of the squared effect (less its value without a difference) where there is no drift.
        where: Where it is largest; empty where that says nothing.
        untested: Why there was nothing to compare; empty where there was.
    """

    feature: str
    aspect: str
    test: str
    p: float
    effect: Effect
    resolution: Resolution
    noise: float = 0.0
    where: str = ""
    untested: str = ""

    @property
    def is_tested(self) -> bool:
        """Whether there was anything to compare."""
        return not self.untested

    @property
    def reference_n(self) -> int:
        """Values of the reference."""
        return self.resolution.reference_n

    @property
    def current_n(self) -> int:
        """Values of the window."""
        return self.resolution.current_n

    @property
    def is_alike(self) -> bool:
        """Whether both samples hold one and the same value."""
        return self.untested == ALIKE

    @property
    def strength(self) -> float:
        """The squared effect in units of the squared floor, less what noise alone gives; 0 where it is no more than that."""
        if not self.is_tested:
            return 0.0
        effect = self.effect
        span = max(effect.floor - effect.none, 1e-3)
        return max(0.0, (effect.value - effect.none) ** 2 - self.noise) / span**2


def nothing_to_compare(
    feature: str, aspect: str, test: str, effect: str, floor: float, resolution: Resolution, why: str
) -> Difference:
    """A difference that cannot be tested: a sample is empty, all values are alike, or there are too few."""
    m, n = resolution.reference_n, resolution.current_n
    if not (m and n):
        why = "the window has no values" if m else "the reference has no values"
    none = resolution.none
    unknown = Effect(effect, none, none, none if why == ALIKE else resolution.most, floor, none)
    return Difference(feature, aspect, test, 1.0, unknown, resolution, untested=why)


Constant = Callable[[float, float], float]

GOOD_POWER = 0.8
"""How likely an effect must be seen to be called detectable."""


@dataclass(frozen=True)
class Effect:
    """How large a difference is.

    Attributes:
        name: Of the measure.
        value: As estimated.
        low: Lower end of its 95% interval.
        high: Upper end.
        floor: The least that matters.
        none: Its value without any difference.
    """

    name: str
    value: float
    low: float
    high: float
    floor: float
    none: float = 0.0

    @property
    def is_large(self) -> bool:
        """Whether it matters."""
        return self.value >= self.floor


@dataclass(frozen=True)
class Resolution:
    """What effects two numbers of rows can show.

    Every effect here is seen from about ``none + c * sqrt(1/n + 1/m)`` on, where ``c`` depends on the test's level and on the power asked for.

    Attributes:
        constant: From level and power to ``c``.
        reference_n: Values of the reference, ``m``.
        current_n: Values of the window, ``n``.
        none: The effect's value without any difference.
        most: Its largest value.
        design: How many values count as one independent value; above 1 where those of a row hang together.
        per_row: Values that a row of the window has.
    """

    constant: Constant
    reference_n: int
    current_n: int
    none: float = 0.0
    most: float = 1.0
    design: float = 1.0
    per_row: float = 1.0

    def detectable(self, alpha: float, power: float) -> float | None:
        """The smallest effect that a test at level ``alpha`` finds with this power; ``None`` where it finds none."""
        if not (self.reference_n and self.current_n):
            return None
        spread = math.sqrt(self.design * (1 / self.reference_n + 1 / self.current_n))
        effect = self.none + self.constant(alpha, power) * spread
        return effect if effect <= self.most else None

    def can_show(self, effect: float, alpha: float, power: float) -> bool:
        """Whether a test at level ``alpha`` finds this effect with this power."""
        detectable = self.detectable(alpha, power)
        return detectable is not None and detectable <= effect

    def needed(self, effect: float, alpha: float, power: float) -> int | None:
        """Rows that the window needs for that; ``None`` where none would do, as the reference is too small or the effect is nothing."""
        if effect <= self.none or not self.reference_n:
            return None
        inverse = ((effect - self.none) / self.constant(alpha, power)) ** 2 / self.design - 1 / self.reference_n
        return math.ceil(1 / inverse / self.per_row) if inverse > 0 else None
