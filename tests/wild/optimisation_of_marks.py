"""Reported bugs of a schedule by batches and of what is marked against decay: the ninth draw."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .optimisation_steps import Trained, configured
from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH = 29, 12
TEXT = task_of(task_type="causal_lm", vocab_size=WORDS, max_seq_len=10)


class Draft(Trained):
    """A small language model with a step every four batches; the bug hands the schedule the number of batches that was asked for."""

    def __init__(self, wrong: bool = False, accumulate: int = 4) -> None:
        super().__init__(wrong)
        self.automatic_optimization, self.accumulate = False, accumulate
        self.words, self.mix, self.lm_head = (
            nn.Embedding(WORDS, WIDTH),
            nn.GRU(WIDTH, WIDTH, batch_first=True),
            nn.Linear(WIDTH, WORDS),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lm_head(self.mix(self.words(input_ids))[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        scores = self(batch["input_ids"])[:, :-1]
        loss = F.cross_entropy(scores.flatten(0, 1), batch["input_ids"][:, 1:].flatten())
        self.manual_backward(loss / self.accumulate)
        if (batch_idx + 1) % self.accumulate == 0 or self.trainer.is_last_batch:
            optimizer.step()
            optimizer.zero_grad()
            schedule: Any = self.lr_schedulers()
            schedule.step()

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        batches = max(1, int(self.trainer.estimated_stepping_batches))
        total = batches if self.wrong else math.ceil(batches / self.accumulate)
        schedule = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_left_at_the_end(model: nn.Module) -> float:
    """The share of the rate that is left after 80 batches with a step every four."""
    found = configured(model, 1, 80)
    for _ in range(20):
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    return float(found["optimizer"].param_groups[0]["lr"] / 3e-3)


class GatedDecay(nn.Module):
    """A recurrence with a rate of forgetting for each unit; the bug marks the wrong tensor as one that is not to decay."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        rates = torch.empty(WIDTH).uniform_(1, 4).log()
        self.A_log = nn.Parameter(rates)
        self.dt_bias = nn.Parameter(torch.full((WIDTH,), -2.0))
        (rates if wrong else self.A_log)._no_weight_decay = True  # type: ignore[union-attr]
        self.dt_bias._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.exp(-self.A_log.exp() * F.softplus(self.into(x) + self.dt_bias))
        state, states = torch.zeros_like(x[:, 0]), []
        for time in range(x.shape[1]):
            state = kept[:, time] * state + x[:, time]
            states.append(state)
        return self.out(torch.stack(states, 1))


class DeltaLM(Trained):
    """A language model over such a recurrence, with decay for all that is not marked."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.words, self.mixer, self.lm_head = nn.Embedding(WORDS, WIDTH), GatedDecay(wrong), nn.Linear(WIDTH, WORDS, bias=False)
        self.words.weight._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        return self.lm_head(x + self.mixer(x))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch["input_ids"])[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())

    def configure_optimizers(self) -> Any:
        spared = [each for each in self.parameters() if getattr(each, "_no_weight_decay", False)]
        decayed = [each for each in self.parameters() if not getattr(each, "_no_weight_decay", False)]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=3e-3)


def decayed_rates(model: Any) -> float:
    """How many vectors have weight decay."""
    groups = model.configure_optimizers().param_groups
    return float(sum(each.ndim < 2 for group in groups if group["weight_decay"] for each in group["params"]))


add = partial(pair_of_one_class, judge=Training, area="optimisation", draw=9, long=True)
WARNS: dict[str, Any] = {"status": Status.WARN}
add(
    "schedule_of_batches_stepped_by_steps",
    "A length of the schedule that is given in batches is not divided by those of a step",
    "vllm-project/speculators#859",
    "text",
    "learning_rate_schedule",
    Draft,
    rate_left_at_the_end,
    TEXT,
    line="total =",
    **WARNS,
    first_run=FirstRun("c9711093", found=True, named=False, said="learning_rate_schedule warns"),
    unnamed="names the line that makes the schedule, and not that of its length",
)
add(
    "mark_against_decay_on_another_tensor",
    "What is not to decay is marked before it is made a parameter, and the mark is lost",
    "fla-org/flash-linear-attention#629",
    "text",
    "parameter_groups[decay]",
    DeltaLM,
    decayed_rates,
    TEXT,
    module="mixer",
    **WARNS,
    first_run=FirstRun(
        "c9711093", found=False, named=False, said="nothing: only scales of norms, biases and embeddings are judged"
    ),
    missed="which vectors beside norms and biases decay is a choice, and a mark on a tensor that is no parameter is not seen",
)
