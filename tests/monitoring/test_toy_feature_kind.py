"""A drift statistic is one function, a feature kind is one class, and each is one line that registers it: the rest follows from that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.evidence import Status
from harness.monitoring import DriftOptions
from harness.monitoring.drift import compare_profiles
from harness.monitoring.drift.listing import plots_of
from harness.monitoring.features import Difference, Effect, FeatureKind, Plot, Resolution, log_coincidence_of, shares_by_label
from harness.monitoring.features.counts import FeatureCounts, NumericCounts
from harness.monitoring.features.kinds import FEATURE_KINDS
from harness.monitoring.features.numeric import Numeric
from harness.monitoring.profile_command import summary_table
from harness.monitoring.profiles import Profile, profile_columns
from harness.monitoring.run import drift_table
from harness.monitoring.statistics import contingency_p_value, cramers_v

SECTORS = 8


@dataclass(frozen=True)
class Angles:
    """Values of a feature that is an angle: complex numbers."""

    values: NDArray[np.complex128]

    kind: ClassVar[str] = "angle"

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


@dataclass(frozen=True, eq=False)
class AngleCounts(FeatureCounts):
    """Angles by sector."""

    counts: NDArray[np.int64]
    undefined: int = 0

    kind: ClassVar[str] = "angle"

    @property
    def n(self) -> int:
        return int(self.counts.sum()) + self.undefined

    @property
    def missing(self) -> int:
        return self.undefined

    def emptied(self) -> AngleCounts:
        return AngleCounts(np.zeros_like(self.counts))

    def merge(self, other: AngleCounts) -> AngleCounts:
        return AngleCounts(self.counts + other.counts, self.undefined + other.undefined)

    def scale(self) -> list[Any]:
        return ["angle", len(self.counts)]

    def to_json(self) -> dict[str, Any]:
        return {"counts": self.counts.tolist(), "undefined": self.undefined}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AngleCounts:
        return cls(np.array(values["counts"], np.int64), int(values["undefined"]))


class Reader:
    """Chooses the scale, which is always the same, and counts."""

    def __init__(self, counts: AngleCounts) -> None:
        self.counts = counts

    def add(self, values: Angles) -> None:
        known = values.values[np.isfinite(values.values)]
        sectors = (np.angle(known) + np.pi) / (2 * np.pi) * SECTORS
        found = np.bincount(sectors.astype(int).clip(max=SECTORS - 1), minlength=SECTORS)
        self.counts = self.counts.merge(AngleCounts(found, len(values.values) - len(known)))

    def scale(self, bins: int) -> AngleCounts:
        return self.counts.emptied()

    def result(self) -> AngleCounts:
        return self.counts


def compare_sectors(feature: str, reference: AngleCounts, current: AngleCounts, options: DriftOptions) -> Iterable[Difference]:
    p = contingency_p_value(reference.counts, current.counts, options.draws)
    effect = Effect("Cramér's V", *cramers_v(reference.counts, current.counts), options.floors.cramers_v)
    yield Difference(feature, "values", "sectors", p, effect, Resolution(lambda alpha, power: 2.0, reference.n, current.n))


class Angle(FeatureKind[AngleCounts]):
    """Angles, counted by sector."""

    counts = AngleCounts
    statistics = (compare_sectors,)

    def accepts(self, array: NDArray[Any]) -> bool:
        return array.dtype.kind == "c"

    def values(self, array: NDArray[Any]) -> Angles:
        return Angles(array)

    def survey(self) -> Reader:
        return Reader(AngleCounts(np.zeros(SECTORS, np.int64)))

    def counter(self, scale: AngleCounts) -> Reader:
        return Reader(scale.emptied())

    def log_coincidence(self, counts: AngleCounts) -> float:
        return log_coincidence_of(counts.counts.astype(np.float64))

    def summary(self, counts: AngleCounts) -> str:
        return f"most often in sector {int(counts.counts.argmax())}"

    def plot(self, reference: AngleCounts, current: AngleCounts, aspect: str) -> Plot:
        return shares_by_label([f"sector {number}" for number in range(SECTORS)], reference.counts, current.counts)


def angles(n: int, seed: int, spread: float) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {"wind": np.exp(1j * rng.normal(0, spread, n)), "age": rng.normal(40, 10, n)}


@pytest.fixture
def angle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURE_KINDS, "angle", Angle())  # the one line


@pytest.mark.usefixtures("angle")
def test_a_feature_kind_is_one_class_and_one_line() -> None:
    reference = profile_columns(angles(2000, 0, 1.0))
    assert [feature.kind for feature in reference.features.values()] == ["angle", "numeric"]
    assert Profile.from_bytes(reference.to_bytes()) == reference
    assert "most often in sector" in summary_table(reference)

    same, shifted = (profile_columns(angles(1000, seed, spread), reference) for seed, spread in ((1, 1.0), (2, 3.0)))
    assert same.merge(shifted).features["wind"].n == 2000
    assert compare_profiles(reference, same).status is Status.OK
    report = compare_profiles(reference, shifted)
    assert (report["wind"].status, report["age"].status) == (Status.FAIL, Status.OK)
    assert report.tests == 2
    assert "wind" in drift_table(report.to_json()["features"])
    [plot] = plots_of(report, reference, shifted)
    assert (plot["feature"], plot["kind"], plot["labels"][0]) == ("wind", "categorical", "sector 0")
    json.dumps(report.to_json())
    assert compare_profiles(reference, reference).same == {"wind", "age"}


def test_a_kind_that_this_program_does_not_have_is_named() -> None:
    reference = profile_columns({"age": np.arange(50.0)})
    document = reference.to_json()
    document["features"]["age"]["kind"] = "angle"
    with pytest.raises(ValueError, match="of kind 'angle'; known kinds are"):
        Profile.from_json(document)


def median_shift(feature: str, reference: NumericCounts, current: NumericCounts, options: DriftOptions) -> Iterable[Difference]:
    """A toy statistic: by how much the share of values above the median of the reference moved."""
    shares = [counts.counts[len(counts.counts) // 2 :].sum() / counts.finite for counts in (reference, current)]
    moved = float(abs(shares[1] - shares[0]))
    p = 1e-9 if moved > 0.1 else 1.0
    resolution = Resolution(lambda alpha, power: 1.0, reference.n, current.n)
    return [Difference(feature, "upper half", "toy", p, Effect("shift of the median", moved, moved, moved, 0.1), resolution)]


def test_a_drift_statistic_is_one_function_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = angles(2000, 0, 1.0), angles(1000, 1, 1.0)
    now["age"] = now["age"] + 10
    columns = [{"age": rows["age"]} for rows in (before, now)]
    reference = profile_columns(columns[0])
    window = profile_columns(columns[1], reference)
    without = compare_profiles(reference, window)
    monkeypatch.setattr(Numeric, "statistics", (*Numeric.statistics, median_shift))  # the one line
    report = compare_profiles(reference, window)
    assert report.tests == without.tests + 1  # corrected together with the others
    found = next(verdict for verdict in report["age"].verdicts if verdict.difference.test == "toy")
    assert (found.status, found.difference.aspect) == (Status.FAIL, "upper half")
    assert "upper half of `age` have drifted: shift of the median = " in report["age"].message
    harmless = replace(window, features={"age": reference.features["age"]})
    assert compare_profiles(reference, harmless).status is Status.OK
