"""The difference of two samples in one respect, before any correction for the others."""

from __future__ import annotations

from dataclasses import dataclass

from harness.monitoring.drift.effect import Effect, Resolution

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
