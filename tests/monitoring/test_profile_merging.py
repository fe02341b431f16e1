"""The profiles of any split of the rows add up to the profile of the whole, exactly."""

from __future__ import annotations

import itertools
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.errors import ProfileMismatchError
from harness.monitoring.features.kinds import FEATURE_KINDS
from harness.monitoring.features.values import Ids, Vectors
from harness.monitoring.profiles import Profile, profile_columns

ROWS = 300
NUMBERS = arrays(np.float64, ROWS, elements=st.floats(width=32) | st.sampled_from([0.0, 1.0, 1e300, float("nan")]))
NAMES = st.lists(st.sampled_from(["a", "b", "c", None, "", "d" * 80]) | st.text(max_size=3), min_size=ROWS, max_size=ROWS)
VECTORS = arrays(np.float32, (ROWS, 5), elements=st.floats(width=32))
CUTS = st.lists(st.integers(0, ROWS), max_size=6).map(lambda cuts: [0, *sorted(cuts), ROWS])


def table(numbers: np.ndarray, names: list[Any], vectors: np.ndarray) -> dict[str, np.ndarray]:
    return {"number": numbers, "name": np.array(names, object), "vector": vectors}


def parts_of(columns: dict[str, np.ndarray], cuts: list[int]) -> list[dict[str, np.ndarray]]:
    return [{name: column[a:b] for name, column in columns.items()} for a, b in itertools.pairwise(cuts)]


@settings(deadline=None, max_examples=40)
@given(NUMBERS, NAMES, VECTORS, CUTS)
def test_windows_of_a_table_add_up(numbers: np.ndarray, names: list[Any], vectors: np.ndarray, cuts: list[int]) -> None:
    columns = table(numbers, names, vectors)
    reference = profile_columns({name: column[:150] for name, column in columns.items()}, categorical=["name"])
    windows = [profile_columns(part, reference) for part in parts_of(columns, cuts)]
    whole = profile_columns(columns, reference)
    assert reduce(Profile.merge, windows) == whole
    assert reduce(Profile.merge, reversed(windows)) == whole
    assert whole.n == ROWS


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(-1, 400), max_size=12), min_size=1, max_size=30), st.data())
def test_windows_of_texts_add_up(texts: list[list[int]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(texts)))
    survey = FEATURE_KINDS["categorical"].survey()
    survey.add(ids_of(texts))
    scale = survey.scale(100)
    whole, left, right = (FEATURE_KINDS["categorical"].counter(scale) for _ in range(3))
    whole.add(ids_of(texts))
    left.add(ids_of(texts[:cut]))
    right.add(ids_of(texts[cut:]))
    profiles = [Profile.of(1, {"tokens": counter.result()}, {}) for counter in (left, right, whole)]
    merged = profiles[0].merge(profiles[1])
    assert merged.features["tokens"].merge(scale).clusters == profiles[2].features["tokens"].clusters
    assert Profile.of(1, merged.features, {}) == profiles[2]


def ids_of(texts: list[list[int]]) -> Ids:
    ids = np.array([id for text in texts for id in text], np.int64)
    return Ids(ids, 300, np.repeat(np.arange(len(texts)), [len(text) for text in texts]))


def test_moments_of_vectors_are_whole_numbers_that_no_order_changes() -> None:
    vectors = np.random.default_rng(0).standard_normal((70_000, 48)).astype(np.float32) * 1e-3
    survey = FEATURE_KINDS["vector"].survey()
    survey.add(Vectors(vectors))
    one_by_one, at_once = (FEATURE_KINDS["vector"].counter(survey.scale(100)) for _ in range(2))
    at_once.add(Vectors(vectors))
    for row in vectors[:200]:
        one_by_one.add(Vectors(row[None]))
    one_by_one.add(Vectors(vectors[200:]))
    assert one_by_one.result().sums == at_once.result().sums
    assert one_by_one.result().squares == at_once.result().squares
    unit = 2.0 ** -at_once.result().projection.exponent
    variance = np.array(at_once.result().squares, float) * unit**2 / len(vectors)
    assert variance == pytest.approx(np.full(8, 48e-6), rel=0.05)


def test_profiles_on_the_edges_of_different_references_are_not_merged() -> None:
    rng = np.random.default_rng(0)
    one, other = (profile_columns({"x": rng.standard_normal(100)}) for _ in range(2))
    with pytest.raises(ProfileMismatchError, match="edges of different references"):
        one.merge(other)
    with pytest.raises(ProfileMismatchError, match="only one of them has 'x'"):
        one.merge(profile_columns({"y": np.arange(9.0)}))


def test_a_profile_of_no_rows_changes_nothing() -> None:
    reference = profile_columns({"x": np.arange(50.0), "k": np.array(list("abcde") * 10)})
    assert reference.merge(reference.emptied()) == reference
    assert reference.emptied().n == 0
