"""Parts of the data against the same parts of the reference: what a reference keeps of its own, and which parts drifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.monitoring import DriftOptions
from harness.monitoring.drift import DriftReport, FeatureDrift, compare_profiles
from harness.monitoring.drift.verdict import Verdict
from harness.monitoring.profiles import Profile
from harness.monitoring.slices import Cut, Parts, RightBySlice, right_by_slice
from harness.statistics import holm
from harness.wording import counted, p_value

if TYPE_CHECKING:
    from harness.data.dataset import Dataset
    from harness.tasks import TaskSpec

FEWEST_ROWS = 50
"""Below as many rows the distribution of a part is not judged."""


@dataclass(frozen=True)
class ReferenceSlices:
    """What is kept of the parts of a reference.

    Attributes:
        cuts: How its columns were cut.
        profiles: The inputs and labels of each part of the columns that were named, on the scales of the whole.
        right: How often the model was right in each part; empty where there was no model, or were no labels.
    """

    cuts: Mapping[str, Cut]
    profiles: Mapping[str, Profile]
    right: RightBySlice

    @classmethod
    def of(
        cls,
        data: Dataset,
        task: TaskSpec,
        names: Sequence[str],
        reference: Profile,
        correct: NDArray[np.float64] | None,
        batch_size: int = 32,
        cuts: Mapping[str, Cut] | None = None,
    ) -> ReferenceSlices:
        """The parts of a reference, or of a window that is cut alike.

        Args:
            data: The rows.
            task: What they are for.
            names: The columns, or ``"*"`` for all of the inputs, of which no profiles are kept.
            reference: The profile on whose scales they are counted.
            correct: Whether the model is right on each row, ``[N]``; ``None`` where nobody knows.
            batch_size: Rows at once.
            cuts: How the reference was cut, for a window.

        Raises:
            DataError: There is no such column.
        """
        from harness.monitoring.window import measure_window  # and with it torch, which tables without a model do not need

        parts = Parts.of(data, task, names, cuts, batch_size)
        profiles = {}
        for name, labels in parts.labels.items():
            for value in np.unique(labels) if name in names else ():
                rows = np.flatnonzero(labels == value)
                if len(rows) >= FEWEST_ROWS:
                    chosen = data.chosen(rows.tolist())
                    found = measure_window(chosen, task, reference=reference, batch_size=batch_size)
                    profiles[f"{name}={value}"] = found.profile
        return cls(parts.cuts, profiles, {} if correct is None else right_by_slice(parts, correct))

    def to_json(self) -> dict[str, Any]:
        """The parts as JSON-ready values."""
        return {
            "cuts": {name: cut.to_json() for name, cut in self.cuts.items()},
            "profiles": {name: profile.to_json() for name, profile in self.profiles.items()},
            "right": {name: list(counts) for name, counts in self.right.items()},
        }

    @classmethod
    def from_json(cls, data: Any) -> ReferenceSlices:
        """The inverse of ``to_json``.

        Raises:
            DataError: It is something else, or an older version stored it.
        """
        try:
            cuts = {name: Cut.from_json(each) for name, each in data["cuts"].items()}
            right = {name: (int(rows), int(ours)) for name, (rows, ours) in data["right"].items()}
            return cls(cuts, {name: Profile.from_json(each) for name, each in data["profiles"].items()}, right)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(
                "what is stored of the reference's `slices` is not readable by this version: store the reference again with "
                "`modeltiers profile`"
            ) from None


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
