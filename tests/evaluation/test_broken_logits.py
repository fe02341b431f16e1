"""NaN and infinity are neither hidden nor a crash."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from judging import Lookup, classes_task, echo_rows, judge, numbers_task, random_logits, random_table, random_texts, text_task

BROKEN = [math.nan, math.inf]


@pytest.mark.parametrize("value", BROKEN)
def test_a_broken_row_makes_the_loss_nan_and_counts_as_wrong(value: float) -> None:
    logits, labels = random_logits(30, 3, scale=9)
    logits[4, 1] = value
    labels[4] = 1
    evaluation = judge(classes_task(3), echo_rows(logits, labels))
    sound = torch.arange(30) != 4
    rest = judge(classes_task(3), echo_rows(logits[sound], labels[sound]))
    assert [name for name, number in evaluation.summary.items() if math.isnan(number)] == ["loss", "calibration_error", "roc_auc"]
    assert evaluation.summary["accuracy"] == pytest.approx(rest.summary["accuracy"] * 29 / 30)
    assert rest.summary["f1"] * 0.9 < evaluation.summary["f1"] < rest.summary["f1"]
    assert np.isnan(evaluation.scores["loss"]).nonzero()[0].tolist() == [4]
    assert evaluation.scores["correct"][4] == 0


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_a_model_that_says_nothing_but_nan_is_never_right(labels: list[int]) -> None:
    summary = judge(classes_task(3), echo_rows(torch.full((3, 3), math.nan), labels)).summary
    assert summary["accuracy"] == summary["f1"] == 0
    assert math.isnan(summary["loss"])


@pytest.mark.parametrize("value", [*BROKEN, -math.inf])
def test_broken_numbers(value: float) -> None:
    evaluation = judge(numbers_task(), echo_rows([[1.0], [value], [2.0]], [1.0, 2.0, 3.0]))
    assert list(evaluation.summary) == ["loss", "mae", "rmse", "r2"]
    assert all(map(math.isnan, evaluation.summary.values()))
    assert np.isnan(evaluation.scores["squared_error"]).tolist() == [False, True, False]


@pytest.mark.parametrize("value", BROKEN)
def test_a_broken_token(value: float) -> None:
    table = random_table(5)
    table[3] = value
    rows = [{"input_ids": text, "decoder_input_ids": text, "labels": text} for text in random_texts((4, 40), 5)]
    task = text_task("seq2seq_lm", 5, metrics=("perplexity", "accuracy", "bleu", "rouge_l"))
    evaluation = judge(task, rows, Lookup(table, "decoder_input_ids"))
    assert math.isnan(evaluation.summary["loss"])
    assert math.isnan(evaluation.summary["perplexity"])
    assert all(0 <= evaluation.summary[name] < 1 for name in ("accuracy", "bleu", "rouge_l"))


def test_broken_logits_where_nothing_is_asked_do_not_matter() -> None:
    table = random_table(5)
    table[3] = math.nan
    text = torch.tensor([1, 3, 2])
    rows = [{"input_ids": text, "labels": torch.tensor([0, -100, 1])}]
    assert math.isfinite(judge(text_task("token_classification", 5), rows, Lookup(table)).summary["loss"])


def test_a_class_ruled_out_is_no_broken_logit() -> None:
    logits, labels = random_logits(30, 3)
    logits[labels != 0, 0] = -math.inf
    summary = judge(classes_task(3), echo_rows(logits, labels)).summary
    assert all(map(math.isfinite, summary.values()))
    assert summary["roc_auc"] > 0.5


def test_a_label_ruled_out_is_an_infinite_loss() -> None:
    summary = judge(classes_task(3), echo_rows([[-math.inf, 0.0, 1.0]], [0])).summary
    assert (summary["loss"], summary["accuracy"]) == (math.inf, 0)
