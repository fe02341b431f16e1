"""The two engines take the same steps, and continue from any of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_bugs.tier3.training import TABLE, LitScores, Training
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import Sizes, make_batch, pad_right, rows
from harness.config import TrainingConfig
from harness.errors import CheckpointError, DivergedError
from harness.evidence import Status
from harness.models.stubs import build_stub
from harness.tasks import TaskSpec, TaskType
from harness.training import Step
from harness.training.optimisation import Objective

from .jobs import Engine, same_bits, train


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"accumulate_grad_batches": 3},
        {"max_grad_norm": 0.0, "weight_decay": 0.3, "warmup_ratio": 0.0},
        {"max_grad_norm": 0.1, "precision": "bf16-mixed"},
        {"task_name": "vision_tiny"},
        {"task_name": "cls_tiny", "accumulate_grad_batches": 2},
    ],
    ids=str,
)
def test_lightning_and_the_plain_loop_agree_to_the_bit(keys: dict[str, Any]) -> None:
    plain, plain_steps = train("plain", **keys)
    lightning, lightning_steps = train("lightning", **keys)
    assert same_bits(plain, lightning)
    for left, right in zip(plain_steps, lightning_steps, strict=True):
        assert (left.loss, left.learning_rate, left.grad_norm, left.examples) == (
            right.loss,
            right.learning_rate,
            right.grad_norm,
            right.examples,
        )


@cache
def uninterrupted(engine: Engine) -> tuple[nn.Module, list[Step]]:
    """The run that the resumed ones are compared with."""
    return train(engine, accumulate_grad_batches=2)


@pytest.mark.parametrize("engine", ["plain", "lightning"])
@pytest.mark.parametrize(
    "stop", [1, *(pytest.param(step, marks=pytest.mark.long) for step in (3, 5)), 4, 7], ids=lambda step: f"step{step}"
)
def test_a_run_stopped_at_any_step_goes_on_as_if_it_had_not_been(engine: Engine, stop: int, tmp_path: Path) -> None:
    whole, steps = uninterrupted(engine)
    _, before = train(engine, accumulate_grad_batches=2, folder=tmp_path, limit=stop)
    resumed, after = train(engine, accumulate_grad_batches=2, folder=tmp_path, resume=True)
    assert same_bits(whole, resumed)
    assert [step.step for step in before + after] == [step.step for step in steps]
    assert [step.loss for step in before + after] == [step.loss for step in steps]


@pytest.mark.parametrize("engine", ["plain", "lightning"])
def test_a_checkpoint_of_another_model_is_refused(engine: Engine, tmp_path: Path) -> None:
    train(engine, folder=tmp_path, limit=1)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of this \w+; missing: "):
        train(engine, folder=tmp_path, resume=True, task_name="cls_tiny")


def test_a_checkpoint_of_the_other_engine_is_refused(tmp_path: Path) -> None:
    train("plain", folder=tmp_path, limit=1)
    with pytest.raises(CheckpointError, match="written by the plain loop") as by_the_other:
        train("lightning", folder=tmp_path, resume=True)
    train("lightning", folder=tmp_path, limit=1)
    with pytest.raises(CheckpointError, match="written by Lightning") as by_lightning:
        train("plain", folder=tmp_path, resume=True)
    for error in (by_the_other, by_lightning):
        assert set(re.findall(r"`(\w+)`", str(error.value))) <= set(TrainingConfig.model_fields), "a key that no config has"


class Explodes(nn.Module):
    """Its activation overflows once its scale has grown, as it does at the third step."""

    def __init__(self) -> None:
        super().__init__()
        task = TaskSpec(TaskType.CAUSAL_LM, vocab_size=128, max_seq_len=32)
        self.body = build_stub(task)
        self.gate = Gate()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.gate(self.body(input_ids, attention_mask))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, logits: Tensor) -> Tensor:
        self.calls += 1
        return logits / (0.0 if self.calls >= 3 else 1.0)


@pytest.mark.parametrize("engine", ["plain", "lightning"])
def test_a_loss_that_becomes_nan_stops_at_its_step_and_names_the_module(engine: Engine, tmp_path: Path) -> None:
    model = Explodes()
    with pytest.raises(DivergedError) as caught:
        train(engine, model=model, folder=tmp_path)
    said = str(caught.value)
    assert said.startswith(
        "the loss became NaN or infinite at step 3 (epoch 0), first seen in `gate`; training stopped before the weights were updated"
    )
    assert f"the last good checkpoint is {tmp_path / 'last.ckpt'}" in said
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


class RootGradient(nn.Module):
    """Its forward is finite, its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.root = Root()

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features) + self.root(self.head.weight)


