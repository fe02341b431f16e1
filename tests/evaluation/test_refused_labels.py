"""Labels and logits that cannot be compared are refused, by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from judging import Lookup, classes_task, echo_rows, judge, numbers_task, random_logits, random_table, text_task

from harness.errors import DataError, OutputError

LOGITS, LABELS = random_logits(10, 3)
TEXT = torch.tensor([1, 2, 3])


def with_label(value: int) -> Any:
    labels = LABELS.clone()
    labels[7] = value
    return echo_rows(LOGITS, labels)


@pytest.mark.parametrize("value", [3, -1, -101])
def test_a_label_out_of_range_is_named_by_its_row(value: int) -> None:
    message = rf"^the evaluation data, row 8: label {value} is out of range: the ids go from 0 to 2, and -100 is left out$"
    with pytest.raises(DataError, match=message):
        judge(classes_task(3), with_label(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_to_predict_must_be_one(value: float) -> None:
    with pytest.raises(DataError, match=r"row 2: label (nan|inf) is not a finite number"):
        judge(numbers_task(), echo_rows([[0.0], [1.0]], [0.0, value]))


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        (classes_task(3), [{"features": LOGITS[0]}], "has no `labels`"),
        (classes_task(3), echo_rows(LOGITS, LABELS.double()), "are torch.float64, .* needs class ids"),
        (classes_task(3), echo_rows(LOGITS, LOGITS), r"have shape \[3, 3\], `logits` needs \[batch\]"),
        (classes_task(3), echo_rows(LOGITS, torch.full((10,), -100)), "no row has a label"),
        (classes_task(3), [], "no row has a label"),
    ],
)
def test_labels_of_no_use_are_refused(task: Any, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        judge(task, rows)


def test_a_causal_lm_of_single_tokens_has_nothing_to_predict() -> None:
    rows = [{"input_ids": TEXT[:1], "labels": TEXT[:1]}]
    with pytest.raises(DataError, match="no row has a label"):
        judge(text_task("causal_lm", 5), rows, Lookup(random_table(5)))


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(OutputError, match=r"`logits` has shape \[3, 3\], expected \[3, 4\] for \[batch, 4\]"):
        judge(classes_task(4), echo_rows(LOGITS, LABELS))
    with pytest.raises(OutputError, match=r"expected \[1, 3, 9\] for \[batch, seq, 9\]"):
        judge(text_task("causal_lm", 9), [{"input_ids": TEXT, "labels": TEXT}], Lookup(random_table(5)))
