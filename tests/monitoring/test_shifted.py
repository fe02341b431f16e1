"""Rows nearest to the shift: planted ones are found, in whatever parts the window comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.errors import ProfileMismatchError
from harness.monitoring.drift import DriftReport, compare_profiles
from harness.monitoring.drift.location import ShiftedRow, shifted_rows
from harness.monitoring.profiles import Profile, profile_columns

Columns = dict[str, NDArray[Any]]
PLANTED = range(100, 160)


def sound(n: int, seed: int) -> Columns:
    generator = np.random.default_rng(seed)
    return {
        "age": generator.normal(40, 10, n),
        "city": generator.choice(["Rome", "Oslo", "Lima"], n),
        "steady": generator.normal(size=n),
    }


def planted() -> Columns:
    """A window in which some rows are old, and from a new place."""
    rows = sound(600, 1)
    rows["age"][PLANTED] = np.random.default_rng(2).normal(90, 2, len(PLANTED))
    rows["city"] = rows["city"].astype(object)
    rows["city"][PLANTED] = "Accra"
    return rows


def compared(rows: Columns) -> tuple[DriftReport, Profile, Profile]:
    reference = profile_columns(sound(3000, 0))
    current = profile_columns(rows, reference)
    return compare_profiles(reference, current), reference, current


def found_in(rows: Columns, count: int = 10) -> list[ShiftedRow]:
    return shifted_rows(*compared(rows), rows, count)


def test_planted_rows_come_first_with_the_reasons() -> None:
    found = found_in(planted(), len(PLANTED))
    assert {row.index for row in found} == set(PLANTED)
    assert [row.score for row in found] == sorted((row.score for row in found), reverse=True)
    assert any(reason.startswith("`city` = Accra: ") for reason in found[0].reasons)
    assert any(
        reason.startswith("`age` = ") and reason.endswith(" times as frequent as in the reference") for reason in found[0].reasons
    )
    assert not any("steady" in reason for row in found for reason in row.reasons)


@pytest.mark.parametrize("size", [1, 7, 100, 600])
def test_parts_give_what_the_whole_gives(size: int) -> None:
    rows = planted()
    parts = ({name: column[at : at + size] for name, column in rows.items()} for at in range(0, 600, size))
    assert shifted_rows(*compared(rows), parts) == found_in(rows)


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_numbers_that_are_none_are_found(value: float, shown: str) -> None:
    rows = sound(600, 1)
    rows["age"][PLANTED] = value
    found = found_in(rows, len(PLANTED))
    assert {row.index for row in found} == set(PLANTED)
    assert found[0].reasons[0].startswith(f"`age` = {shown}: ")


def test_missing_levels_are_found() -> None:
    rows = sound(600, 1)
    rows["city"] = rows["city"].astype(object)
    rows["city"][PLANTED] = None
    assert {row.index for row in found_in(rows, len(PLANTED))} == set(PLANTED)


def test_without_drift_no_row_is_named() -> None:
    assert found_in(sound(600, 1)) == []


def test_a_level_that_became_rarer_leaves_the_others_to_be_named() -> None:
    rows = sound(900, 1)
    rows["city"] = np.where(rows["city"] == "Oslo", "Rome", rows["city"])
    assert all(rows["city"][row.index] == "Rome" for row in found_in(rows, 900))


def test_a_value_that_was_always_frequent_and_is_more_so_is_found_among_few_rows() -> None:
    generator = np.random.default_rng(4)

    def spent(n: int, share: float) -> Columns:
        return {"spent": np.where(np.arange(n) < share * n, 0.0, generator.exponential(size=n))}

    rows = spent(60, 0.9)
    reference = profile_columns(spent(3000, 0.6))
    current = profile_columns(rows, reference)
    found = shifted_rows(compare_profiles(reference, current), reference, current, rows, 60)
    assert {row.index for row in found} >= set(range(54))


def test_labels_and_outputs_may_be_lacking_and_nothing_else() -> None:
    rows = planted()
    rows["label"] = rows.pop("steady") + 3
    reference = profile_columns({("label" if name == "steady" else name): column for name, column in sound(3000, 0).items()})
    current = profile_columns(rows, reference)
    report = compare_profiles(reference, current)
    without = {name: column for name, column in rows.items() if name != "label"}
    assert "label" in report.named
    assert shifted_rows(report, reference, current, without)[0].index in PLANTED
    with pytest.raises(ProfileMismatchError, match=r"no 'age' among the rows' columns\. Did you mean 'agee'"):
        shifted_rows(report, reference, current, {**{name: rows[name] for name in ("city", "label")}, "agee": rows["age"]})


def test_columns_of_different_lengths_are_refused() -> None:
    rows = planted()
    with pytest.raises(ProfileMismatchError, match="different lengths"):
        shifted_rows(*compared(rows), {**rows, "age": rows["age"][:10]})


def test_no_rows_and_features_without_rows_give_none() -> None:
    rows = planted()
    assert shifted_rows(*compared(rows), {name: column[:0] for name, column in rows.items()}) == []
    assert shifted_rows(*compared(rows), []) == []
    vectors = np.random.default_rng(0).normal(size=(500, 4))
    reference = profile_columns({"embedding": vectors})
    current = profile_columns({"embedding": vectors + 3}, reference)
    assert shifted_rows(compare_profiles(reference, current), reference, current, {"embedding": vectors + 3}) == []
