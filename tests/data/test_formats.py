"""The same rows give the same examples from every format, in memory and as a stream."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import opened, task_of, write_images, write_rows

from harness.config import EvalConfig
from harness.data.dataset import Rows, Stream
from harness.data.loader import make_loader
from harness.data.opening import open_dataset
from harness.tasks import TaskSpec, TaskType

TEXTS = [
    {"text": "a bird, and a cat", "label": "pets"},
    {"text": 'a "quoted"\nline', "label": "odd"},
    {"text": "snow – and wind", "label": "weather"},
    {"text": "more birds", "label": "pets"},
]
PAIRS = [{"source": "one two", "target": "un deux"}, {"source": "three", "target": "trois"}]
FEATURES = [{"width": 0.5, "height": -2.0, "label": 2}, {"width": 1e3, "height": 0.25, "label": 0}]
IDS = [{"input_ids": [5, 6, 7, 0], "labels": 1}, {"input_ids": [8, 9, 10, 11], "labels": 2}]
PIXELS = [{"pixel_values": np.full((3, 8, 8), number / 8).tolist(), "labels": number} for number in range(3)]


def examples(dataset: Rows | Stream) -> list[dict[str, Any]]:
    found = list(dataset) if isinstance(dataset, Stream) else [dataset[number] for number in range(len(dataset))]
    return [{name: tensor.tolist() for name, tensor in example.items()} for example in found]


@pytest.mark.parametrize(
    ("task", "rows", "suffixes"),
    [
        (task_of("sequence_classification"), TEXTS, (".jsonl", ".csv", ".parquet")),
        (task_of("causal_lm"), TEXTS, (".jsonl", ".csv", ".parquet")),
        (task_of("seq2seq_lm"), PAIRS, (".jsonl", ".csv", ".parquet")),
        (task_of("tabular_classification"), FEATURES, (".jsonl", ".csv", ".parquet")),
        (task_of("tabular_regression"), FEATURES, (".jsonl", ".csv", ".parquet")),
        (task_of("sequence_classification"), IDS, (".jsonl", ".parquet", ".npz")),
        (task_of("image_classification"), PIXELS, (".jsonl", ".parquet", ".npz")),
    ],
    ids=["text", "lm", "pairs", "table", "regression", "ids", "pixels"],
)
def test_every_format_and_every_way_of_reading_gives_the_same_examples(
    task: TaskSpec, rows: list[dict[str, Any]], suffixes: tuple[str, ...], tmp_path: Path
) -> None:
    files = [write_rows(tmp_path / f"rows{suffix}", rows) for suffix in suffixes]
    found = [examples(opened(file, task)) for file in files]
    streamed = [examples(opened(file, task, memory_limit=0)) for file in files]
    assert len(found[0]) == len(rows)
    assert all(other == found[0] for other in found + streamed)
    assert all(isinstance(opened(file, task, memory_limit=0), Stream) for file in files if file.suffix != ".npz")


def test_fields_are_what_the_rows_say(tmp_path: Path) -> None:
    texts = opened(write_rows(tmp_path / "a.jsonl", TEXTS), task_of("sequence_classification"))
    assert texts.origin.classes.names == ("odd", "pets", "weather")
    assert [int(texts[number]["labels"]) for number in range(4)] == [1, 0, 2, 1]
    assert texts.origin.tokenizer.decode(texts[1]["input_ids"].tolist()) == 'a "quoted"\nline'
    table = opened(write_rows(tmp_path / "b.csv", FEATURES), task_of("tabular_classification"))
    assert torch.equal(table[0]["features"], torch.tensor([0.5, -2.0]))
    assert table.origin.describe()["feature_columns"] == ["width", "height"]
    ids = opened(write_rows(tmp_path / "c.jsonl", IDS), task_of("sequence_classification"))
    assert ids[0]["input_ids"].tolist() == [5, 6, 7]


def test_csv_is_read_with_semicolons_a_byte_order_mark_and_ids_in_a_cell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffinput_ids; label\n5 6 7;1\n[8, 9];0\n\n", encoding="utf-8")
    dataset = opened(tmp_path / "a.csv", task_of("sequence_classification"))
    assert examples(dataset) == [{"input_ids": [5, 6, 7], "labels": 1}, {"input_ids": [8, 9], "labels": 0}]


def test_an_image_folder_is_decoded_to_the_task_s_size(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "pets", {"cat": 2, "dog": 3}, size=(16, 16))
    dataset = opened(folder, task_of("image_classification"))
    assert dataset.origin.classes.names == ("cat", "dog")
    assert [int(dataset[number]["labels"]) for number in range(5)] == [0, 0, 1, 1, 1]
    assert torch.equal(dataset[3]["pixel_values"][:, 4, 4] * 255, torch.tensor([50.0, 1.0, 7.0]))
    assert dataset[3]["pixel_values"].shape == (3, 8, 8)
    grey = opened(folder, task_of("image_classification", image_size=(1, 5, 7)))
    assert grey[0]["pixel_values"].shape == (1, 5, 7)


def test_real_images_are_the_same_from_arrays_and_from_a_folder(tmp_path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    picked = [int(np.flatnonzero(digits.target == digit)[turn]) for digit in range(10) for turn in range(3)]
    for number in picked:
        (tmp_path / "digits" / str(digits.target[number])).mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype("uint8")).save(
            tmp_path / "digits" / str(digits.target[number]) / f"{number:04}.png"
        )
    arrays = {"pixel_values": (digits.images[picked, None] * 15).astype("uint8"), "labels": digits.target[picked]}
    np.savez(tmp_path / "digits.npz", **arrays)
    task = task_of("image_classification", image_size=(1, 8, 8), num_classes=10)
    folder, table = opened(tmp_path / "digits", task), opened(tmp_path / "digits.npz", task)
    assert len(folder) == len(table) == 30
    for decoded, row in zip(examples(folder), examples(table), strict=True):
        assert decoded["labels"] == row["labels"]
        assert torch.allclose(torch.tensor(decoded["pixel_values"]) * 255, torch.tensor(row["pixel_values"]))


def test_words_with_classes_are_labelled_at_their_first_token(tmp_path: Path) -> None:
    rows = [{"tokens": ["Anna", "lives", "in", "Oslo"], "tags": ["person", "other", "other", "place"]}]
    dataset = opened(write_rows(tmp_path / "a.jsonl", rows), task_of("token_classification", max_seq_len=64))
    example = dataset[0]
    assert len(example["labels"]) == len(example["input_ids"]) == len("Anna lives in Oslo")
    assert [int(label) for label in example["labels"] if label != -100] == [1, 0, 0, 2]
    assert int(example["labels"][len("Anna lives in")]) == 2


def test_padding_in_a_file_is_dropped_whether_a_mask_says_so_or_not(tmp_path: Path) -> None:
    task = task_of("token_classification")
    rows = [{"input_ids": [0, 0, 5, 6], "attention_mask": [0, 0, 1, 1], "labels": [-100, -100, 1, 2]}]
    dataset = opened(write_rows(tmp_path / "a.jsonl", rows), task)
    assert examples(dataset) == [{"input_ids": [5, 6], "labels": [1, 2]}]
    dataset = opened(
        write_rows(tmp_path / "c.jsonl", [{"input_ids": [5, 0, 6, 0, 0], "label": 1}]), task_of("sequence_classification")
    )
    assert dataset[0]["input_ids"].tolist() == [5, 0, 6]
    pairs = [{"input_ids": [5, 6, 0], "labels": [7, 8, -100]}]
    dataset = opened(write_rows(tmp_path / "b.jsonl", pairs), task_of("seq2seq_lm"))
    assert examples(dataset) == [{"input_ids": [5, 6], "decoder_input_ids": [0, 7], "labels": [7, 8]}]


def test_labels_of_its_own_survive_for_a_causal_lm(tmp_path: Path) -> None:
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}]
    dataset = opened(write_rows(tmp_path / "a.jsonl", rows), task_of("causal_lm"))
    assert dataset[0]["labels"].tolist() == [-100, -100, 7, 8]


def test_evaluation_data_is_read_with_the_tokenizer_and_classes_of_the_training_data(tmp_path: Path) -> None:
    task = task_of("sequence_classification", vocab_size=40)
    train = opened(write_rows(tmp_path / "train.jsonl", TEXTS), task)
    test = opened(write_rows(tmp_path / "test.jsonl", [{"text": "weather", "label": "weather"}]), task, like=train)
    assert test.origin.tokenizer == train.origin.tokenizer
    assert int(test[0]["labels"]) == 2


def test_so_many_rows_of_a_sorted_file_are_of_every_class(tmp_path: Path) -> None:
    rows = [{"width": 0.0, "height": 1.0, "label": number // 30} for number in range(90)]
    dataset = opened(write_rows(tmp_path / "a.csv", rows), task_of("tabular_classification"), max_eval_examples=6)
    assert [int(dataset[number]["labels"]) for number in range(6)] == [0, 0, 1, 1, 2, 2]


def test_a_path_is_relative_to_the_config_s_folder(tmp_path: Path) -> None:
    from harness.config import EvalConfig
    from harness.data.opening import open_dataset

    write_rows(tmp_path / "rows.csv", FEATURES)
    dataset = open_dataset(EvalConfig(path="rows.csv"), task_of("tabular_classification"), tmp_path)
    batch = next(iter(make_loader(dataset, dataset.origin.task, 2)))
    assert batch["features"].shape == (2, 2)


def test_thousands_of_rows_are_held_as_they_were_read(tmp_path: Path) -> None:
    rows = [{"text": "x" * (1 + number % 7), "label": number % 3} for number in range(5000)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    held, streamed = (examples(opened(path, task_of("sequence_classification"), memory_limit=limit)) for limit in (1 << 20, 0))
    assert held == streamed
    assert [(len(example["input_ids"]), example["labels"]) for example in held] == [(1 + n % 7, n % 3) for n in range(5000)]


def test_images_are_turned_as_the_camera_says_and_a_size_is_height_and_width(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "pets" / "cat").mkdir(parents=True)
    upright = Image.new("L", (5, 7), 10)
    upright.paste(200, (0, 0, 5, 2))  # light above
    upright.save(tmp_path / "pets" / "cat" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "pets" / "cat" / "1.png", exif=exif)
    tall = opened(tmp_path / "pets", task_of("image_classification", image_size=(1, 7, 5)))
    assert torch.equal(tall[0]["pixel_values"], tall[1]["pixel_values"])
    assert (tall[0]["pixel_values"][0, :, 0] * 255).round().tolist() == [200, 200, 10, 10, 10, 10, 10]
    wide = opened(tmp_path / "pets", task_of("image_classification", image_size=(1, 5, 7)))
    assert wide[0]["pixel_values"].shape == (1, 5, 7)


def test_datasets_travel_to_workers_that_are_not_forked(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", TEXTS)
    for task in (task_of("sequence_classification"), task_of("causal_lm", vocab_size=600)):
        for limit in (1 << 20, 0):
            dataset = opened(path, task, memory_limit=limit)
            assert examples(pickle.loads(pickle.dumps(dataset))) == examples(dataset)
    folder = opened(write_images(tmp_path / "pets", {"cat": 1}), task_of("image_classification"))
    assert examples(pickle.loads(pickle.dumps(folder))) == examples(folder)


def test_a_task_made_in_python_need_not_name_its_modality(tmp_path: Path) -> None:
    """The task type says it."""
    (tmp_path / "rows.csv").write_text("a,b,label\n1,2,0\n3,4,1\n", encoding="utf-8")
    task = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=2, num_classes=2)
    rows = open_dataset(EvalConfig(path="rows.csv"), task, tmp_path)
    assert [next(iter(rows))["features"].tolist(), rows.origin.encoder.columns] == [[1.0, 2.0], ("a", "b")]
