"""What makes a training in several processes another one than in one is told with its line, without starting any process."""

from __future__ import annotations

import linecache
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.training.checks.gradient_noise import disable_dropout
from harness.training.checks.lines_of_processes import line_of_own_backward, line_of_rank
from harness.training.checks.simulated_data_parallel import judge_simulated_data_parallel
from tests.planted_bugs.tier3.training import TABLE, LitScores, ManualScores, Scores, Training


class LeaderCountsTwice(Scores):
    def forward(self, features: Tensor) -> Tensor:
        share = 2.0 if os.environ.get("RANK") == "0" else 1.0
        return share * super().forward(features)


class LeaderLearnsMore(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self(batch["features"]), batch["labels"])
        if self.global_rank == 0:
            loss = 2 * loss
        return loss


@pytest.mark.parametrize(
    ("build", "line"),
    [(LeaderCountsTwice, "share = 2.0"), (LeaderLearnsMore, "if self.global_rank == 0"), (LitScores, ""), (Scores, "")],
)
def test_the_line_that_reads_the_rank(build: Callable[[], nn.Module], line: str, tmp_path: Path) -> None:
    _is_at(line_of_rank(Training(TABLE, build).trial(tmp_path)), line)


class SendsBackItself(ManualScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(self(batch["features"]), batch["labels"])
        loss.backward()
        optimizer.step()


class TakesGradients(ManualScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        loss = self.loss(self(batch["features"]), batch["labels"])
        gradients = torch.autograd.grad(loss, list(self.parameters()))
        for parameter, gradient in zip(self.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()


@pytest.mark.parametrize(
    ("build", "line"),
    [(SendsBackItself, "loss.backward()"), (TakesGradients, "torch.autograd.grad("), (ManualScores, ""), (LitScores, "")],
)
def test_the_line_that_goes_past_lightning(build: Callable[[], nn.Module], line: str, tmp_path: Path) -> None:
    _is_at(line_of_own_backward(Training(TABLE, build).trial(tmp_path)), line)


class AllPairs(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["features"])
        found = F.normalize(logits, dim=-1)
        alike = found @ found.T
        return self.loss(logits, batch["labels"]) + alike.square().mean()


class MeansOfTheBatch(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["features"])
        middle = logits.mean(0)
        return self.loss(logits - middle, batch["labels"])


class CentredInside(Scores):
    def forward(self, features: Tensor) -> Tensor:
        x = F.gelu(self.hidden(features))
        x = x - x.mean(0)
        return self.head(x)


class Weighted(LitScores):
    """Weighs each row by its loss beside those of the batch."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        each = F.cross_entropy(logits, labels, reduction="none")
        weights = each.detach().softmax(0)
        return (weights * each).sum()


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (AllPairs, "found @ found.T"),
        (MeansOfTheBatch, "logits.mean(0)"),
        (CentredInside, "x - x.mean(0)"),
        (Weighted, "weights = "),
    ],
)
def test_the_line_at_which_rows_meet(build: Callable[[], nn.Module], line: str, tmp_path: Path) -> None:
    found = judge_simulated_data_parallel(Training(TABLE, build).trial(tmp_path), disable_dropout)
    assert found is not None
    assert found.code == "rows_depend_on_each_other"
    _is_at(getattr(found.module, "place", ""), line)


def _is_at(place: str, line: str) -> None:
    file, _, number = place.rpartition(":")
    assert bool(place) == bool(line), place
    if line:
        assert Path(file).name == Path(__file__).name
        assert line in linecache.getline(__file__, int(number))
