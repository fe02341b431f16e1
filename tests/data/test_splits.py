"""A split is a file of a folder, the rows of a column, or a share of a file; no row is ever in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import opened, preset_task, task_of, write_images, write_rows

from harness.config import EvalConfig
from harness.data.opening import open_dataset
from harness.data.splits import Split
from harness.errors import DataError

TABLE = task_of("tabular_regression", num_features=1)
ROWS = [{"x": float(number), "label": 0} for number in range(400)]


def numbers(dataset: Any) -> list[int]:
    return [int(example["features"]) for example in dataset]


def test_a_folder_has_a_file_for_each_split_by_any_of_its_names(tmp_path: Path) -> None:
    for number, name in enumerate(("train.csv", "val.jsonl", "test.csv")):
        write_rows(tmp_path / name, [{"x": number, "label": 0}])
    for number, split in enumerate(("train", "validation", "test")):
        assert numbers(opened(tmp_path, TABLE, split=split)) == [number]
    assert numbers(open_dataset(EvalConfig(path=str(tmp_path)), TABLE, split="validation")) == [1]
    with pytest.raises(DataError, match=r"no split 'tests'\. Did you mean 'test'\? It has test, train, val"):
        opened(tmp_path, TABLE, split="tests")


def test_an_image_folder_may_have_a_folder_for_each_split_and_a_class_called_train(tmp_path: Path) -> None:
    vision = task_of("image_classification")
    write_images(tmp_path / "pets" / "train", {"cat": 2, "dog": 1})
    write_images(tmp_path / "pets" / "test", {"cat": 1})
    assert len(opened(tmp_path / "pets", vision, split="train")) == 3
    assert len(opened(tmp_path / "pets", vision, split="test")) == 1
    with pytest.raises(DataError, match="pets has no split 'validation'"):
        opened(tmp_path / "pets", vision, split="validation")
    write_images(tmp_path / "toys", {"train": 1, "car": 2})
    (tmp_path / "toys" / "README.txt").write_text("about the toys")
    assert len(opened(tmp_path / "toys", vision, split="train")) == 3


@pytest.mark.parametrize("limit", [1 << 20, 0])
def test_a_split_column_is_heeded_and_is_no_feature(limit: int, tmp_path: Path) -> None:
    rows = [{**row, "split": ("train", "val", "train")[number % 3]} for number, row in enumerate(ROWS[:9])]
    path = write_rows(tmp_path / "a.csv", rows)
    assert numbers(opened(path, TABLE, split="train", memory_limit=limit)) == [0, 2, 3, 5, 6, 8]
    assert numbers(opened(path, TABLE, split="validation", memory_limit=limit)) == [1, 4, 7]
    with pytest.raises(DataError, match=r"the `split` column of a\.csv has no 'test'\. It has train, val"):
        opened(path, TABLE, split="test", memory_limit=limit)


@pytest.mark.parametrize("limit", [1 << 20, 0])
@pytest.mark.parametrize("suffix", [".csv", ".npz", ".parquet"])
def test_shares_of_a_file_have_no_row_in_common_and_miss_none(limit: int, suffix: str, tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / f"a{suffix}", [{"features": [row["x"]], "label": 0} for row in ROWS] if suffix == ".npz" else ROWS
    )
    train = opened(path, TABLE, split="train[:80%]", memory_limit=limit)
    test = opened(path, TABLE, split="train[80%:]", memory_limit=limit)
    assert sorted(numbers(train) + numbers(test)) == list(range(400))
    assert 0.7 < len(numbers(train)) / 400 < 0.9
    assert min(numbers(test)) < 40 and max(numbers(test)) > 360  # noqa: PT018  # from all over the file
    assert train.origin.part == "[0%:80%]"
    assert not train.origin.is_same_as(test.origin)
    assert len(train) == len(numbers(train))


def test_shares_of_text_are_of_whole_sequences(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {number:04}\n" for number in range(200)))
    task = task_of("causal_lm", max_seq_len=10)
    whole, low, high = (opened(tmp_path / "a.txt", task, split=split) for split in ("train", "[:50%]", "[50%:]"))
    pieces = [{tuple(example["input_ids"].tolist()) for example in dataset} for dataset in (whole, low, high)]
    assert pieces[0] == pieces[1] | pieces[2]
    assert len(pieces[1] & pieces[2]) == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 98), st.integers(1, 98), st.integers(0, 10**9))
def test_each_row_is_in_exactly_one_of_adjoining_shares(one: int, step: int, start: int) -> None:
    other = max(one + 1, min(one + step, 99))
    shares = [Split.parse(text, "train") for text in (f"[:{one}%]", f"[{one}%:{other}%]", f"[{other}%:]")]
    counts = {sum(share.holds(number) for share in shares) for number in range(start, start + 2000)}
    assert counts == {1}


def test_the_border_of_a_share_belongs_to_the_next() -> None:
    at = next(
        number
        for number in range(100_000)
        if not Split("train", 0, 50).holds(number) and not Split("train", 51, 100).holds(number)
    )
    assert Split("train", 50, 51).holds(at)
    low, high = Split("train", 0, 50), Split("train", 50, 100)
    assert all(low.holds(number) != high.holds(number) for number in range(20_000))


def test_one_file_for_both_is_known_to_be_the_same_rows(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    train, test = (opened(path, TABLE, split=split) for split in ("train", "test"))
    assert train.origin.is_same_as(test.origin)
    parted = write_rows(tmp_path / "b.csv", [{**row, "split": ("train", "test")[number % 2]} for number, row in enumerate(ROWS)])
    assert not opened(parted, TABLE, split="train").origin.is_same_as(opened(parted, TABLE, split="test").origin)
    builtin = [open_dataset(EvalConfig(split=split), preset_task("lm_tiny")) for split in ("train", "test")]
    assert not builtin[0].origin.is_same_as(builtin[1].origin)


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_a_misspelt_split_of_a_file_without_any_is_refused(suffix: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / f"a{suffix}", [{"features": [0.5], "label": 0}])
    with pytest.raises(DataError, match=r"has no splits, so no 'validaton'\. Did you mean 'validation'\?"):
        opened(path, TABLE, split="validaton")


def test_a_folder_of_files_may_have_other_folders(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.csv", ROWS)
    (tmp_path / "notes").mkdir()
    assert len(opened(tmp_path, TABLE)) == len(ROWS)


@pytest.mark.parametrize("text", ["train[", "train[:]x", "[80%:20%]", "[:0%]", "[:101%]", "[:100]", "[a%:]"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="is not a share of the rows; write for example 'train\\[:80%\\]'"):
        Split.parse(text, "train")


def test_a_share_without_rows_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS[:2])
    with pytest.raises(DataError, match=r"a\.csv: no rows in train\[98%:99%\]"):
        opened(path, TABLE, split="[98%:99%]")
