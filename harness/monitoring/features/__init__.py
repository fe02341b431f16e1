"""What all kinds of feature have in common: how columns are read, counted, compared and shown; and the difference of two samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.monitoring import DriftOptions
from harness.monitoring.features.counts import FeatureCounts
from harness.monitoring.features.values import Values

ALIKE = "all values are alike"
TOO_FEW = "too few rows to compare"


_LEAST_SPAN = 0.1
"""Effects with a smaller floor count as if theirs were this, so that one of them is not all of the drift."""


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
        is_never_usual: Whether no sound window explains it, as none has values ten times as large as any before.
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
    is_never_usual: bool = False

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
    def size(self) -> float:
        """The effect, less its value without a difference."""
        return abs(self.effect.value - self.effect.none)

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
        span = max(effect.floor - effect.none, _LEAST_SPAN)
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


C = TypeVar("C", bound=FeatureCounts)

Plot = dict[str, Any]
"""``kind``, ``reference``, ``current``, ``edges`` or ``labels``: see ``harness.monitoring.checks``."""

DriftStatistic = Callable[[str, Any, Any, DriftOptions], Iterable[Difference]]
"""Compares a feature: takes its name, the counts of the reference and of the window, and the options; gives a difference for each hypothesis
that it tests, and none where it does not apply. All of them are corrected together, reported, and judged by effect and floor."""


class Survey(Protocol):
    """Reads all values of one feature of a reference, in bounded memory."""

    def add(self, values: Any) -> None:
        """Reads values."""
        ...

    def scale(self, bins: int) -> Any:
        """The scale for them, with nothing counted."""
        ...


class FeatureCounter(Protocol):
    """Counts the values of one feature."""

    def add(self, values: Any) -> None:
        """Counts values."""
        ...

    def result(self) -> Any:
        """The counts of all."""
        ...


class FeatureKind(ABC, Generic[C]):
    """One kind of feature.

    Attributes:
        counts: What is kept of it.
        statistics: The drift statistics by which two such counts are compared.
    """

    counts: ClassVar[type[FeatureCounts]]
    statistics: ClassVar[tuple[DriftStatistic, ...]]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.counts.kind

    @abstractmethod
    def accepts(self, array: NDArray[Any]) -> bool:
        """Whether a column is of this kind, by its type and its values."""

    @abstractmethod
    def values(self, array: NDArray[Any]) -> Values:
        """A column as values to be counted.

        Args:
            array: ``[N]``, or ``[N, D]``.
        """

    @abstractmethod
    def survey(self) -> Survey:
        """What reads a reference to choose its scale."""

    @abstractmethod
    def counter(self, scale: C) -> FeatureCounter:
        """A counter on a scale, which starts from nothing."""

    def compare(self, feature: str, reference: C, current: C, options: DriftOptions) -> Iterator[Difference]:
        """The differences of two counts, in each respect that applies."""
        for statistic in self.statistics:
            yield from statistic(feature, reference, current, options)

    @abstractmethod
    def log_coincidence(self, counts: C) -> float:
        """The logarithm of the probability that as many other rows have exactly these counts."""

    @abstractmethod
    def summary(self, counts: C) -> str:
        """What the values are like, in a few words."""

    def cells(self, counts: C) -> NDArray[np.int64] | None:
        """All values by the cell they are in, missing ones included; ``None`` where rows do not have one value each."""
        return None

    def cells_of(self, counts: C, array: NDArray[Any]) -> NDArray[np.intp]:
        """The cell of each value of a column, ``[N]``; only where there are ``cells``."""
        raise NotImplementedError(f"a {self.name} feature has no cells")

    def plot(self, reference: C, current: C, aspect: str) -> Plot | None:
        """Both sides as shares; ``None`` where a side has no values, or there is nothing to draw.

        Args:
            reference: Counts of the reference.
            current: Counts of the window, on the same scale.
            aspect: What of the feature differs most, such as ``values`` or ``missing values``.
        """
        return None


def log_coincidence_of(cells: NDArray[np.float64]) -> float:
    """The logarithm of the probability of two equal rows of counts in a table with these margins, a hypergeometric one.

    Args:
        cells: The counts, ``[K]``.
    """
    found = sum(_log_central(float(count)) for count in cells) - _log_central(float(cells.sum()))
    return min(0.0, found)


def _log_central(count: float) -> float:
    """The logarithm of ``2c`` choose ``c``."""
    return math.lgamma(2 * count + 1) - 2 * math.lgamma(count + 1)


def shares_by_label(labels: list[str], reference: NDArray[np.int64], current: NDArray[np.int64]) -> Plot:
    """A plot of shares by label, without labels that neither side has.

    Args:
        labels: ``K``.
        reference: Counts, ``[K]``.
        current: Counts, ``[K]``.
    """
    held = np.flatnonzero(reference + current)
    return {
        "kind": "categorical",
        "reference": [shares_of(reference)[place] for place in held],
        "current": [shares_of(current)[place] for place in held],
        "labels": [labels[place] for place in held],
    }


def shares_of(counts: NDArray[np.int64]) -> list[float]:
    """Counts as shares, in six digits."""
    found: list[Any] = np.round(counts / counts.sum(), 6).tolist()
    return found
