"""Parts of the data that a column names: which of them drifted, and in which the model is surely less often right than a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring import DriftOptions
from harness.monitoring.drift import DriftReport, FeatureDrift, compare_profiles
from harness.monitoring.drift.verdict import Verdict
from harness.monitoring.gate.pairs import FEWEST_IN_SLICE, slices_by_columns
from harness.monitoring.profiles import Profile
from harness.monitoring.window import measure_window
from harness.statistics import holm
from harness.tasks import TaskSpec
from harness.wording import counted, p_value

if TYPE_CHECKING:
    from harness.data.dataset import Dataset

SLICES = "slices"
"""The name under which the profiles of a reference's parts are stored beside its own."""

_ROWS = 50
"""Below as many rows the distribution of a part is not judged."""


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


def slice_profiles(
    data: Dataset, task: TaskSpec, names: Sequence[str], reference: Profile, batch_size: int = 32
) -> dict[str, Profile]:
    """The profiles of the parts of a dataset, inputs and labels only, on the scales of the whole.

    Args:
        data: The rows.
        task: What they are for.
        names: The columns whose values are parts.
        reference: The profile on whose scales they are counted.
        batch_size: Rows at once.

    Raises:
        DataError: There is no such column.
    """
    found = {}
    for name, labels in slices_by_columns(data, names).items():
        for value in np.unique(labels):
            rows = np.flatnonzero(labels == value)
            if len(rows) >= _ROWS:
                part = data.chosen(rows.tolist())
                found[f"{name}={value}"] = measure_window(part, task, reference=reference, batch_size=batch_size).profile
    return found


@dataclass(frozen=True)
class SliceDrift:
    """A part of the data that drifted, or may have.

    Attributes:
        name: Such as ``country=fr``.
        report: How it differs from the same part of the reference.
        p_adjusted: Of its most significant large difference, corrected for all of its features and all parts (Holm twice).
        parts: How many parts were compared.
    """

    name: str
    report: DriftReport
    p_adjusted: float
    parts: int

    @property
    def message(self) -> str:
        """``in country=fr `age` has drifted: KS D = 0.31``, with its p-value."""
        worst = _worst(self.report)
        assert worst is not None
        feature, verdict = worst
        effect = verdict.difference.effect
        return (
            f"in {self.name} `{feature.feature}` has drifted: {effect.name} = {effect.value:.2g} (allowed below {effect.floor:g}), "
            f"{p_value(self.p_adjusted)} adjusted for {counted(self.report.tests, 'test')} and {counted(self.parts, 'slice')}; "
            f"{verdict.difference.where}"
        )


def drifted_slices(reference: Mapping[str, Profile], current: Mapping[str, Profile], options: DriftOptions) -> list[SliceDrift]:
    """The parts that drifted, the surest first; all parts together raise a false alarm with a probability of at most alpha.

    Args:
        reference: Profiles by part.
        current: The window's, on the same scales.
        options: The allowed error, and the least effects that matter.
    """
    reports = {}
    for name in [name for name in reference if name in current]:
        shared = reference[name].only(current[name].features)
        reports[name] = compare_profiles(shared, current[name].only(shared.features), options)
    worst = {name: _worst(report) for name, report in reports.items()}
    adjusted = holm([found[1].p_adjusted if found else 1.0 for found in worst.values()])
    drifted = [
        SliceDrift(name, reports[name], p, len(reports))
        for name, p in zip(reports, adjusted, strict=True)
        if p <= options.alpha and worst[name] is not None
    ]
    return sorted(drifted, key=lambda one: one.p_adjusted)


def _worst(report: DriftReport) -> tuple[FeatureDrift, Verdict] | None:
    """The most significant difference that is large enough to matter."""
    large = [
        (feature, verdict)
        for feature in report.features
        for verdict in feature.verdicts
        if verdict.difference.is_tested and verdict.difference.effect.is_large
    ]
    return min(large, key=lambda one: one[1].p_adjusted, default=None)
