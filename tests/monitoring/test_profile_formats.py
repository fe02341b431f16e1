"""Profiles as bytes and as JSON: small, complete, and refused when they are not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.errors import ProfileError, ProfileVersionError
from harness.monitoring.features.counts import CategoricalCounts, FeatureCounts, NumericCounts, VectorCounts
from harness.monitoring.profiles import VERSION, Profile, profile_columns

RNG = np.random.default_rng(0)
COLUMNS = {
    "normal": RNG.standard_normal(20_000),
    "skewed": np.exp(4 * RNG.standard_normal(20_000)),
    "tied": RNG.poisson(5, 20_000).astype(float),
    "broken": np.where(RNG.random(20_000) < 0.1, np.nan, RNG.standard_normal(20_000)),
    "names": np.array([f"a rather long name of level {number}" for number in RNG.zipf(1.3, 20_000) % 900], object),
    "ids": np.array([str(number) for number in RNG.integers(0, 10**9, 20_000)]),
    "vectors": RNG.standard_normal((20_000, 64)).astype(np.float32),
}
PROFILE = profile_columns(COLUMNS, categorical=["ids"])


def as_if_counted(feature: FeatureCounts, times: int) -> FeatureCounts:
    """The feature as if there had been so many times the rows."""
    if isinstance(feature, NumericCounts):
        return replace(feature, counts=feature.counts * times, nan=feature.nan * times)
    if isinstance(feature, CategoricalCounts):
        return replace(feature, counts=feature.counts * times, rest=feature.rest * times, buckets=feature.buckets * times)
    directions = tuple(replace(one, counts=one.counts * times) for one in feature.directions)
    sums, squares = (tuple(number * times for number in numbers) for numbers in (feature.sums, feature.squares))
    return VectorCounts(directions, feature.n * times, feature.projection, sums, squares)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("rows", [20_000, 10**9])
def test_a_feature_takes_two_kilobytes_at_most(name: str, rows: int) -> None:
    feature = as_if_counted(PROFILE.features[name], rows // 20_000)
    assert len(Profile.of(rows, {name: feature}, PROFILE.meta).to_bytes()) <= 2048


def test_bytes_and_json_give_the_profile_back() -> None:
    assert Profile.from_bytes(PROFILE.to_bytes()) == PROFILE
    assert Profile.from_json(PROFILE.to_json()) == PROFILE
    assert Profile.from_json(json.dumps(PROFILE.to_json(), allow_nan=False)) == PROFILE
    assert Profile.from_bytes(PROFILE.to_bytes()).to_bytes() == PROFILE.to_bytes()


def test_profiles_are_equal_when_all_their_counts_are() -> None:
    other = profile_columns({**COLUMNS, "normal": np.append(COLUMNS["normal"][:-1], 9.0)}, PROFILE)
    assert other != PROFILE
    assert other.edges_id == PROFILE.edges_id
    assert hash(profile_columns(COLUMNS, PROFILE)) == hash(PROFILE)


@pytest.mark.parametrize("length", [0, 5, 11, 12, 200, -1])
def test_a_profile_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ProfileError, match=r"not a profile|cut short or damaged") as caught:
        Profile.from_bytes(PROFILE.to_bytes()[:length])
    assert "\n" not in str(caught.value)


def test_a_profile_with_a_wrong_byte_is_refused() -> None:
    content = bytearray(PROFILE.to_bytes())
    content[len(content) // 2] ^= 1
    with pytest.raises(ProfileError, match="damaged"):
        Profile.from_bytes(bytes(content))


def test_a_profile_of_a_newer_version_is_refused() -> None:
    newer = replace(PROFILE, version=VERSION + 1)
    with pytest.raises(ProfileVersionError, match=f"of version {VERSION + 1}, this program reads up to {VERSION}"):
        Profile.from_bytes(newer.to_bytes())
    with pytest.raises(ProfileVersionError, match="update it"):
        Profile.from_json(newer.to_json())


@pytest.mark.parametrize("document", [{}, [], "no JSON", "{}", 3, {"kind": "pytest-modeltiers profile", "version": 1}])
def test_json_that_is_no_profile_is_refused(document: object) -> None:
    with pytest.raises(ProfileError, match=r"not a profile|damaged"):
        Profile.from_json(document)


def test_json_with_too_few_counts_is_refused() -> None:
    document = PROFILE.to_json()
    document["features"]["normal"]["counts"].pop()
    with pytest.raises(ProfileError, match="99 counts between 99 edges"):
        Profile.from_json(document)


def test_some_features_alone_are_compared_with_windows_that_have_no_others() -> None:
    some = PROFILE.only(["normal", "names"])
    assert list(some.features) == ["normal", "names"]
    window = profile_columns({name: COLUMNS[name][:100] for name in some.features}, some)
    assert window.edges_id == some.edges_id != PROFILE.edges_id