class Root(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight - weight).sum().sqrt()


def test_a_gradient_that_is_nan_names_the_module() -> None:
    from harness.properties.subject import Subject
    from harness.training.trial import Trial

    task = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=5, num_classes=3)
    subject = Subject(RootGradient(), make_adapter(task), task)
    with pytest.raises(
        DivergedError, match=r"the gradient became NaN or infinite at step 1 .*first seen in the gradient of `root`"
    ):
        Trial(subject).train([subject.batch()])


TEXT = TaskSpec(TaskType.CAUSAL_LM, vocab_size=31, max_seq_len=12, pad_token_id=0)


def test_accumulated_gradients_are_those_of_the_large_batch_whatever_its_padding() -> None:
    adapter, model = make_adapter(TEXT), build_stub(TEXT).eval().double()
    whole = pad_right(TEXT, make_batch(TEXT, Sizes(4, 10)), [10, 2, 3, 9], 10)

    def gradients(parts: list[slice]) -> list[Tensor]:
        model.zero_grad()
        objective = Objective(adapter, TEXT, accumulate=len(parts))
        for part in parts:
            (objective.loss(model, rows(whole, part)) / len(parts)).backward()
        objective.finish(model.parameters())
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    large = gradients([slice(0, 4)])
    for parts in ([slice(0, 2), slice(2, 4)], [slice(0, 3), slice(3, 4)], [slice(i, i + 1) for i in range(4)]):
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-14) for a, b in zip(large, gradients(parts), strict=True))


def test_a_batch_without_labels_adds_nothing() -> None:
    adapter, model = make_adapter(TEXT), build_stub(TEXT).eval().double()
    batch, empty = make_batch(TEXT, Sizes(2, 10)), make_batch(TEXT, Sizes(2, 10), seed=1)
    empty["labels"] = torch.full_like(empty["labels"], -100)
    alone = Objective(adapter, TEXT)
    alone.loss(model, batch).backward()
    expected = alone.finish(model.parameters())
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    both = Objective(adapter, TEXT, accumulate=2)
    for part in (batch, empty):
        (both.loss(model, part) / 2).backward()
    found = both.finish(model.parameters())
    assert float(found.loss) == pytest.approx(float(expected.loss))
    assert all(
        torch.allclose(a, parameter.grad)
        for a, parameter in zip(gradients, model.parameters(), strict=True)
        if parameter.grad is not None
    )


class DataElsewhere(LitScores):
    """Downloads and opens data of its own, which is not there."""

    def prepare_data(self) -> None:
        raise OSError("no network")

    def setup(self, stage: str) -> None:
        self.scale = 2.0
        raise FileNotFoundError(f"train/images for {stage}")

    def train_dataloader(self) -> Any:
        raise AssertionError("the job has batches")

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.scale * super().loss(logits, labels)


class SetupRaises(LitScores):
    """Makes what training needs."""

    def setup(self, stage: str) -> None:
        raise RuntimeError(f"no weights for {stage}")


@pytest.mark.parametrize(("build", "status"), [(DataElsewhere, Status.OK), (SetupRaises, Status.FAIL)])
def test_a_module_is_trained_without_its_own_data(build: type[LitScores], status: Status, tmp_path: Path) -> None:
    found = Training(TABLE, build).judge(["step_updates"], tmp_path)["step_updates"]

    assert found.status is status, found.explain()
