"""What the drift gate says of windows with and without drift, of every kind of data."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from drift_samples import KINDS, WORDS, columns, reference_profile, text_profile, texts, window_profile

from harness.errors import ProfileMismatchError
from harness.evidence import Status
from harness.monitoring import DriftOptions, FeatureFloor, Floors
from harness.monitoring.drift import SAME, compare_profiles, judge_differences
from harness.monitoring.drift.verdict import DriftFinding
from harness.monitoring.features.counts import CategoricalCounts
from harness.monitoring.profiles import Profile, profile_columns

QUIET = (2, 3, 4)
"""Seeds of windows without drift; some other one in twenty would warn, and is meant to."""


@pytest.fixture(scope="module")
def reference() -> Profile:
    return reference_profile()


@pytest.mark.parametrize("seed", QUIET)
@pytest.mark.parametrize("n", [1_000, 2_000])
def test_a_window_without_drift_is_ok(reference: Profile, n: int, seed: int) -> None:
    report = compare_profiles(reference, window_profile(reference, n, seed))
    assert report.status is Status.OK, report.message
    assert report.message.startswith("no drift found")
    assert report.named == []


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"skewed"}))
def test_a_feature_that_drifts_fails_and_is_named(reference: Profile, kind: str) -> None:
    report = compare_profiles(reference, window_profile(reference, 2_000, QUIET[0], **{kind: 0.5}))
    assert report.names(Status.FAIL) == [kind]
    assert report.features[0].feature == kind
    assert kind in report.named
    assert f"`{kind}` drifted" in report.message
    assert f"`{kind}`" in report[kind].message


def test_a_shift_of_a_skewed_feature_is_seen_by_its_ranks(reference: Profile) -> None:
    report = compare_profiles(reference, window_profile(reference, 2_000, QUIET[0], skewed=1.0))
    assert report.names(Status.FAIL) == ["skewed"]


def test_texts_without_drift_are_ok_though_their_tokens_hang_together() -> None:
    rng = np.random.default_rng(0)
    reference = text_profile(texts(rng, 1_000, 0.0))
    for _ in range(3):
        report = compare_profiles(reference, text_profile(texts(rng, 300, 0.0), reference))
        assert report.status is Status.OK, report.message


def test_texts_on_another_topic_fail() -> None:
    rng = np.random.default_rng(0)
    reference = text_profile(texts(rng, 1_000, 0.0))
    report = compare_profiles(reference, text_profile(texts(rng, 300, 0.9), reference))
    assert report.names(Status.FAIL) == ["tokens"]
    assert " values, several a row" in report["tokens"].message
    assert " went from " in report["tokens"].message


def test_tokens_taken_for_independent_would_cry_wolf() -> None:
    """What the design effects are for."""
    rng = np.random.default_rng(0)
    reference = text_profile(texts(rng, 1_000, 0.0))
    alarms = 0
    for _ in range(10):
        window = text_profile(texts(rng, 300, 0.0), reference)
        loose = [without_clusters(profile) for profile in (reference, window)]
        alarms += compare_profiles(*loose).status is not Status.OK
    assert alarms >= 5


def without_clusters(profile: Profile) -> Profile:
    tokens = profile.features["tokens"]
    assert isinstance(tokens, CategoricalCounts)
    return Profile.of(profile.n, {"tokens": replace(tokens, clusters=None)}, profile.meta)


def test_a_small_drift_of_a_huge_window_warns_that_it_may_not_matter() -> None:
    rng = np.random.default_rng(0)
    reference = profile_columns({"x": rng.normal(size=50_000), "y": rng.normal(size=50_000)})
    window = profile_columns({"x": rng.normal(0.05, 1, 200_000), "y": rng.normal(size=200_000)}, reference)
    report = compare_profiles(reference, window)
    verdict = report["x"].verdicts[0]
    assert (report.status, verdict.finding) == (Status.WARN, DriftFinding.CHANGED)
    assert verdict.p_adjusted < 1e-6
    assert report["x"].message.startswith("`x` has changed, but by less than is allowed: the share below ")
    assert "; KS D = 0.02" in report["x"].message
    assert report.message.startswith("`x` changed, which may not matter")


def test_a_large_effect_in_a_tiny_window_says_that_nobody_can_tell_and_warns_where_power_is_asked_for() -> None:
    rng = np.random.default_rng(3)
    reference = profile_columns({"x": rng.normal(size=5_000)})
    window = profile_columns({"x": rng.normal(0.3, 1, 12)}, reference)
    report = compare_profiles(reference, window)
    verdict = report["x"].verdicts[0]
    assert verdict.difference.effect.value > 0.1
    assert (report.status, verdict.finding) == (Status.OK, DriftFinding.CANNOT_TELL)
    asked = compare_profiles(reference, window, DriftOptions(min_power=0.8))
    assert asked.status is Status.WARN
    assert "with a power below 0.8 (`min_power`)" in asked.message
    assert verdict.needed is not None
    assert report["x"].code == ""  # a code says why something fails or warns
    assert "cannot tell about `x`: " in report.message
    assert f"needs {verdict.needed:,} rows or more" in report.message
    assert report.to_json()["cannot_tell"] == ["x"]


def test_as_many_rows_as_were_asked_for_see_drift_at_the_floor() -> None:
    rng = np.random.default_rng(0)
    reference = profile_columns({"x": rng.normal(size=20_000)})
    tiny = compare_profiles(reference, profile_columns({"x": rng.normal(size=20)}, reference))
    needed = tiny["x"].verdicts[0].needed
    assert needed is not None
    move = 0.2507  # standard deviations that part two normal distributions by D = 0.1
    seen = [
        compare_profiles(reference, profile_columns({"x": rng.normal(move, 1, needed)}, reference))["x"]
        .verdicts[0]
        .is_significant
        for _ in range(100)
    ]
    assert np.mean(seen) >= 0.7


def test_a_reference_that_is_too_small_is_said_to_be() -> None:
    rng = np.random.default_rng(0)
    reference = profile_columns({"x": rng.normal(size=30)})
    report = compare_profiles(reference, profile_columns({"x": rng.normal(size=100_000)}, reference))
    assert report.status is Status.OK
    assert "the reference is too small" in report.message


def test_asking_for_no_power_silences_what_cannot_be_told() -> None:
    rng = np.random.default_rng(0)
    reference = profile_columns({"x": rng.normal(size=500)})
    window = profile_columns({"x": rng.normal(size=20)}, reference)
    assert compare_profiles(reference, window).blind
    report = compare_profiles(reference, window, DriftOptions(min_power=0.0))
    assert report.blind == ()
    assert report["x"].verdicts[0].finding is DriftFinding.UNPROVEN, (
        "the effect alone is above its floor, as one of 20 rows is by chance"
    )


def test_the_floors_decide_what_matters(reference: Profile) -> None:
    window = window_profile(reference, 2_000, QUIET[0], normal=0.3)
    assert compare_profiles(reference, window).names(Status.FAIL) == ["normal"]
    lenient = compare_profiles(reference, window, DriftOptions(floors=Floors(ks=0.5)))
    assert lenient.names(Status.FAIL) == []
    assert "normal" in lenient.names(Status.WARN)


def test_a_strict_alpha_lets_pass_what_a_loose_one_does_not() -> None:
    rng = np.random.default_rng(1)
    reference = profile_columns({"x": rng.normal(size=400)})
    window = profile_columns({"x": rng.normal(0.3, 1, 200)}, reference)
    assert compare_profiles(reference, window, DriftOptions(alpha=0.05)).status is Status.FAIL
    assert compare_profiles(reference, window, DriftOptions(alpha=1e-9)).status is not Status.FAIL


def test_merged_windows_give_the_verdict_on_all_of_their_rows(reference: Profile) -> None:
    rows = columns(np.random.default_rng(9), 1_200, normal=0.3, pair=0.2)
    whole = profile_columns(rows, reference)
    parts = [profile_columns({name: part[start::3] for name, part in rows.items()}, reference) for start in range(3)]
    merged = reduce(Profile.merge, parts)
    assert compare_profiles(reference, merged).to_json() == compare_profiles(reference, whole).to_json()


def test_the_same_comparison_says_the_same_every_time(reference: Profile) -> None:
    window = window_profile(reference, 300, 1, levels1000=0.3)
    assert compare_profiles(reference, window).to_json() == compare_profiles(reference, window).to_json()


def test_a_sentence_names_feature_effect_interval_p_and_what_was_detectable() -> None:
    rng = np.random.default_rng(0)
    reference = profile_columns({"age": rng.normal(40, 10, 5_000), "sex": np.where(rng.random(5_000) < 0.5, "f", "m")})
    window = profile_columns({"age": rng.normal(44, 10, 1_000), "sex": np.where(rng.random(1_000) < 0.8, "f", "m")}, reference)
    report = compare_profiles(reference, window)
    assert report["age"].message == (
        "`age` has drifted: the share below 41.87 went from 57.9% to 42.2%, as if every value were 3.75 more; "
        "KS D = 0.157 (allowed below 0.1; 95% interval 0.11 to 0.204), p < 0.0001 adjusted for 2 tests; n = 1,000 against 5,000"
    )
    assert report["sex"].message == (
        "`sex` has drifted: 'm' went from 50.2% to 21.5%; Cramér's V = 0.299 (allowed below 0.15; 95% interval 0.265 to 0.333), "
        "p < 0.0001 adjusted for 2 tests; n = 1,000 against 5,000"
    )


def test_the_report_as_json(reference: Profile) -> None:
    report = compare_profiles(reference, window_profile(reference, 2_000, QUIET[0], gaps=0.5))
    document = report.to_json()
    assert (document["status"], document["drifted"], document["named"]) == ("fail", ["gaps"], ["gaps"])
    aspects = [difference["aspect"] for difference in document["features"][0]["differences"]]
    assert aspects == ["missing values", "values"]
    assert sum(one["contribution"] for one in document["features"]) == pytest.approx(1.0)


def test_features_are_ranked_by_what_they_contribute(reference: Profile) -> None:
    report = compare_profiles(reference, window_profile(reference, 2_000, 3, normal=1.0, tied=0.4, pair=0.25))
    assert [one.feature for one in report.features[:3]] == ["normal", "tied", "pair"]
    contributions = [one.contribution for one in report.features]
    assert contributions == sorted(contributions, reverse=True)


def test_a_feature_fails_by_its_p_among_all_tests() -> None:
    rng = np.random.default_rng(4)
    reference = profile_columns({"x": rng.normal(size=500)})
    window = profile_columns({"x": rng.normal(0.2, 1, 300)}, reference)
    alone = compare_profiles(reference, window)
    difference = alone["x"].verdicts[0].difference
    assert 0.0005 < difference.p < 0.05
    others = [replace(difference, feature=f"other{k}", p=1.0) for k in range(99)]
    among = judge_differences([difference, *others], DriftOptions(), reference_n=500, current_n=300)
    assert (alone.status, alone["x"].status) == (Status.FAIL, Status.FAIL)
    assert among["x"].verdicts[0].p_adjusted == pytest.approx(min(1.0, 100 * difference.p))
    assert among["x"].status is not Status.FAIL


def test_samples_have_a_column_of_each_kind() -> None:
    assert {*WORDS} <= {*KINDS}


def test_a_window_that_is_the_reference_has_no_drift_in_any_feature_however_few_its_rows() -> None:
    rng = np.random.default_rng(0)
    columns = {
        "x": rng.normal(size=60),
        "rare": np.array([f"id-{n}" for n in range(60)]),
        "one": np.ones(60),
        "k": rng.choice(list("ab"), 60),
    }
    reference = profile_columns(columns)
    report = compare_profiles(reference, profile_columns(columns, reference))
    assert (report.status, report.blind) == (Status.OK, ())
    assert report.same == frozenset(columns)
    assert report.message.startswith(SAME)
    for name in columns:
        assert report[name].message.startswith(f"`{name}`: no drift: the values are those of the reference")
    assert report.to_json()["is_same_data"]
    shuffled = rng.permutation(60)
    again = profile_columns({name: values[shuffled] for name, values in columns.items()}, reference)
    assert compare_profiles(reference, again).same == frozenset(columns)


def test_texts_that_are_the_references_own_have_no_drift() -> None:
    rng = np.random.default_rng(0)
    rows = texts(rng, 40, 0.0)
    reference = text_profile(rows)
    assert compare_profiles(reference, text_profile(rows, reference)).same == frozenset({"tokens"})
    assert compare_profiles(reference, text_profile(texts(rng, 40, 0.0), reference)).same == frozenset()


@pytest.mark.parametrize("rows", [1, 5])
def test_few_rows_that_happen_to_have_the_same_counts_are_not_taken_for_the_reference(rows: int) -> None:
    values = {"k": np.array(["a"] * rows)}
    reference = profile_columns(values)
    report = compare_profiles(reference, profile_columns(values, reference))
    assert report.same == frozenset()
    assert "cannot tell" in report.message


def test_one_row_of_another_value_is_another_window() -> None:
    values = np.random.default_rng(0).normal(size=60)
    reference = profile_columns({"x": values})
    report = compare_profiles(reference, profile_columns({"x": np.r_[values[1:], 9.0]}, reference))
    assert report.same == frozenset()
    assert report.names(Status.OK) == ["x"]
    assert report.blind


def test_a_model_that_answers_otherwise_on_the_same_rows_is_compared() -> None:
    rng = np.random.default_rng(0)
    x, said = rng.normal(size=2000), rng.normal(size=2000)
    reference = profile_columns({"x": x, "output.score": said})
    report = compare_profiles(reference, profile_columns({"x": x, "output.score": said + 1}, reference))
    assert report.same == {"x"}
    assert report.names(Status.FAIL) == ["output.score"]


def test_windows_that_share_alpha_need_more_each_and_warn_of_what_one_window_alone_would_fail_for(reference: Profile) -> None:
    """The rates over years of nights are in `benchmarks/README.md`."""
    small = window_profile(reference, 150, QUIET[0], normal=0.4)
    alone, of_year = (compare_profiles(reference, small, DriftOptions(windows=windows)) for windows in (1, 365))
    of_one, of_many = (report["normal"].verdicts[0] for report in (alone, of_year))
    assert (of_one.finding, of_many.finding) == (DriftFinding.DRIFTED, DriftFinding.UNPROVEN)
    assert of_many.p_adjusted == pytest.approx(365 * of_one.p_adjusted)
    assert of_many.p_alone == of_one.p_adjusted
    assert f"adjusted for {alone.tests} tests and 365 windows; p = " in of_many.message
    assert "for this window alone" in of_many.message
    assert (of_many.needed or 0) > (of_one.needed or 0)
    large = compare_profiles(
        reference, window_profile(reference, 2_000, QUIET[0], normal=0.5, levels1000=0.5), DriftOptions(windows=365)
    )
    assert {*large.names(Status.FAIL)} == {"normal", "levels1000"}
    with pytest.raises(ValueError, match="alpha is shared by one window at least, got 0"):
        DriftOptions(windows=0)


def test_floors_of_single_features_are_in_units_that_people_have(reference: Profile) -> None:
    window = window_profile(reference, 2_000, QUIET[0], normal=0.3, pair=0.12)
    usual = compare_profiles(reference, window)
    assert (usual["normal"].status, usual["pair"].status) == (Status.FAIL, Status.WARN)
    own = Floors(features={"normal": FeatureFloor(deviations=0.5), "pair": FeatureFloor(share=0.05)})
    found = compare_profiles(reference, window, DriftOptions(floors=own))
    assert (found["normal"].status, found["pair"].status) == (Status.WARN, Status.FAIL)
    assert found["normal"].verdicts[0].difference.effect.floor == pytest.approx(0.1974, abs=1e-4)
    assert found["wider"].verdicts[0].difference.effect.floor == 0.1
    with pytest.raises(
        ProfileMismatchError, match=r"`drift_floors`: the reference has no feature 'norml'\. Did you mean 'normal'\?"
    ):
        compare_profiles(reference, window, DriftOptions(floors=Floors(features={"norml": FeatureFloor(share=0.1)})))
    for floor in ({}, {"share": 0.1, "deviations": 1.0}):
        with pytest.raises(ValueError, match="give one of them"):
            FeatureFloor(**floor)
