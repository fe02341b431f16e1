"""Real rows from a file take the place of drawn ones, and a file that does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.batches import Sizes
from harness.config import load_config
from harness.data.examples import example_maker
from harness.errors import DataError

ROWS = {"pixel_values": np.arange(5 * 4, dtype="uint8").reshape(5, 1, 2, 2), "labels": np.array([0, 1, 2, 0, 1])}


def config_with(folder: Path, arrays: dict[str, np.ndarray] | None, name: str = "rows.npz"):
    if arrays is not None:
        np.savez(folder / "rows.npz", **arrays)
    keys = {"task_type": "image_classification", "image_size": [1, 2, 2], "num_classes": 3, "eval": {"path": name}}
    (folder / "cfg.json").write_text(json.dumps(keys))
    return load_config(folder / "cfg.json")


def test_batches_are_rows_of_the_file_with_their_labels(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROWS)
    batch = example_maker(config)(config.task_spec(), Sizes(8), 0)
    assert batch["pixel_values"].dtype == torch.float32
    for image, label in zip(batch["pixel_values"], batch["labels"], strict=True):
        row = int(image.flatten()[0]) // 4
        assert torch.equal(image.flatten(), torch.arange(4 * row, 4 * row + 4).float())
        assert int(label) == ROWS["labels"][row]


def test_the_same_seed_deals_the_same_rows_and_another_does_not(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROWS)
    make = example_maker(config)
    first, again, other = (make(config.task_spec(), Sizes(8), seed)["labels"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_image_size_the_file_does_not_have_is_drawn(tmp_path: Path) -> None:
    config = config_with(tmp_path, ROWS)
    batch = example_maker(config)(config.task_spec(), Sizes(2, image=(3, 3)), 0)
    assert batch["pixel_values"].shape == (2, 1, 3, 3)


@pytest.mark.parametrize(
    ("arrays", "name", "words"),
    [
        (None, "gone.npz", "no such file"),
        (ROWS, "rows.csv", ".npz"),
        ({"labels": ROWS["labels"]}, "rows.npz", "no `pixel_values`"),
        ({**ROWS, "labels": np.array([0, 1])}, "rows.npz", "same number of rows"),
        ({**ROWS, "labels": np.array([0, 1, 2, 3, 0])}, "rows.npz", "from 0 to 2"),
        ({**ROWS, "pixel_values": np.zeros((5, 3, 2, 2))}, "rows.npz", "rows of shape (3, 2, 2), the task says (1, 2, 2)"),
        ({**ROWS, "pixel_values": np.full((5, 1, 2, 2), np.nan)}, "rows.npz", "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(arrays: dict[str, np.ndarray] | None, name: str, words: str, tmp_path: Path) -> None:
    config = config_with(tmp_path, arrays, name)
    with pytest.raises(DataError, match=words.replace("(", r"\(").replace(")", r"\)")):
        example_maker(config)


def test_a_pickled_array_is_not_loaded(tmp_path: Path) -> None:
    config = config_with(tmp_path, {**ROWS, "labels": np.array([object()] * 5)})
    with pytest.raises(DataError, match="cannot be read"):
        example_maker(config)
