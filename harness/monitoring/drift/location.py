"""Where the drift is: in which parts of the data, and in which rows of a window, as far as they are at hand."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError, ProfileMismatchError, did_you_mean
from harness.monitoring import DriftOptions
from harness.monitoring.drift import DriftReport, FeatureDrift, compare_profiles
from harness.monitoring.drift.verdict import Verdict
from harness.monitoring.features.counts import FeatureCounts
from harness.monitoring.features.kinds import Column, kind_of
from harness.monitoring.profiles import Profile, is_optional
from harness.monitoring.profiles.windows import FEWEST_ROWS
from harness.monitoring.slices import Cut, Parts, RightBySlice, right_by_slice
from harness.statistics import holm
from harness.wording import counted, p_value

if TYPE_CHECKING:
    from harness.data.dataset import Dataset
    from harness.tasks import TaskSpec


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
        # And with it torch, which tables without a model do not need.
        from harness.monitoring.window import measure_window, without_also

        parts = Parts.of(data, task, names, cuts, batch_size)
        known, profiles = without_also(reference), {}
        for name, labels in parts.labels.items():
            for value in np.unique(labels) if name in names else ():
                rows = np.flatnonzero(labels == value)
                if len(rows) >= FEWEST_ROWS:
                    chosen = data.chosen(rows.tolist())
                    found = measure_window(chosen, task, reference=known, batch_size=batch_size)
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
        worst: The feature and its difference.
    """

    name: str
    report: DriftReport
    p_adjusted: float
    parts: int
    worst: tuple[FeatureDrift, Verdict]

    @property
    def message(self) -> str:
        """``in country=fr `age` has drifted: KS D = 0.31``, with its p-value."""
        feature, verdict = self.worst
        effect = verdict.difference.effect
        return (
            f"in {self.name} `{feature.feature}` has drifted: {effect.name} = {effect.value:.2g} (allowed below {effect.floor:g}), "
            f"{p_value(self.p_adjusted)} adjusted for {counted(self.report.tests, 'test')} and {counted(self.parts, 'slice')}; "
            f"{verdict.difference.where}"
        )


def drifted_slices(
    reference: Mapping[str, Profile], current: Mapping[str, Profile], options: DriftOptions, known: Collection[str] = ()
) -> list[SliceDrift]:
    """The parts that drifted, the surest first; all parts together raise a false alarm with a probability of at most alpha.

    Args:
        reference: Profiles by part.
        current: The window's, on the same scales.
        options: The allowed error, and the least effects that matter.
        known: Features that drifted on the whole, of which a part says nothing new.
    """
    reports = {}
    for name in [name for name in reference if name in current]:
        shared = reference[name].only(current[name].features)
        reports[name] = compare_profiles(shared, current[name].only(shared.features), options)
    worst = {name: _worst(report, known) for name, report in reports.items()}
    adjusted = holm([found[1].p_adjusted if found else 1.0 for found in worst.values()])
    drifted = [
        SliceDrift(name, reports[name], p, len(reports), found)
        for (name, found), p in zip(worst.items(), adjusted, strict=True)
        if p <= options.alpha and found is not None
    ]
    return sorted(drifted, key=lambda one: one.p_adjusted)


def _worst(report: DriftReport, known: Collection[str]) -> tuple[FeatureDrift, Verdict] | None:
    """The most significant difference that is large enough to matter."""
    large = [
        (feature, verdict)
        for feature in report.features
        for verdict in feature.verdicts
        if feature.feature not in known and verdict.difference.is_tested and verdict.difference.effect.is_large
    ]
    return min(large, key=lambda one: one[1].p_adjusted, default=None)


_REASONS = 3


@dataclass(frozen=True)
class ShiftedRow:
    """A row whose values have become more frequent.

    Attributes:
        index: Which row of the window, from 0.
        score: Sum over the features that drifted of ``log(share now / share in the reference)`` of the row's values.
        reasons: The values that make most of it, such as ```age` = 71: 4.2 times as frequent as in the reference``.
        alike: The share of the window's rows whose score is as high as that of the first row.
    """

    index: int
    score: float
    reasons: tuple[str, ...]
    alike: float = 0.0


