"""The same rows give the same profile, whatever they come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch

from harness.errors import DataError, ProfileError, ProfileMismatchError
from harness.monitoring.features.counts import CategoricalCounts
from harness.monitoring.profiles import Profile, compute_dataset_profile, profile_columns

RNG = np.random.default_rng(0)
ROWS = 3000
COLUMNS: dict[str, np.ndarray] = {
    "amount": np.where(RNG.random(ROWS) < 0.05, np.nan, np.exp(RNG.standard_normal(ROWS))),
    "visits": RNG.integers(0, 400, ROWS),
    "code": RNG.integers(0, 5, ROWS),
    "city": np.array([None, "Ulm", "Köln", "Bonn"], object)[RNG.integers(0, 4, ROWS)],
}
REFERENCE = profile_columns(COLUMNS)
TABLE = pa.table({name: pa.array(column, from_pandas=True) for name, column in COLUMNS.items()})


class Frame:
    """As much of a data frame as is needed of one."""

    columns = tuple(COLUMNS)

    def __getitem__(self, name: str) -> Any:
        return list(COLUMNS[name])


def parquet(folder: Path) -> Path:
    pyarrow.parquet.write_table(TABLE, folder / "rows.parquet", row_group_size=700)
    return folder / "rows.parquet"


def feather(folder: Path) -> Path:
    pyarrow.feather.write_feather(TABLE, folder / "rows.feather")
    return folder / "rows.feather"


def stream(folder: Path) -> Path:
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=500)
    return folder / "rows.arrow"


def csv(folder: Path) -> Path:
    pyarrow.csv.write_csv(TABLE, folder / "rows.csv")
    return folder / "rows.csv"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "data frame": lambda _: Frame(),
    "parts": lambda _: [{name: column[a : a + 777] for name, column in COLUMNS.items()} for a in range(0, ROWS, 777)],
    "tensors": lambda _: {
        name: column if column.dtype == object else torch.from_numpy(column) for name, column in COLUMNS.items()
    },
    "Arrow table": lambda _: TABLE,
    "Arrow batches": lambda _: TABLE.to_batches(max_chunksize=400),
    "Arrow reader": lambda _: pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches(max_chunksize=400)),
    "Arrow dictionary": lambda _: TABLE.set_column(3, "city", TABLE["city"].dictionary_encode()),
    "Arrow dataset": lambda folder: pyarrow.dataset.dataset(parquet(folder)),
    "Parquet file": parquet,
    "Feather file": feather,
    "Arrow stream file": stream,
    "CSV file": csv,
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_window_is_the_same_from(source: str, tmp_path: Path) -> None:
    assert compute_dataset_profile(SOURCES[source](tmp_path), reference=REFERENCE) == REFERENCE


@pytest.mark.parametrize("source", SOURCES)
def test_a_reference_is_the_same_from(source: str, tmp_path: Path) -> None:
    found = compute_dataset_profile(SOURCES[source](tmp_path))
    assert {name: feature.kind for name, feature in found.features.items()} == {
        name: feature.kind for name, feature in REFERENCE.features.items()
    }
    assert found.edges_id == REFERENCE.edges_id
    assert Profile.of(found.n, found.features, REFERENCE.meta) == REFERENCE


def test_vectors_come_from_arrow_too() -> None:
    vectors = RNG.standard_normal((100, 4))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    reference = profile_columns({"v": vectors})
    assert compute_dataset_profile(pa.table({"v": column}), reference=reference) == reference
    missing = pa.array([[1.0, 2.0, 3.0, 4.0], None, [0.0] * 4], pa.list_(pa.float64(), 4))
    window = compute_dataset_profile(pa.table({"v": missing}).slice(1), reference=reference)
    assert (window.n, window.features["v"].missing) == (2, 1)


def test_nested_columns_and_unknown_ones_are_left_out() -> None:
    table = TABLE.append_column("nested", pa.array([{"a": 1}] * ROWS)).append_column("new", pa.array(np.arange(ROWS)))
    assert compute_dataset_profile(table, reference=REFERENCE) == REFERENCE


def test_decimals_dates_and_truth_values_come_from_arrow() -> None:
    table = pa.table(
        {
            "price": pa.array([1, 2, None], pa.decimal128(8, 2)),
            "day": pa.array([1, 2, None], pa.date32()),
            "when": pa.array([1, 2, None], pa.timestamp("ms")),
            "clock": pa.array([1, 2, None], pa.time64("us")),
            "open": pa.array([True, None, False]),
            "nothing": pa.nulls(3),
        }
    )
    found = compute_dataset_profile(table)
    assert {name: (feature.kind, feature.missing) for name, feature in found.features.items()} == {
        "price": ("numeric", 1),
        "day": ("numeric", 1),
        "when": ("numeric", 1),
        "clock": ("numeric", 1),
        "open": ("categorical", 1),
        "nothing": ("numeric", 3),
    }


def test_csv_keeps_texts_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("code;size\n007;1.5\nx;\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("code;size\n007;big\n7;2\n", encoding="utf-8")
    reference = compute_dataset_profile(tmp_path / "a.csv")
    window = compute_dataset_profile(tmp_path / "b.csv", reference=reference)
    assert reference.features["code"].levels == ("007", "x")
    assert window.features["code"].unseen == 1
    assert (window.features["size"].finite, window.features["size"].nan) == (1, 1)


def test_a_missing_column_is_named() -> None:
    renamed = {("Amount" if name == "amount" else name): column for name, column in COLUMNS.items()}
    with pytest.raises(ProfileMismatchError, match=r"no 'amount', which the reference has\. Did you mean 'Amount'\?"):
        compute_dataset_profile(renamed, reference=REFERENCE)


def test_a_window_may_lack_the_label() -> None:
    reference = profile_columns({**COLUMNS, "label": COLUMNS["code"]})
    window = compute_dataset_profile(COLUMNS, reference=reference)
    assert list(window.features) == list(COLUMNS)
    assert reference.only(window.features).edges_id == window.edges_id


def test_vectors_of_another_width_are_refused() -> None:
    reference = profile_columns({"v": np.ones((9, 4))})
    with pytest.raises(ProfileMismatchError, match="vectors of 5 numbers, the reference's have 4"):
        profile_columns({"v": np.ones((9, 5))}, reference)
    with pytest.raises(ProfileError, match=r"column 'v' has shape \[9\]: a vector column has two axes"):
        profile_columns({"v": np.ones(9)}, reference)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ProfileError, match="different lengths: 'a' has 3 rows, 'b' has 4"):
        profile_columns({"a": np.arange(3.0), "b": np.arange(4.0)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "a int cannot be profiled"),
        (np.zeros((3, 3)), "a ndarray cannot be profiled"),
        ({"a": 3.0}, "column 'a' is a single value"),
        ([{"a": 1, "b": 2}], "column 'a' is a single value"),
        ({}, "no rows"),
    ],
)
def test_what_is_no_table_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        compute_dataset_profile(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.parquet", b"PAR1 no", "cannot be read after row 0"),
        ("rows.feather", b"nothing", "cannot be read after row 0"),
        ("rows.csv", b"a,b\n1\n", "rows.csv:2: 1 cells, the header has 2"),
        ("rows.xlsx", b"", r"no reader for '\.xlsx'\..*\.csv"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        compute_dataset_profile(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no such file .*row\.csv\. Did you mean 'rows\.csv'\?"):
        compute_dataset_profile(tmp_path / "row.csv")


def test_a_bad_number_of_bins_is_refused() -> None:
    with pytest.raises(ProfileError, match="`bins` must be 2 to 160, got 1"):
        compute_dataset_profile(COLUMNS, bins=1)


NOTES = np.array([f"order {number} für Köln" if number % 3 else f"заказ {number}" for number in range(400)], object)
WHEN = np.datetime64("2026-03-01T08:00") + np.arange(400) * np.timedelta64(7, "m")
MIXED = pa.table({"note": NOTES, "when": pa.array(WHEN.astype("M8[us]")), "day": pa.array(WHEN.astype("M8[D]"))})


def texts_of(profile: Profile) -> dict[str, Any]:
    return {name: feature.to_json() for name, feature in profile.features.items()}


def test_texts_that_are_no_levels_are_measured_by_length_digits_and_script(tmp_path: Path) -> None:
    pyarrow.csv.write_csv(MIXED, tmp_path / "mixed.csv")
    pyarrow.parquet.write_table(MIXED, tmp_path / "mixed.parquet")
    found = compute_dataset_profile(tmp_path / "mixed.csv")
    assert list(found.features) == ["note.length", "note.digits", "note.script", "when", "when.hour", "day"]
    script = found.features["note.script"]
    assert isinstance(script, CategoricalCounts)
    assert dict(zip(script.levels, script.counts.tolist(), strict=True)) == {"Latin": 266, "Cyrillic": 134}
    columns = {"note": NOTES, "when": WHEN.astype("M8[us]"), "day": WHEN.astype("M8[D]")}
    for source in (MIXED, tmp_path / "mixed.parquet", columns):
        assert texts_of(compute_dataset_profile(source)) == texts_of(found)
        assert texts_of(compute_dataset_profile(source, reference=found)) == texts_of(found)


def test_a_wrong_encoding_shows_in_the_script_of_texts() -> None:
    reference = compute_dataset_profile({"note": NOTES})
    broken = np.array([text.encode().decode("cp1252", "replace") for text in NOTES], object)
    script = compute_dataset_profile({"note": broken}, reference=reference).features["note.script"]
    assert isinstance(script, CategoricalCounts)
    assert script.unseen > 260


def test_columns_can_be_left_out() -> None:
    assert list(compute_dataset_profile(MIXED, without=["note", "day"]).features) == ["when", "when.hour"]
    with pytest.raises(ProfileError, match=r"`without`: no column 'nots'\. Did you mean 'note'\?"):
        compute_dataset_profile(MIXED, without=["nots"])


def test_a_csv_file_is_the_same_without_arrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text(
        "id;size;city;when\n"
        + "".join(f"{n}; {n / 7:.3f} ;{'Ulm' if n % 3 else ' '};2026-01-{n % 28 + 1:02d}\n" for n in range(90)),
        encoding="utf-8",
    )
    by_arrow = compute_dataset_profile(tmp_path / "a.csv")
    monkeypatch.setattr("harness.data.readers.text.find_spec", lambda _: None)
    assert texts_of(compute_dataset_profile(tmp_path / "a.csv")) == texts_of(by_arrow)
    assert by_arrow.features["city"].missing == 30


def test_what_is_wrong_with_a_csv_file_is_said_by_line(tmp_path: Path) -> None:
    (tmp_path / "short.csv").write_text("a,b\n1,2\n3\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"short.csv:3: 1 cells, the header has 2"):
        compute_dataset_profile(tmp_path / "short.csv")
    (tmp_path / "latin.csv").write_bytes("a,b\nKöln,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.csv:2: not UTF-8: byte 0xf6; .*iconv -f WINDOWS-1252"):
        compute_dataset_profile(tmp_path / "latin.csv")
