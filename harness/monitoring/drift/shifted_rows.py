"""Examples of drift: the rows of a window that are nearest to what has become more frequent.

A profile is enough to tell them, as long as the window's rows are at hand.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ProfileMismatchError, did_you_mean
from harness.monitoring.drift import DriftReport
from harness.monitoring.features.counts import FeatureCounts
from harness.monitoring.features.kinds import Column, kind_of
from harness.monitoring.profiles import Profile, is_optional

_REASONS = 3


@dataclass(frozen=True)
class ShiftedRow:
    """A row whose values have become more frequent.

    Attributes:
        index: Which row of the window, from 0.
        score: Sum over the features that drifted of ``log(share now / share in the reference)`` of the row's values.
        reasons: The values that make most of it, such as ```age` = 71: 4.2 times as frequent as in the reference``.
    """

    index: int
    score: float
    reasons: tuple[str, ...]


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
    start = 0
    for part in parts if frequencies else ():
        scored = _Scored.of(frequencies, part)
        found = (scored.row(place, start) for place in scored.first(count))
        best = heapq.nlargest(count, [*best, *found], key=lambda row: row.score)
        start += scored.rows
    return best


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
