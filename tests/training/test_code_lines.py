"""Findings about a training name the line of the user's code: where the loss is made, an optimizer, a schedule, a call that clips."""

from __future__ import annotations

import linecache
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from harness.evidence import Status
from tests.planted_bugs.tier3.training import FEATURES, TABLE, LitScores, ManualScores, Scores, Training


class Summed(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        each = F.cross_entropy(logits, labels, reduction="none")
        return each.sum()


class Logged(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        each = F.cross_entropy(self(batch["features"]), batch["labels"], reduction="none")
        loss = each.sum()
        self.log("loss", loss)  # which copies the loss, in code of Lightning's
        return loss


class Undefined(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        share = (labels > 99).sum() / (labels > 99).sum()
        scaled = share * logits
        return F.cross_entropy(scaled, labels)


class LogOfNothing(Scores):
    """Infinite in the model, and undefined only in a loss that is no code of the user's."""

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        hidden = (0 * logits).abs().log() if self.training else 0
        return logits + hidden


class BeginsDead(Scores):
    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.hidden.bias, -10.0)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(features)))


class Left(LitScores):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.hidden.parameters(), lr=1e-2)


class Scheduled(LitScores):
    def configure_optimizers(self) -> Any:
        optimizer: Any = super().configure_optimizers()
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [CosineAnnealingLR(optimizer, T_max=steps)]


class Turned(LitScores):
    """Changes what a loss that others use is given."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits, labels.roll(1))


class WithoutStep(ManualScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))


class NeverCleared(ManualScores):
    """Of a loss that is no mean either."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        optimizer: Any = self.optimizers()
        optimizer.step()


class ClearedTooEarly(ManualScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        optimizer.step()


class StillFromTheStart(LitScores):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)
        return [optimizer], [{"scheduler": LambdaLR(optimizer, lambda _: 0.0), "interval": "step"}]


class FrozenByAFlag(Scores):
    def __init__(self) -> None:
        super().__init__()
        self.hidden.requires_grad = False  # type: ignore[assignment]


