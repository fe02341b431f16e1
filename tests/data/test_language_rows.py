"""Texts of a language model are cut without loss, padded with masks, and masked by seed."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import opened, task_of, write_rows

from harness.batches import IGNORED
from harness.data.loader import collate, mask_tokens
from harness.data.tokens import IdSpace

MASKED = task_of("masked_lm", vocab_size=100)


def decoded(dataset: object) -> list[str]:
    return [dataset.origin.tokenizer.decode(example["input_ids"].tolist()) for example in dataset]  # type: ignore[attr-defined]


def test_plain_text_runs_on_over_its_lines_and_only_a_last_single_token_is_left_out(tmp_path: Path) -> None:
    text = "One line,\n\nand another\r\nthat goes on – and on.\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    for length in (2, 3, 7, 24):
        task = task_of("causal_lm", max_seq_len=length)
        found = opened(tmp_path / "a.txt", task)
        raw = b"".join(bytes(id - 1 for id in example["input_ids"].tolist()) for example in found)
        assert raw == text.encode()[: len(raw)]
        assert len(text.encode()) - len(raw) <= 1
        assert all(len(example["input_ids"]) == length for example in list(found)[:-1])


def test_a_long_row_becomes_several_and_no_row_runs_into_the_next(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "abcdefgh"}, {"text": ""}, {"text": "ijk"}])
    assert decoded(opened(path, task_of("causal_lm", max_seq_len=3))) == ["abc", "def", "gh", "ijk"]
    assert decoded(opened(path, task_of("causal_lm", max_seq_len=7))) == ["abcdefg", "ijk"]
    assert decoded(opened(path, task_of("masked_lm", max_seq_len=7))) == ["abcdefg", "h", "ijk"]


def test_other_tasks_cut_a_row_s_end_off(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "abcdefgh", "label": 1}])
    assert decoded(opened(path, task_of("sequence_classification", max_seq_len=3))) == ["abc"]
    path = write_rows(tmp_path / "b.jsonl", [{"source": "abcdefgh", "target": "ijklmno"}])
    example = opened(path, task_of("seq2seq_lm", max_seq_len=3))[0]
    assert {len(tensor) for tensor in example.values()} == {3}


def test_padding_is_on_the_right_masked_and_not_learnt() -> None:
    task = task_of("causal_lm", pad_token_id=7)
    rows = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in ([1, 2, 3], [4])]
    batch = collate(task.signature, rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, IGNORED, IGNORED]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}


def test_fields_come_in_the_task_s_order() -> None:
    task = task_of("seq2seq_lm")
    row = {name: torch.tensor([1, 2]) for name in ("labels", "decoder_input_ids", "input_ids")}
    batch = collate(task.signature, [row, {**row, "labels": torch.tensor([3]), "decoder_input_ids": torch.tensor([3])}])
    assert list(batch) == ["input_ids", "attention_mask", "decoder_input_ids", "labels"]
    assert batch["decoder_input_ids"].tolist() == [[1, 2], [3, 0]]
    assert batch["labels"].tolist() == [[1, 2], [3, IGNORED]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 98), min_size=1, max_size=60), st.text(max_size=8))
def test_masking_hides_some_tokens_keeps_the_others_and_repeats_under_its_seed(ids: list[int], seed: str) -> None:
    example = {"input_ids": torch.tensor(ids)}
    masked = mask_tokens(example, MASKED, seed)
    chosen = masked["labels"] != IGNORED
    assert 1 <= int(chosen.sum()) <= len(ids)
    assert torch.equal(masked["labels"][chosen], example["input_ids"][chosen])
    assert torch.equal(masked["input_ids"][~chosen], example["input_ids"][~chosen])
    assert not bool((masked["input_ids"] == 0).any())
    again = mask_tokens(example, MASKED, seed)
    assert all(torch.equal(again[name], masked[name]) for name in masked)
    assert example["input_ids"].tolist() == ids


def test_the_shares_of_masking_are_bert_s() -> None:
    space, fates = IdSpace.of(MASKED), Counter[str]()
    ids = torch.full((1000,), 5)
    for seed in range(20):
        masked = mask_tokens({"input_ids": ids}, MASKED, str(seed))
        for token in masked["input_ids"][masked["labels"] != IGNORED].tolist():
            fates["hidden" if token == space.mask else "left" if token == 5 else "swapped"] += 1
    total = sum(fates.values())
    assert abs(total / 20_000 - 0.15) < 0.01
    assert abs(fates["hidden"] / total - 0.8) < 0.03
    assert abs(fates["swapped"] / total - 0.1) < 0.03


def test_rows_with_labels_of_their_own_are_not_masked_again() -> None:
    example = {"input_ids": torch.tensor([5, 99, 7]), "labels": torch.tensor([IGNORED, 6, IGNORED])}
    assert mask_tokens(example, MASKED, "0") is example


def test_a_text_of_a_single_line_is_cut_without_loss_and_without_holding_it(tmp_path: Path) -> None:
    text = "ça va – " * 30_000
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    task = task_of("causal_lm", max_seq_len=1000)
    tracemalloc.start()
    found = bytearray()
    for example in opened(tmp_path / "a.txt", task, memory_limit=0):
        found += bytes(id - 1 for id in example["input_ids"].tolist())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.decode() == text
    assert peak < len(found) + (2 << 20)
