"""What is wrong with a file is said in one line, with the file and the line."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import opened, task_of, write_images, write_rows

from harness.config import EvalConfig
from harness.data.dataset import Rows
from harness.data.opening import open_dataset
from harness.errors import DataError, MissingPackageError

TEXT, TABLE, LM = task_of("sequence_classification"), task_of("tabular_classification"), task_of("causal_lm")
GOOD = '{"text": "fine", "label": 0}\n'


def refusal(path: Path, task: Any, **keys: Any) -> str:
    """The message, which must be the same whether the file is held or streamed."""
    said = set()
    for limit in (1 << 20, 0):
        with pytest.raises(DataError) as caught:
            list(opened(path, task, memory_limit=limit, **keys))
        said.add(str(caught.value))
    assert len(said) == 1
    message = said.pop()
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "task", "words"),
    [
        ("a.jsonl", "", TEXT, ["a.jsonl: no rows: the file is empty"]),
        ("a.jsonl", "\n \n", TEXT, ["a.jsonl: no rows"]),
        ("a.jsonl", GOOD + "\n{'text': 1}\n", TEXT, ["a.jsonl:3: not JSON", "column 2"]),
        ("a.jsonl", GOOD + '["text"]\n', TEXT, ["a.jsonl:2: expected a JSON object", "got list"]),
        ("a.jsonl", "[\n{}]", TEXT, ["a.jsonl:1: not JSON", "one object a line"]),
        ("a.jsonl", b'{"text": "caf\xe9", "label": 0}\n', TEXT, ["a.jsonl:1: not UTF-8: byte 0xe9"]),
        ("a.jsonl", GOOD + '{"txt": "x", "label": 0}\n', TEXT, ["a.jsonl:2", "no `input_ids` or `text`", "Did you mean 'txt'?"]),
        ("a.jsonl", GOOD + '{"text": " ", "label": 0}\n', TEXT, ["a.jsonl:2: `text` is blank"]),
        ("a.jsonl", GOOD + '{"text": 7, "label": 0}\n', TEXT, ["a.jsonl:2: `text` must be text, got int"]),
        ("a.jsonl", GOOD + '{"text": "x", "label": null}\n', TEXT, ["a.jsonl:2: `label` is empty"]),
        ("a.jsonl", GOOD + '{"text": "x", "label": 3}\n', TEXT, ["a.jsonl:2: `label` 3 is out of range", "0 to 2"]),
        ("a.jsonl", GOOD + '{"text": "x", "label": -1}\n', TEXT, ["a.jsonl:2: `label` -1 is out of range"]),
        ("a.jsonl", GOOD + '{"text": "x", "label": "b"}\n', TEXT, ["a.jsonl:2: `label` must be a class id", "got 'b'"]),
        ("a.jsonl", '{"input_ids": [1, 300], "label": 0}\n', TEXT, ["a.jsonl:1: `input_ids` has 300 at position 1", "0 to 299"]),
        ("a.jsonl", '{"input_ids": [1, -1], "label": 0}\n', TEXT, ["a.jsonl:1: `input_ids` has -1 at position 1"]),
        ("a.jsonl", '{"input_ids": [1, 2.5], "label": 0}\n', TEXT, ["a.jsonl:1: `input_ids` must be a list of whole numbers"]),
        ("a.jsonl", '{"input_ids": [0, 0], "label": 0}\n', TEXT, ["a.jsonl:1: `input_ids` has no tokens"]),
        ("a.jsonl", '{"input_ids": [5], "attention_mask": [1, 1], "label": 0}', TEXT, ["2 values of `attention_mask` for 1"]),
        ("a.jsonl", '{"features": [1, 2, 3], "label": 0}\n', TABLE, ["a.jsonl:1: `features` of shape (3,)", "(2,)"]),
        ("a.jsonl", '{"features": [1, NaN], "label": 0}\n', TABLE, ["a.jsonl:1: `features` holds NaN"]),
        ("a.jsonl", '{"a": 1, "b": 2, "label": 0}\n{"a": 1, "label": 0}\n', TABLE, ["a.jsonl:2: no column `b`"]),
        ("a.csv", "", TABLE, ["a.csv: no rows"]),
        ("a.csv", "a,b,label\n", TABLE, ["a.csv: no rows"]),
        ("a.csv", "a,b,label\n1,2,0\n1,2\n", TABLE, ["a.csv:3: 2 cells, the header has 3"]),
        ("a.csv", "a,b,label\n1,x,0\n", TABLE, ["a.csv:2: `b` must be a number, got 'x'"]),
        ("a.csv", "a,b,label\n1,inf,0\n", TABLE, ["a.csv:2: `b` must be a finite number"]),
        ("a.csv", "a,b,c,label\n1,2,3,0\n", TABLE, ["a.csv:2: 3 feature columns (a, b, c), `num_features` says 2"]),
        ("a.csv", "a,b,labl\n1,2,0\n", TABLE, ["a.csv:2: no `labels` or `label` or `target`", "Did you mean 'labl'?"]),
        ("a.csv", "a,a,label\n1,2,0\n", TABLE, ["a.csv:1: the column 'a' appears twice"]),
        ("a.csv", 'text,label\n"a\nb",0\n"c",9\n', TEXT, ["a.csv:4: `label` 9 is out of range"]),
        ("a.csv", 'text,label\nx,0\n"open,1\n', TEXT, ["a.csv:3: not CSV: unexpected end of data"]),
        ("a.csv", "text,label\nx,a\nx,b\nx,c\nx,d\n", TEXT, ["a.csv: the labels have more than 3 names", "'a', 'b', 'c', 'd'"]),
        (
            "a.jsonl",
            '{"input_ids": [1, 2]}\n{"text": "xy"}\n',
            LM,
            ["a.jsonl:2: `text` is text, but the first row has `input_ids`"],
        ),
        (
            "a.jsonl",
            '{"input_ids": [5, 6], "labels": [5, -100]}\n',
            LM,
            ["a.jsonl:1: `labels` are all -100 within `max_seq_len` 24"],
        ),
        ("a.jsonl", '{"input_ids": [5, 6], "labels": [5]}\n', LM, ["a.jsonl:1: 1 `labels` for 2 `input_ids`"]),
        ("a.jsonl", '{"input_ids": [5, 6]}\n', task_of("seq2seq_lm"), ["a.jsonl:1: no `target` or `labels`"]),
        (
            "a.jsonl",
            '{"tokens": ["x", "y"], "tags": [0]}\n',
            task_of("token_classification"),
            ["a.jsonl:1: 1 labels for 2 words"],
        ),
        ("a.txt", "fine\n\xff\n", LM, ["a.txt:2: not UTF-8: byte 0xff"]),
        ("a.txt", "", LM, ["a.txt: no rows: the file is empty"]),
        ("a.txt", "x", LM, ["a.txt: no row has enough tokens"]),
        ("a.jsonl", '{"text": "x"}\n', LM, ["a.jsonl: no row has enough tokens"]),
        ("a.txt", "some text\n", TEXT, ["a.txt: plain text has no labels"]),
        ("a.jsn", GOOD, TEXT, ["a.jsn: no reader for '.jsn'. Did you mean '.jsonl'?"]),
        ("a.parquet", "PAR1 but not really", TEXT, ["a.parquet: cannot be read after row 0"]),
    ],
)
def test_a_line_is_named(name: str, content: str | bytes, task: Any, words: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("latin-1"))
    message = refusal(tmp_path / name, task)
    for part in words:
        assert part in message


def test_rows_of_parquet_are_counted_from_one(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": 0}] * 1500 + [{"text": "x", "label": 5}]
    assert "a.parquet, row 1501: `label` 5 is out of range" in refusal(write_rows(tmp_path / "a.parquet", rows), TEXT)


def test_a_damaged_parquet_file_is_said_to_be_one(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", [{"text": "word " * 50, "label": 0}] * 3000)
    path.write_bytes(path.read_bytes()[:60] + b"\0" * 60 + path.read_bytes()[120:])
    assert "a.parquet" in refusal(path, TEXT)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"pixel_values": np.zeros((2, 3, 8, 8)), "labels": np.array([0, 3])},
            "row 2: `labels` must be integers from 0 to 2, got 3",
        ),
        (
            {"pixel_values": np.zeros((2, 3, 8, 8)), "labels": np.array([0.0, 1.0])},
            "`labels` must be integers from 0 to 2, got torch.float64",
        ),
        ({"pixel_values": np.zeros((0, 3, 8, 8)), "labels": np.zeros(0, int)}, "at least one"),
        ({"pixel_values": np.array(1.0), "labels": np.zeros(2, int)}, "at least one"),
        ({"pixel_values": np.array([[["a"]]]), "labels": np.zeros(1, int)}, "cannot be read"),
    ],
)
def test_arrays_are_checked_as_a_whole(arrays: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "a.npz", task_of("image_classification"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"\x93NUMPY"])
def test_an_npz_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        opened(tmp_path / "a.npz", task_of("image_classification"))


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "pets", {"cat": 2, "dog": 1})
    (folder / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    with pytest.raises(DataError, match=r"^pets/cat/1.png: cannot be decoded: [^\n]*$"):
        list(opened(folder, task_of("image_classification")))
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"pets/cat/1\.png: cannot be decoded"):
        list(opened(folder, task_of("image_classification")))


def test_folders_that_are_no_image_folders_are_refused(tmp_path: Path) -> None:
    vision = task_of("image_classification")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no subfolders"):
        opened(tmp_path / "flat", vision)
    folder = write_images(tmp_path / "pets", {"cat": 1, "dog": 1})
    with pytest.raises(DataError, match="is a folder of images, the task is causal_lm"):
        opened(folder, LM)
    with pytest.raises(DataError, match="1, 3 or 4 channels, not to 2"):
        opened(folder, task_of("image_classification", image_size=(2, 8, 8)))
    with pytest.raises(DataError, match="pets: the labels have more than 1 names"):
        opened(folder, task_of("image_classification", num_classes=1))
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="pets/empty: no images"):
        opened(folder, vision)


def test_a_class_that_the_training_data_lacks_is_refused(tmp_path: Path) -> None:
    train = opened(write_images(tmp_path / "train", {"cat": 1, "dog": 1}), task_of("image_classification"))
    other = write_images(tmp_path / "other", {"cat": 1, "dogs": 1})
    with pytest.raises(DataError, match=r"'dogs' is not a class\. Did you mean 'dog'\?"):
        opened(other, task_of("image_classification"), like=train)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(GOOD)
    with pytest.raises(DataError, match=r"no such file .*trian.jsonl. Did you mean 'train.jsonl'\?"):
        opened(tmp_path / "trian.jsonl", TEXT)


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("pyarrow.parquet", lambda folder: opened(write_rows(folder / "a.parquet", [{"text": "x", "label": 0}]), TEXT)),
        ("PIL.Image", lambda folder: opened(write_images(folder / "pets", {"a": 1}), task_of("image_classification"))[0]),
        (
            "tokenizers",
            lambda folder: opened(
                write_rows(folder / "a.jsonl", [{"text": "x", "label": 0}]), task_of("sequence_classification", vocab_size=5000)
            ),
        ),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    module: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocked(name: str) -> Any:
        if name == module:
            raise ImportError(name)
        return importlib.import_module(name)

    monkeypatch.setattr("harness.errors.import_module", blocked)
    with pytest.raises(MissingPackageError) as caught:
        make(tmp_path)
    assert "pip install 'pytest-modeltiers[data]'" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".npz"]), st.booleans())
def test_no_file_whatsoever_gives_anything_but_examples_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str, streamed: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    path.write_bytes(content)
    task = LM if suffix == ".txt" else TEXT
    message, found = "", []
    try:
        found = list(opened(path, task, memory_limit=0 if streamed else 1 << 20))
    except DataError as error:
        message = str(error)
    assert found or path.name in message
    assert "\n" not in message


def test_python_knows_nothing_of_the_optional_packages_before_they_are_needed() -> None:
    code = "import harness.data.opening, sys; sys.exit(bool({'pyarrow', 'PIL', 'tokenizers', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_label_of_training_data_is_no_class(tmp_path: Path, empty: str) -> None:
    (tmp_path / "rows.csv").write_text(f"a,b,label\n1,2,cat\n1,2,{empty}\n1,2,dog\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.csv:3: `label` is empty"):
        list(open_dataset(EvalConfig(path="rows.csv"), TABLE, tmp_path))


def test_a_window_of_images_may_lack_a_class(tmp_path: Path) -> None:
    """Its ids are those of the training data; read by itself, `dog` would be class 0."""
    task = task_of("image_classification")
    for split in ("train", "window"):
        write_images(tmp_path / split, {"cat": 1, "dog": 1})
    (tmp_path / "window" / "cat" / "0.png").unlink()
    trained = open_dataset(EvalConfig(path="train"), task, tmp_path)
    window = open_dataset(EvalConfig(path="window"), task, tmp_path, like=trained, lenient=True)
    assert isinstance(window, Rows)
    assert [int(window[place]["labels"]) for place in range(len(window))] == [1]
    with pytest.raises(DataError, match=r"no images .* for the class 'cat'"):
        open_dataset(EvalConfig(path="window"), task, tmp_path, like=trained)
