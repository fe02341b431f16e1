"""Windows that are empty, broken, or of something else than their reference."""

from __future__ import annotations

import re

import numpy as np
import pytest
from drift_samples import KINDS, columns, reference_profile, text_profile, texts, window_profile

from harness.errors import ProfileMismatchError, ProfileVersionError, UserError
from harness.evidence import Status
from harness.monitoring import DriftOptions, Floors
from harness.monitoring.drift import compare_profiles
from harness.monitoring.profiles import VERSION, Profile, profile_columns


@pytest.fixture(scope="module")
def reference() -> Profile:
    return reference_profile()


def test_an_empty_window_cannot_be_judged(reference: Profile) -> None:
    report = compare_profiles(reference, reference.emptied())
    assert (report.status, report.tests) == (Status.WARN, 0)
    assert report.message == "cannot tell: the window is empty (0 rows against 5,000, 0 tests)"
    assert report["normal"].message == "`normal`: cannot tell: the window has no values; n = 0 against 5,000"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_window_of_a_few_rows_cannot_be_judged(reference: Profile, n: int) -> None:
    report = compare_profiles(reference, window_profile(reference, n, 0))
    assert report.status is Status.OK
    assert "cannot tell about" in report.message
    assert compare_profiles(reference, window_profile(reference, n, 0), DriftOptions(min_power=0.5)).status is Status.WARN
    assert report.message.endswith(f"({n} row{'s' if n > 1 else ''} against 5,000, {report.tests} tests)")


def test_a_reference_without_values_cannot_be_compared_with() -> None:
    reference = profile_columns({"x": np.full(100, np.nan), "y": np.arange(100.0)})
    report = compare_profiles(reference, profile_columns({"x": np.arange(500.0) % 100, "y": np.arange(500.0) % 100}, reference))
    assert any("the reference has no values" in verdict.message for verdict in report["x"].verdicts)
    assert report["x"].status is Status.FAIL, "that none is missing any more is itself a change"


def test_nan_and_infinities_are_a_feature_of_their_own(reference: Profile) -> None:
    rows = columns(np.random.default_rng(0), 2_000)
    rows["normal"][:400] = np.nan
    rows["skewed"][:500:2], rows["skewed"][1:500:2] = np.inf, -np.inf
    report = compare_profiles(reference, profile_columns(rows, reference))
    assert {*report.names(Status.FAIL)} == {"normal", "skewed"}
    assert report["normal"].message.startswith("missing values of `normal` have drifted")
    assert "NaN went from 0.0% to 20.0%" in report["normal"].message
    values = {verdict.difference.aspect: verdict for verdict in report["normal"].verdicts}["values"]
    assert values.difference.current_n == 1_600
    assert values.status is Status.OK


def test_levels_that_the_reference_never_had_are_told(reference: Profile) -> None:
    report = compare_profiles(reference, window_profile(reference, 2_000, 2, new_levels=0.3))
    assert "new levels of `new_levels` have drifted" in report["new_levels"].message
    assert re.search(r"values are levels that the reference does not have \('.*\), 0.0% expected", report["new_levels"].message)


def test_a_constant_feature_is_alike_until_it_is_not(reference: Profile) -> None:
    still = compare_profiles(reference, window_profile(reference, 2_000, 2))
    assert still["constant"].message == "no drift found in `constant`: all values are alike; n = 2,000 against 5,000"
    for value in (0.999, 1.001, 1e30):
        rows = columns(np.random.default_rng(0), 2_000) | {"constant": np.full(2_000, value)}
        report = compare_profiles(reference, profile_columns(rows, reference))
        assert report.names(Status.FAIL) == ["constant"]


def test_a_window_without_a_feature_of_the_inputs_is_refused(reference: Profile) -> None:
    window = window_profile(reference, 500, 0)
    with pytest.raises(ProfileMismatchError, match="the window has no feature 'tied', which its reference has"):
        compare_profiles(reference, window.only({*KINDS} - {"tied"}))
    with pytest.raises(ProfileMismatchError, match="only one of them has 'tied'"):
        compare_profiles(reference.only({*KINDS} - {"tied"}), window)


def test_labels_and_outputs_may_lack_and_that_is_said() -> None:
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=1_000), "label": rng.integers(0, 3, 1_000), "output.confidence": rng.random(1_000)}
    reference = profile_columns(rows)
    report = compare_profiles(reference, reference.only(["x"]))
    assert report.not_compared == ("label", "output.confidence")
    assert "not compared: `label`, `output.confidence`, which the window does not have" in report.message
    assert compare_profiles(reference, reference).not_compared == ()


def test_edges_of_another_reference_are_refused() -> None:
    rng = np.random.default_rng(0)
    one, other = (profile_columns({"x": rng.normal(size=500)}) for _ in range(2))
    with pytest.raises(ProfileMismatchError, match="different references"):
        compare_profiles(one, other)


@pytest.mark.parametrize(("key", "value"), [("vocab_size", 7), ("modality", "image"), ("tokenizer", "other")])
def test_another_vocabulary_modality_or_tokenizer_is_refused(key: str, value: object) -> None:
    profile = text_profile(texts(np.random.default_rng(0), 50, 0.0))
    other = Profile.of(profile.n, profile.features, {**profile.meta, key: value})
    with pytest.raises(ProfileMismatchError, match=f"`{key}` is .* and {value!r}"):
        compare_profiles(profile, other)


def test_a_profile_of_a_newer_version_is_refused(reference: Profile) -> None:
    with pytest.raises(ProfileVersionError):
        Profile.from_json({**reference.to_json(), "version": VERSION + 1})


def test_every_refusal_is_a_mistake_of_the_users() -> None:
    assert issubclass(ProfileMismatchError, UserError)
    assert issubclass(ProfileVersionError, UserError)


@pytest.mark.parametrize("floors", [{"ks": 1.5}, {"cramers_v": -0.1}])
def test_floors_that_make_no_sense_are_refused(floors: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="floor"):
        Floors(**floors)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"min_power": 1.0}, {"min_power": -0.1}])
def test_probabilities_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DriftOptions(**wrong)  # type: ignore[arg-type]
