"""Reported bugs of trainings: a part that no optimizer holds, a schedule of a wrong number, an average that runs away, a mode that stays."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.tier3.training import Training

from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, CLASSES, BANDS = 23, 12, 4, 6
TEXTS = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=10, pad_token_id=0, num_classes=CLASSES)
SOUNDS = task_of(
    inputs={"sound": {"axes": ["batch", 1, 32]}}, outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}}
)
NOISY = task_of(
    inputs={"sample": {"axes": ["batch", BANDS]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", BANDS], "kind": "values"}},
)


class TextClassifier(lightning.LightningModule):
    """Classes of texts, read by a pooler from the mean of their words."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.pooler, self.drop = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        real = attention_mask[..., None].to(self.words.weight.dtype)
        mean = (self.words(input_ids) * real).sum(1) / real.sum(1).clamp(min=1)
        return self.classifier(self.drop(self.pooler(mean).tanh()))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.trained(), lr=5e-3)

    def trained(self) -> list[nn.Parameter]:
        return list(self.parameters())


class WithoutPooler(TextClassifier):
    """The bug leaves the pooler out of the optimizer, as of a task that does not read it."""

    def trained(self) -> list[nn.Parameter]:
        return [each for name, each in self.named_parameters() if not (self.wrong and "pooler" in name)]


def untrained_parts(model: Any) -> float:
    """How many parameters no optimizer holds."""
    held = {id(each) for group in model.configure_optimizers().param_groups for each in group["params"]}
    return float(sum(id(each) not in held for each in model.parameters()))


class EvaluatedOnTheWay(TextClassifier):
    """Looks at its loss without dropout after every second batch; the bug never goes back to train mode."""

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        if batch_idx % 2:
            self.eval()
            with torch.no_grad():
                self.training_step(batch, batch_idx)
            if not self.wrong:
                self.train()


def left_in_eval_mode(model: Any) -> float:
    """Whether a model in training is in eval mode after an evaluation."""
    model.train()
    ids = torch.ones(2, 4, dtype=torch.long)
    model.on_train_batch_end(None, {"input_ids": ids, "attention_mask": ids, "labels": torch.zeros(2, dtype=torch.long)}, 1)
    return float(not model.training)


class SoundClassifier(lightning.LightningModule):
    """Classes of sounds, with a rate that falls every few epochs; the bug takes the rate for the number of epochs."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.rate = wrong, 5e-3
        self.net = nn.Sequential(nn.Conv1d(1, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten())
        self.head = nn.Linear(32, CLASSES)

    def forward(self, sound: Tensor) -> Tensor:
        return self.head(self.net(sound))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["sound"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate)
        every: Any = self.rate if self.wrong else 1
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=every, gamma=0.8)]


def rate_after_thirty_epochs(model: Any) -> float:
    """What is left of the rate after thirty epochs, beyond what a fall by a fifth in each leaves."""
    (optimizer,), (schedule,) = model.configure_optimizers()
    for _ in range(30):
        optimizer.step()
        schedule.step()
    return float(optimizer.param_groups[0]["lr"] / model.rate - 0.8**30)


class Denoiser(lightning.LightningModule):
    """A denoiser that answers by its average; the bug adds the gap between both where it is to be taken off."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.steps, self.net = (
            nn.Embedding(20, WIDTH),
            nn.Sequential(nn.Linear(BANDS + WIDTH, 16), nn.Tanh(), nn.Linear(16, BANDS)),
        )
        self.shadow = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, sample: Tensor, step: Tensor) -> Tensor:
        return (self.net if self.training else self.shadow)(torch.cat([sample, self.steps(step)], 1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(torch.cat([batch["sample"], self.steps(batch["step"])], 1)), batch["labels"])

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for slow, fast in zip(self.shadow.parameters(), self.net.parameters(), strict=True):
            gap = (slow - fast) * 0.1
            slow.add_(gap if self.wrong else -gap)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([*self.steps.parameters(), *self.net.parameters()], lr=5e-3)


def shadow_that_runs_away(model: Any) -> float:
    """How much farther the average is from the weights after ten updates than before."""
    with torch.no_grad():
        model.net[0].weight += 1
        before = float((model.net[0].weight - model.shadow[0].weight).abs().max())
        for _ in range(10):
            model.on_train_batch_end(None, None, 0)
        return max(0.0, float((model.net[0].weight - model.shadow[0].weight).abs().max()) - before)


add = partial(pair_of_one_class, area="optimisation", judge=Training, draw=4, long=True)
add(
    "pooler_left_out",
    "The pooler is left out of what the optimizer holds, though the classifier reads it",
    "huggingface/transformers#461",
    "text",
    "optimizer_coverage",
    WithoutPooler,
    untrained_parts,
    TEXTS,
    or_tests=("step_updates",),
    module="pooler",
    first_run=FirstRun("79f3b8c", found=True, named=True, said="optimizer_coverage fails in pooler.weight"),
)
add(
    "eval_mode_from_then_on",
    "An evaluation between two steps leaves the model in eval mode, so that nothing is dropped from then on",
    "asyml/texar-pytorch#310",
    "text",
    "validation_pass",
    EvaluatedOnTheWay,
    left_in_eval_mode,
    TEXTS,
    area="train_mode",
    or_tests=("step_updates", "resume"),
    first_run=FirstRun(
        "79f3b8c",
        found=True,
        named=True,
        said="resume fails: the resumed run drops and the uninterrupted one does not; nothing says that it is the mode",
    ),
)
add(
    "rate_for_a_number_of_epochs",
    "The learning rate is given as the number of epochs after which the rate falls",
    "yeyupiaoling/AudioClassification-Pytorch#2",
    "speech",
    "learning_rate_schedule",
    SoundClassifier,
    rate_after_thirty_epochs,
    SOUNDS,
    first_run=FirstRun(
        "79f3b8c", found=False, named=False, said="learning_rate_schedule says that the rate goes from 0.005 to 0.005"
    ),
)
add(
    "average_that_runs_away",
    "The gap between average and weights is added where it is to be taken off, so that the average runs away",
    "ostris/ai-toolkit#1034",
    "diffusion",
    "averaged_weights",
    Denoiser,
    shadow_that_runs_away,
    NOISY,
    or_tests=("step_updates",),
    module="shadow",
    first_run=FirstRun(
        "79f3b8c", found=False, named=False, said="averaged_weights says that shadow is an average; overfits_one_batch fails"
    ),
)
