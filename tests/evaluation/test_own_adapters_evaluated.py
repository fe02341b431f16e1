"""An adapter of the user's own has the say over what the loss is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from judging import (
    Echo,
    Lookup,
    classes_task,
    cross_entropy,
    echo_rows,
    judge,
    random_logits,
    random_table,
    random_texts,
    text_task,
)
from torch import Tensor, nn

from harness.adapters import Adapter, CausalLMAdapter
from harness.batches import Batch
from harness.errors import ForwardError

LOGITS, LABELS = random_logits(10, 3)
ROWS = echo_rows(LOGITS, LABELS)


class Hinge(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.multi_margin_loss(logits, batch["labels"])


class ByLength(CausalLMAdapter):
    """Every row counts the same."""

    def weight(self, batch: Batch) -> Tensor:
        return torch.tensor(len(batch["labels"]))


class Louder(Adapter):
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return 3 * super().logits(model, batch)


class Bare:
    """No subclass of ours, and without a weight."""

    def __init__(self, *_: Any) -> None: ...

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["features"])

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return 10 * F.cross_entropy(logits, batch["labels"])


def test_a_loss_of_ones_own_is_used_for_the_mean_and_for_every_row() -> None:
    task = classes_task(3)
    evaluation = judge(task, ROWS, adapter=Hinge(task))
    expected = F.multi_margin_loss(LOGITS, LABELS, reduction="none")
    assert evaluation.summary["loss"] == pytest.approx(expected.mean().item(), rel=1e-6)
    assert evaluation.scores["loss"] == pytest.approx(expected.numpy(), rel=1e-6)
    assert evaluation.summary["accuracy"] == judge(task, ROWS).summary["accuracy"]


def test_logits_of_ones_own_are_judged_by_the_usual_loss() -> None:
    task = classes_task(3)
    assert judge(task, ROWS, adapter=Louder(task)).summary["loss"] == pytest.approx(cross_entropy(3 * LOGITS, LABELS).mean())


def test_a_weight_of_ones_own_weighs_the_batches() -> None:
    task = text_task("causal_lm", 5)
    texts, table = random_texts((3, 20, 7), 5), random_table(5)
    evaluation = judge(
        task, [{"input_ids": text, "labels": text} for text in texts], Lookup(table), batch_size=1, adapter=ByLength(task)
    )
    losses = [cross_entropy(table[text[:-1]], text[1:]).mean() for text in texts]
    assert evaluation.summary["loss"] == pytest.approx(np.mean(losses))
    assert evaluation.summary["perplexity"] == pytest.approx(np.exp(np.mean(losses)))
    assert evaluation.scores["loss"] == pytest.approx(losses)


def test_an_adapter_need_not_subclass_ours() -> None:
    adapter: Any = Bare()
    evaluation = judge(classes_task(3), ROWS, adapter=adapter)
    assert evaluation.summary["loss"] == pytest.approx(10 * cross_entropy(LOGITS, LABELS).mean())


def test_batches_and_rows_without_labels_are_left_out() -> None:
    task = classes_task(3)
    adapter: Any = Bare()
    labels = LABELS.clone()
    labels[3:6] = -100
    labels[7] = -100
    evaluation = judge(task, echo_rows(LOGITS, labels), adapter=adapter)
    kept = labels != -100
    assert evaluation.summary["loss"] == pytest.approx(10 * cross_entropy(LOGITS[kept], labels[kept]).mean())
    assert np.isnan(evaluation.scores["loss"]).tolist() == (~kept).tolist()


def test_a_loss_that_raises_is_the_adapters_fault() -> None:
    class Faulty(Adapter):
        def loss(self, logits: Tensor, batch: Batch) -> Tensor:
            raise KeyError("weights")

    task = classes_task(3)
    with pytest.raises(ForwardError, match=r"Faulty\.loss raised KeyError"):
        judge(task, ROWS, Echo(), adapter=Faulty(task))
