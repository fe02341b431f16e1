"""Models that cannot learn, and optimizers that do not let them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from ..register import HUMBATOVA, ISLAM, RECIPE
from .training import LIT_SCORES, NUMBER, NUMBERS, SCORES, TABLE, LitScores, Scores, Training, plant


class ScaledTwice(Scores):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features / 255 / 255 / 255)


class EndsInSigmoid(Scores):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).sigmoid()


class Positive(Scores):
    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).sigmoid()


class DeadUnits(Scores):
    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.hidden.bias, -10.0)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(features)))


class LiveUnits(DeadUnits):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.hidden.bias)


class LogOfNegative(Scores):
    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits + (0.0 * logits).log() if self.training else logits


class SmallRate(LitScores):
    rate = 1e-7

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class LongWarmUp(LitScores):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100_000))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


plant(
    "inputs_scaled_to_nothing",
    "overfits_one_batch",
    Training(TABLE, ScaledTwice),
    SCORES,
    "cannot_overfit",
    HUMBATOVA,
    says="cannot overfit 4 rows: the loss is",
)
plant(
    "sigmoid_before_cross_entropy",
    "overfits_one_batch",
    Training(TABLE, EndsInSigmoid),
    SCORES,
    "cannot_overfit",
    HUMBATOVA,
    says="though every label is predicted correctly: the logits stay between -1 and 1",
)
plant(
    "output_cannot_be_negative",
    "overfits_one_batch",
    Training(NUMBER, Positive),
    NUMBERS,
    "cannot_overfit",
    HUMBATOVA,
)
plant(
    "dead_units",
    "overfits_one_batch",
    Training(TABLE, DeadUnits),
    Training(TABLE, LiveUnits),
    "cannot_overfit",
    HUMBATOVA,
    module="hidden",
    says="`hidden` hardly changed",
)
plant(
    "nan_in_training",
    "overfits_one_batch",
    Training(TABLE, LogOfNegative),
    SCORES,
    "diverged",
    ISLAM,
    says="the loss became NaN or infinite at step 1",
)
plant(
    "rate_far_too_small",
    "overfits_one_batch",
    SCORES.under(learning_rate=2e-5),
    SCORES,
    "only_with_other_rate",
    HUMBATOVA,
    status=Status.WARN,
    says="0.002 does in",
)
plant(
    "rate_far_too_large",
    "overfits_one_batch",
    SCORES.under(learning_rate=50.0),
    SCORES,
    "only_with_other_rate",
    HUMBATOVA,
    status=Status.WARN,
    says="5 does in",
)
plant(
    "own_rate_far_too_small",
    "overfits_one_batch",
    Training(TABLE, SmallRate),
    LIT_SCORES,
    "only_with_other_rate",
    RECIPE,
    status=Status.WARN,
    says="AdamW at 0.001 does in",
)
plant(
    "warm_up_of_a_long_run",
    "overfits_one_batch",
    Training(TABLE, LongWarmUp),
    LIT_SCORES,
    "only_with_other_rate",
    RECIPE,
    status=Status.WARN,
)
