"""The properties get real rows from every kind of dataset, at whatever sizes they ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import write_images, write_rows

from harness.batches import Sizes, make_batch
from harness.config import SuiteConfig, load_config
from harness.config_values import PRESETS
from harness.data.examples import example_maker
from harness.data.opening import open_dataset
from harness.errors import DataError

TEXTS = [{"text": text, "label": label} for text, label in (("aaa", "a"), ("bbbb", "b"), ("a", "a"), ("bb", "b"))]
CLASSIFY = {"task_type": "sequence_classification", "vocab_size": 300, "max_seq_len": 30, "pad_token_id": 0, "num_classes": 2}


def config_with(folder: Path, keys: dict[str, Any]) -> SuiteConfig:
    (folder / "cfg.json").write_text(json.dumps(keys))
    return load_config(folder / "cfg.json")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.integers(1, 9), st.integers(1, 24), st.integers(1, 24), st.integers(0, 99))
def test_built_in_rows_have_the_sizes_and_fields_of_drawn_ones(
    tmp_path_factory: pytest.TempPathFactory, name: str, batch: int, seq: int, target_seq: int, seed: int
) -> None:
    config = config_with(tmp_path_factory.mktemp("deal"), {"task_name": name, "eval": {"dataset_id": f"{name}_v1"}})
    task, sizes = config.task_spec(), Sizes(batch, seq, target_seq)
    dealt, drawn = example_maker(config)(task, sizes, seed), make_batch(task, sizes, seed)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in dealt.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in drawn.items()
    }
    field = task.facts.inputs[0]
    assert not torch.equal(dealt[field], drawn[field]) or dealt[field].numel() < 4
    if task.is_text:
        assert not bool((dealt["input_ids"] == task.pad_token_id).any())
    if name == "lm_tiny":
        assert torch.equal(dealt["labels"], dealt["input_ids"])


def test_a_batch_of_sentences_can_be_read(tmp_path: Path) -> None:
    config = config_with(tmp_path, {"task_name": "lm_tiny", "eval": {"dataset_id": "lm_tiny_v1", "split": "test"}})
    dataset = open_dataset(config.eval_config(), config.task_spec())
    stories = {dataset.origin.tokenizer.decode(row["input_ids"].tolist()) for row in dataset}
    ids = example_maker(config)(config.task_spec(), Sizes(8, 5), 3)["input_ids"]
    beginnings = {" ".join(story.split()[:5]) for story in stories}
    assert {dataset.origin.tokenizer.decode(row.tolist()) for row in ids} <= beginnings
    assert len({tuple(row.tolist()) for row in ids}) > 4


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_short_text_is_lengthened_by_texts_of_its_own_class(suffix: str, tmp_path: Path) -> None:
    write_rows(tmp_path / f"rows{suffix}", TEXTS)
    config = config_with(tmp_path, {**CLASSIFY, "eval": {"path": f"rows{suffix}"}})
    batch = example_maker(config)(config.task_spec(), Sizes(6, 20), 0)
    for ids, label in zip(batch["input_ids"], batch["labels"], strict=True):
        assert set(ids.tolist()) == {ord("ab"[int(label)]) + 1}
    assert set(batch["labels"].tolist()) == {0, 1}


def test_images_of_a_folder_are_dealt(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", {"cat": 3, "dog": 3})
    keys = {"task_type": "image_classification", "image_size": [3, 8, 8], "num_classes": 2, "train": {"path": "pets"}}
    config = config_with(tmp_path, keys)
    batch = example_maker(config)(config.task_spec(), Sizes(6), 0)
    assert torch.equal((batch["pixel_values"][:, 0, 0, 0] * 255).round().long() // 50, batch["labels"])


def test_rows_of_evaluation_are_read_with_what_the_training_data_taught(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [*TEXTS, {"text": "cc", "label": "c"}])
    write_rows(tmp_path / "test.jsonl", [{"text": "cc", "label": "c"}])
    keys = {**CLASSIFY, "vocab_size": 20, "num_classes": 3, "train": {"path": "train.jsonl"}, "eval": {"path": "test.jsonl"}}
    config = config_with(tmp_path, keys)
    batch = example_maker(config)(config.task_spec(), Sizes(2, 4), 0)
    assert batch["labels"].tolist() == [2, 2]


def test_without_data_everything_is_drawn(tmp_path: Path) -> None:
    for keys in ({"task_name": "lm_tiny"}, {"task_name": "lm_tiny", "eval": {"batch_size": 2}}):
        assert example_maker(config_with(tmp_path, keys)) is make_batch


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    config = config_with(tmp_path, {**CLASSIFY, "eval": {"path": "rows.jsonl"}})
    write_rows(tmp_path / "rows.jsonl", TEXTS[:1])
    assert set(example_maker(config)(config.task_spec(), Sizes(1, 5), 0)["input_ids"].flatten().tolist()) == {98}
    write_rows(tmp_path / "rows.jsonl", [{"text": "zzzzz", "label": "a"}])
    assert set(example_maker(config)(config.task_spec(), Sizes(1, 5), 0)["input_ids"].flatten().tolist()) == {123}
    (tmp_path / "rows.jsonl").write_text("nothing")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: not JSON"):
        example_maker(config)


def test_of_a_large_file_only_the_beginning_is_read(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "fine " * 20, "label": 0})] * 20_000
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "not JSON at all"]))
    config = config_with(tmp_path, {**CLASSIFY, "eval": {"path": "rows.jsonl"}})
    assert example_maker(config)(config.task_spec(), Sizes(2, 5), 0)["input_ids"].shape == (2, 5)
