"""Models that cannot learn, and optimizers that do not let them."""

from __future__ import annotations

from functools import partial
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


class Standardised(LitScores):
    """Learns numbers as distances from a mean; forward brings them back."""

    def __init__(self, is_back: bool = True) -> None:
        super().__init__()
        self.net, self.is_back = Scores(1), is_back
        self.register_buffer("mean", torch.tensor(4.0))

    def forward(self, features: Tensor) -> Tensor:
        found = self.net(features)[:, 0]
        return 2 * found + self.mean if self.is_back else found

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(batch["features"])[:, 0], (batch["labels"] - self.mean) / 2)


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
    also=("training_loss[scores]",),
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
    "answers_on_another_scale",
    "overfits_one_batch",
    Training(NUMBER, partial(Standardised, is_back=False)),
    Training(NUMBER, Standardised),
    "output_on_another_scale",
    HUMBATOVA,
    says="is not the labels: it is the labels times 0.5 minus 2",
    also=("training_loss[targets]",),
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
