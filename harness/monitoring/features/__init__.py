"""What a kind of feature must know: how its columns are read, counted, compared and shown."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.difference import Difference
from harness.monitoring.features.counts import FeatureCounts
from harness.monitoring.features.values import Values
from harness.monitoring.options import DriftOptions

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
