"""LightningModules that bring a validation: what is judged of it, and trainings whose callbacks or schedules read its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from planted_bugs.tier3.training import LIT_SCORES, SCORES, TABLE, Training
from planted_bugs.tier3.validation import Validated
from torch import Tensor

from harness.evidence import Status


class Plateau(Validated):
    """A rate that follows the result of validation."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class PlateauOfTuples(Plateau):
    """The same of batches that are tuples, as datasets of PyTorch give them."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        features, labels = batch
        return self.loss(self(features), labels)

    def validation_step(self, batch: Any, _index: int) -> None:
        features, labels = batch
        self.log("val_loss", self.loss(self(features), labels))


class Stops(Validated):
    def configure_callbacks(self) -> list[Callback]:
        return [EarlyStopping("val_loss")]


class OtherBatches(Validated):
    def validation_step(self, batch: dict[str, Tensor], _index: int) -> None:
        self.log("val_loss", self(batch["image"]).mean())


@pytest.mark.parametrize(
    ("training", "reason"),
    [
        (SCORES, "the model is not a LightningModule"),
        (LIT_SCORES, "the model has no `validation_step`"),
        (Training(TABLE, Plateau), "reads the result of validation"),
        (Training(TABLE, Stops), "reads the result of validation"),
        (Training(TABLE, OtherBatches), "`validation_step` cannot be called with a batch of training: KeyError: 'image'"),
    ],
    ids=["plain", "no validation", "plateau", "early stopping", "other batches"],
)
def test_what_cannot_be_compared_is_skipped_with_its_reason(training: Training, reason: str, tmp_path: Path) -> None:
    found = training.judge(["validation_pass"], tmp_path)["validation_pass"]

    assert found.status is Status.SKIPPED
    assert reason in found.message


@pytest.mark.parametrize("build", [Plateau, Stops])
def test_a_training_that_reads_the_result_of_validation_is_judged_with_one(build: type[Validated], tmp_path: Path) -> None:
    found = Training(TABLE, build).judge(["step_updates", "optimizer_coverage"], tmp_path)

    assert {name: evidence.status for name, evidence in found.items()} == {
        "step_updates": Status.OK,
        "optimizer_coverage": Status.OK,
    }


def test_a_check_that_changes_the_config_knows_the_form_of_batches(tmp_path: Path) -> None:
    found = Training(TABLE, PlateauOfTuples).judge(["step_updates", "gradient_clipping"], tmp_path)

    assert found["gradient_clipping"].message == "the model clips no gradients itself"