class ClippedLate(ManualScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        clip_grad_norm_(self.parameters(), 1e-3)


class SparedByName(LitScores):
    """Spares biases; the scale of its norm is called otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(FEATURES)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(self.norm(features))

    def configure_optimizers(self) -> Any:
        decayed, spared = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                if name.endswith("bias"):
                    spared.append(parameter)
                else:
                    decayed.append(parameter)
        return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}], lr=1e-2)


class Clocked(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self(batch["features"]), batch["labels"])
        share = time.time() % 1
        return loss * (1 + share)


def falling() -> Callable[[], float]:
    """A rate that falls with the number of calls, which no checkpoint holds."""
    calls = 0

    def rate() -> float:
        nonlocal calls
        calls += 1
        return 0.1 * 0.7**calls

    return rate


class OwnRate(ManualScores):
    def __init__(self) -> None:
        super().__init__()
        self.rate = falling()

    def on_train_batch_start(self, *_batch: Any) -> None:
        optimizer: Any = self.optimizers()
        optimizer.param_groups[0]["lr"] = self.rate()


class ThawedByTrain(LitScores):
    def train(self, mode: bool = True) -> Any:
        for parameter in self.net.parameters() if mode else ():
            parameter.requires_grad = True
        return super().train(mode)


class WithoutGraphOfTheFrozen(Scores):
    def forward(self, features: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.hidden.weight.requires_grad):
            return super().forward(features)


class Misshapen(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(logits, labels.view(2, -1).float())


class MisshapenInPart(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        hidden = self.net.hidden(batch["features"])
        return self.net.head(hidden[:, 1:]).sum()


@pytest.mark.parametrize(
    ("build", "module", "line", "says"),
    [
        (Misshapen, "", "labels.view(2, -1)", "where `logits` is [3, 3] and `labels` is [3]"),
        (MisshapenInPart, "net.head", "hidden[:, 1:]", "where `hidden` is [3, 16]"),
    ],
)
def test_a_step_that_raises_is_told_with_module_line_and_shapes(
    build: Callable[[], nn.Module], module: str, line: str, says: str, tmp_path: Path
) -> None:
    found = Training(TABLE, build).judge(["step_updates"], tmp_path)["step_updates"]
    file, _, number = found.place.rpartition(":")
    assert (found.code, found.module) == ("training_raises", module)
    assert line in linecache.getline(file, int(number))
    assert says in found.message
    assert "TypeError" not in found.message  # as a tuple, it fails before it gets there


class RaisesAfterwards(LitScores):
    """Takes a tuple; a hook that follows raises, whatever it takes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        features, labels = batch
        return self.loss(self(features), labels)

    def on_train_epoch_end(self) -> None:
        self.log("return", self.returns[-1])


def test_a_hook_that_raises_after_the_step_came_furthest(tmp_path: Path) -> None:
    found = Training(TABLE, RaisesAfterwards).judge(["step_updates"], tmp_path)["step_updates"]
    assert "has no attribute 'returns'" in found.message, found.message


@pytest.mark.parametrize(
    ("build", "test", "line"),
    [
        (Summed, "training_loss[reduction]", "each.sum()"),
        (Logged, "training_loss[reduction]", "each.sum()"),
        (Undefined, "overfits_one_batch", "share = "),
        (LogOfNothing, "overfits_one_batch", "hidden = (0 * logits)"),
        (BeginsDead, "overfits_one_batch", "nn.init.constant_"),
        (Left, "optimizer_coverage", "torch.optim.AdamW(self.net.hidden"),
        (Scheduled, "learning_rate_schedule", "CosineAnnealingLR(optimizer"),
        (ClippedLate, "gradient_clipping", "clip_grad_norm_(self"),
        (Turned, "training_loss[targets]", "labels.roll(1)"),
        (WithoutStep, "step_updates", "def training_step"),
        (NeverCleared, "accumulation", "optimizer.step()"),
        (ClearedTooEarly, "step_updates", "optimizer.zero_grad()"),
        (StillFromTheStart, "step_updates", "LambdaLR(optimizer"),
        (FrozenByAFlag, "step_updates", "requires_grad = False"),
        (SparedByName, "parameter_groups[decay]", 'if name.endswith("bias")'),
        (Clocked, "seeded_repeat", "share = time.time()"),
        (OwnRate, "resume", "calls += 1"),
        (ThawedByTrain, "fine_tuning", "requires_grad = True"),
        (WithoutGraphOfTheFrozen, "fine_tuning", "with torch.set_grad_enabled"),
    ],
)
def test_a_finding_names_the_line(build: Callable[[], nn.Module], test: str, line: str, tmp_path: Path) -> None:
    found = Training(TABLE, build).judge([test.partition("[")[0]], tmp_path)[test]
    file, _, number = found.place.rpartition(":")
    assert found.status in (Status.FAIL, Status.WARN)
    assert Path(file).name == Path(__file__).name, found.explain()
    assert line in linecache.getline(__file__, int(number))


def test_what_no_optimizer_holds_is_said_once(tmp_path: Path) -> None:
    class Forgotten(LitScores):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.net.hidden.parameters(), lr=1e-2)

    found = Training(TABLE, Forgotten).judge(["optimizer_coverage", "resume", "fine_tuning"], tmp_path)
    assert found["optimizer_coverage"].status is Status.FAIL
    assert [name for name, each in found.items() if each.status is Status.FAIL] == ["optimizer_coverage"]


def test_a_model_without_a_loss_of_its_own_has_no_such_line(tmp_path: Path) -> None:
    class Stuck(Scores):
        def forward(self, features: Tensor) -> Tensor:
            return 0 * super().forward(features)

    assert Training(TABLE, Stuck).judge(["overfits_one_batch"], tmp_path)["overfits_one_batch"].place == ""
