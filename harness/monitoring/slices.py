"""How often a model is right in parts of the data that a column names, and which of them are surely below a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.gate.pairs import FEWEST_IN_SLICE
from harness.statistics import holm
from harness.wording import counted, p_value


@dataclass(frozen=True)
class SliceAccuracy:
    """A part of the data.

    Attributes:
        name: Such as ``country=fr``.
        rows: Its independent rows with a label.
        accuracy: How often the model is right there.
        p_adjusted: How likely so few right answers are where the accuracy is the threshold, corrected for all parts (Holm).
    """

    name: str
    rows: int
    accuracy: float
    p_adjusted: float

    def to_json(self) -> dict[str, Any]:
        """The part as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class SliceVerdict:
    """The parts of the data against a threshold of the accuracy.

    Attributes:
        limit: The threshold.
        slices: Those with enough rows, the least accurate first.
        left_out: How many have too few.
        alpha: The probability that any is called below the threshold though none is, at most.
    """

    limit: float
    slices: tuple[SliceAccuracy, ...]
    left_out: int
    alpha: float = 0.05

    @classmethod
    def of(
        cls, correct: NDArray[Any], labels: Mapping[str, NDArray[Any]], limit: float, independent: NDArray[np.intp] | None = None
    ) -> SliceVerdict:
        """Judges parts by the exact binomial test (Clopper and Pearson, Biometrika 26, 1934), corrected for their number.

        Args:
            correct: Whether the model is right, 0 or 1, ``[N]``; NaN of a row without a label.
            labels: A label a row by name, ``[N]`` each.
            limit: The threshold of the accuracy.
            independent: The rows that are independent of each other; ``None`` where all are.
        """
        from scipy.special import bdtr

        kept = np.zeros(len(correct), bool)
        kept[slice(None) if independent is None else independent] = True
        kept &= np.isfinite(correct)
        found: list[tuple[str, int, int]] = []
        left_out = 0
        for name, column in labels.items():
            for value in np.unique(column[kept]):
                right = correct[kept & (column == value)]
                if len(right) < FEWEST_IN_SLICE:
                    left_out += 1
                else:
                    found.append((f"{name}={value}", len(right), int(right.sum())))
        adjusted = holm([float(bdtr(right, rows, limit)) for _, rows, right in found])
        slices = [SliceAccuracy(name, rows, right / rows, p) for (name, rows, right), p in zip(found, adjusted, strict=True)]
        return cls(limit, tuple(sorted(slices, key=lambda one: (one.accuracy, one.name))), left_out)

    @property
    def below(self) -> list[SliceAccuracy]:
        """The parts that are surely below the threshold, the surest first."""
        return sorted((one for one in self.slices if one.p_adjusted <= self.alpha), key=lambda one: one.p_adjusted)

    @property
    def message(self) -> str:
        """What is below the threshold, in one clause; empty where nothing is."""
        if not self.below:
            return ""
        first, *others = self.below
        more = f", and in {counted(len(others), 'other slice')}" if others else ""
        return (
            f"in {first.name} accuracy is {first.accuracy:.1%} on {counted(first.rows, 'row')}, surely below the threshold {self.limit:g} "
            f"({p_value(first.p_adjusted)} adjusted for {counted(len(self.slices), 'slice')}){more}"
        )