def shifted_rows(
    report: DriftReport,
    reference: Profile,
    current: Profile,
    rows: Mapping[str, Column] | Iterable[Mapping[str, Column]],
    count: int = 10,
) -> list[ShiftedRow]:
    """The rows whose values have become more frequent, those by most first.

    Memory does not depend on the number of rows where they come in parts.

    Args:
        report: What the comparison of the two profiles came to; the features that it names decide.
        reference: The reference's profile.
        current: The window's.
        rows: The window's columns by name, ``[N]`` each, or an iterable of such parts in their order. Labels and outputs may be lacking.
        count: The most rows to name.

    Returns:
        At most ``count``, and none where no numeric or categorical feature is named.

    Raises:
        ProfileMismatchError: A column is lacking, or is of another length than the others.
        ProfileError: A column has more than one axis.
    """
    frequencies = list(_frequencies(report, reference, current))
    parts = [rows] if isinstance(rows, Mapping) else rows
    best: list[ShiftedRow] = []
    start = alike = 0
    for part in parts if frequencies else ():
        scored = _Scored.of(frequencies, part)
        found = (scored.row(place, start) for place in scored.first(count))
        highest = best[0].score if best else -math.inf
        best = heapq.nlargest(count, [*best, *found], key=lambda row: row.score)
        if best:
            alike = (alike if best[0].score == highest else 0) + int(np.count_nonzero(scored.scores >= best[0].score))
        start += scored.rows
    return [replace(row, alike=alike / start) for row in best]


@dataclass(frozen=True)
class _Frequency:
    """How much more frequent each value of a feature has become.

    Attributes:
        feature: Its name.
        scale: Of its profile: what is a cell.
        ratios: Logarithms of the ratio of shares, by cell.
    """

    feature: str
    scale: FeatureCounts
    ratios: NDArray[np.float64]

    def of(self, column: NDArray[Any]) -> NDArray[np.float64]:
        """The ratio of each value, ``[N]``."""
        return self.ratios[kind_of(self.scale).cells_of(self.scale, column)]


def _frequencies(report: DriftReport, reference: Profile, current: Profile) -> Iterator[_Frequency]:
    """Of the features that are named and have one value a row."""
    for name in report.named:
        if name in reference.features and name in current.features:
            scale = reference.features[name]
            before, now = (kind_of(scale).cells(side.features[name]) for side in (reference, current))
            if before is not None and now is not None:
                yield _Frequency(name, scale, _ratios(before, now))


def _ratios(before: NDArray[np.int64], now: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithms of the ratio of shares.

    Half a value is added to each cell of the reference, and to the window as many values as there are cells, distributed as in the reference, so
    that a cell that few rows fall into makes no claim.
    """
    expected = (before + 0.5) / (before + 0.5).sum()
    shrunk = (now + len(now) * expected) / (now.sum() + len(now))
    found: NDArray[np.float64] = np.log(shrunk / expected)
    return found


@dataclass(frozen=True)
class _Scored:
    """Rows, scored.

    Attributes:
        features: Names, ``F``.
        columns: Their values, ``[N]`` each.
        ratios: ``[F, N]``.
        scores: ``[N]``.
    """

    features: list[str]
    columns: list[NDArray[Any]]
    ratios: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, frequencies: list[_Frequency], part: Mapping[str, Column]) -> _Scored:
        for one in frequencies:
            if one.feature not in part and not is_optional(one.feature):
                raise ProfileMismatchError(f"no {one.feature!r} among the rows' columns.{did_you_mean(one.feature, part)}")
        there = [one for one in frequencies if one.feature in part]
        columns = [np.asarray(part[one.feature]) for one in there]
        rows = len(columns[0]) if columns else 0
        odd = next((one.feature for one, column in zip(there, columns, strict=True) if len(column) != rows), None)
        if odd is not None:
            raise ProfileMismatchError(f"columns of different lengths: {there[0].feature!r} has {rows} rows, {odd!r} has not")
        ratios = np.zeros((len(there), rows))
        for place, (one, column) in enumerate(zip(there, columns, strict=True)):
            ratios[place] = one.of(column)
        return cls([one.feature for one in there], columns, ratios, ratios.sum(axis=0))

    @property
    def rows(self) -> int:
        return len(self.scores)

    def first(self, count: int) -> list[int]:
        """The places of the highest scores that are above 0, the highest first."""
        order = np.argsort(-self.scores, kind="stable")[:count]
        return [int(place) for place in order if self.scores[place] > 0]

    def row(self, place: int, start: int) -> ShiftedRow:
        order = np.argsort(-self.ratios[:, place], kind="stable")[:_REASONS]
        reasons = tuple(self._reason(feature, place) for feature in order if self.ratios[feature, place] > 0)
        return ShiftedRow(start + place, float(self.scores[place]), reasons)

    def _reason(self, feature: int, place: int) -> str:
        value = self.columns[feature][place]
        shown = f"{value:.4g}" if isinstance(value, (int, float, np.number)) else str(value)
        return f"`{self.features[feature]}` = {shown}: {np.exp(self.ratios[feature, place]):.2g} times as frequent as in the reference"
