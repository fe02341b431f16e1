"""The built-in sets: the same to the byte everywhere, without overlap, and within whatever sizes the task has."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import preset_task, task_of

from harness.config import EvalConfig
from harness.config_values import DATASETS, PRESETS
from harness.data.builtin import ROWS, SMALLEST_VOCABULARY, builtin_source, default_dataset
from harness.data.loader import make_loader
from harness.data.opening import open_dataset
from harness.errors import DataError

PRESET_OF = {
    "lm_tiny_v1": "lm_tiny",
    "cls_tiny_v1": "cls_tiny",
    "seq2seq_tiny_v1": "seq2seq_tiny",
    "vision_tiny_v1": "vision_tiny",
}

DIGESTS = {
    "lm_tiny_v1": "02580d226067bd75",
    "cls_tiny_v1": "cfebad8e5a54bd21",
    "seq2seq_tiny_v1": "12ebae5467abc778",
    "vision_tiny_v1": "2b4bedeec35692f0",
}
"""Of every row of every split; a change here is a change of the datasets, which would need a new version in their names."""


def rows_of(dataset_id: str, split: str) -> list[bytes]:
    source = builtin_source(dataset_id, preset_task(PRESET_OF[dataset_id]), split)
    fields = [record.fields for record in source]
    return [
        repr(sorted((k, v.numpy().tobytes() if torch.is_tensor(v) else v) for k, v in row.items())).encode() for row in fields
    ]


@pytest.mark.parametrize("dataset_id", DATASETS)
def test_the_rows_are_the_same_to_the_byte_on_every_machine(dataset_id: str) -> None:
    digest = hashlib.sha256(b"\n".join(row for split in ROWS for row in rows_of(dataset_id, split))).hexdigest()[:16]
    assert digest == DIGESTS[dataset_id]


@pytest.mark.parametrize("dataset_id", DATASETS)
def test_no_row_is_there_twice_in_one_split_or_in_two(dataset_id: str) -> None:
    rows = [row for split in ROWS for row in rows_of(dataset_id, split)]
    assert len(rows) == sum(ROWS.values()) == len(set(rows))


@pytest.mark.parametrize("dataset_id", DATASETS)
@pytest.mark.parametrize("split", ROWS)
def test_every_preset_has_its_set_and_every_split_its_rows(dataset_id: str, split: str) -> None:
    task = preset_task(PRESET_OF[dataset_id])
    assert default_dataset(task) == dataset_id
    dataset = open_dataset(EvalConfig(), task, split=split)
    assert len(dataset) == ROWS[split]
    assert dataset.origin.name == dataset_id


def test_a_token_of_a_vocabulary_of_101_is_a_word_and_the_sentence_can_be_read() -> None:
    task = preset_task("lm_tiny", vocab_size=101, max_seq_len=16)
    dataset = open_dataset(EvalConfig(split="validation"), task)
    tokenizer = dataset.origin.tokenizer
    sentence = tokenizer.decode(dataset[0]["input_ids"].tolist())
    assert sentence in {record.fields["text"] for record in builtin_source("lm_tiny_v1", task, "validation")}
    assert "?" not in "".join(tokenizer.decode(dataset[i]["input_ids"].tolist()) for i in range(50)).replace(" ?", "")


def test_classes_are_balanced_and_their_ids_are_in_sorted_order() -> None:
    dataset = open_dataset(EvalConfig(dataset_id="cls_tiny_v1"), preset_task("cls_tiny"))
    assert dataset.origin.classes.names == ("food", "music", "sport", "weather")
    labels = torch.stack([dataset[i]["labels"] for i in range(len(dataset))])
    assert torch.bincount(labels).tolist() == [200] * 4


def test_a_translation_begins_with_start_and_ends_with_end() -> None:
    dataset = open_dataset(EvalConfig(), preset_task("seq2seq_tiny"))
    ids, row = dataset.origin.tokenizer.ids, dataset[0]
    assert row["decoder_input_ids"][0] == ids.start
    assert row["labels"][-1] == ids.end
    assert torch.equal(row["decoder_input_ids"][1:], row["labels"][:-1])


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["lm_tiny", "cls_tiny", "seq2seq_tiny", "masked"]),
    st.integers(SMALLEST_VOCABULARY, 600),
    st.integers(2, 40),
    st.integers(1, 9),
    st.data(),
)
def test_text_fits_any_vocabulary_length_and_number_of_classes(
    kind: str, vocab: int, length: int, classes: int, data: st.DataObject
) -> None:
    keys = {"vocab_size": vocab, "max_seq_len": length, "pad_token_id": data.draw(st.none() | st.integers(0, vocab - 1))}
    if kind == "masked":
        task = preset_task("lm_tiny", task_type="masked_lm", **keys)
    else:
        task = preset_task(kind, **keys, **({"num_classes": classes} if kind == "cls_tiny" else {}))
    batch = next(iter(make_loader(open_dataset(EvalConfig(max_eval_examples=20), task), task, 20)))
    for name in ("input_ids", "decoder_input_ids"):
        if name in batch:
            assert 0 <= int(batch[name].min()) <= int(batch[name].max()) < vocab
            assert batch[name].shape[1] <= length
    if task.pad_token_id is not None:
        real = batch["attention_mask"].bool()
        assert not bool((batch["input_ids"][real] == task.pad_token_id).any())
        assert bool((batch["input_ids"][~real] == task.pad_token_id).all())
    real_labels = batch["labels"][batch["labels"] != -100]
    assert 0 <= int(real_labels.min()) <= int(real_labels.max()) < (task.output_size or 0)


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40)), st.integers(1, 9))
def test_shapes_fit_any_image_size_and_number_of_classes(size: tuple[int, int, int], classes: int) -> None:
    task = preset_task("vision_tiny", image_size=size, num_classes=classes)
    batch = next(iter(make_loader(open_dataset(EvalConfig(max_eval_examples=8), task), task, 8)))
    assert batch["pixel_values"].shape == (8, *size)
    assert batch["pixel_values"].dtype == torch.float32
    assert 0 <= float(batch["pixel_values"].min()) <= float(batch["pixel_values"].max()) <= 1
    assert int(batch["labels"].max()) < classes


def test_fewer_classes_leave_the_other_rows_out_rather_than_giving_them_a_wrong_label() -> None:
    two = open_dataset(EvalConfig(), preset_task("cls_tiny", num_classes=2))
    assert len(two) == ROWS["train"] // 2
    assert two.origin.classes.names == ("food", "music")


@pytest.mark.parametrize(
    ("keys", "task", "words"),
    [
        ({"split": "validate"}, preset_task("lm_tiny"), "lm_tiny_v1 has no split 'validate'. Did you mean 'validation'?"),
        (
            {"dataset_id": "vision_tiny_v1"},
            preset_task("lm_tiny"),
            "vision_tiny_v1 has no rows for causal_lm; give `dataset_id` 'lm_tiny_v1'",
        ),
        ({}, preset_task("lm_tiny", vocab_size=9), "`vocab_size` 9: lm_tiny_v1 needs 16 ids or more"),
        ({}, preset_task("lm_tiny", max_seq_len=1), "no row has enough tokens to learn from, within `max_seq_len` 1"),
        (
            {},
            task_of("tabular_regression"),
            "no built-in dataset for tabular_regression: give `train` and `eval` a `path` or a `dataset`",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(keys: dict[str, str], task: object, words: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(EvalConfig(**keys), task)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_preset_is_covered_here() -> None:
    assert set(PRESET_OF) == set(DATASETS)
    assert set(PRESET_OF.values()) == set(PRESETS)
