"""Sound trainings of unusual kinds, none of which may be reported."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch
from harness.tasks import TaskSpec, TaskType

from .losses import tagger
from .training import CLASSES, FEATURES, LENGTH, NUMBER, TABLE, TEXT, VOCAB, LitLM, LitScores, ManualScores, Scores, Training

IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 12, 12), num_classes=CLASSES)


class LabelSmoothing(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=0.1)


class Focal(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - (-losses).exp()) ** 2 * losses).mean()


class OneAgainstAll(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, CLASSES).to(logits.dtype))


class FixedClassWeights(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, weight=logits.new_tensor([1.0, 2.0, 0.5]), reduction="none").mean()


class Mixup(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        share = float(torch.distributions.Beta(0.2, 0.2).sample())
        order = torch.randperm(len(batch["labels"]))
        logits = self(share * batch["features"] + (1 - share) * batch["features"][order])
        return share * self.loss(logits, batch["labels"]) + (1 - share) * self.loss(logits, batch["labels"][order])


class NoisyInputs(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.loss(self(batch["features"] + 0.05 * torch.randn_like(batch["features"])), batch["labels"])


class TwoPasses(LitScores):
    """Two passes with different dropout, held together (R-Drop)."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(self.dropout(features))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        first, second = self(batch["features"]), self(batch["features"])
        apart = F.kl_div(first.log_softmax(-1), second.log_softmax(-1), log_target=True, reduction="batchmean")
        return (self.loss(first, batch["labels"]) + self.loss(second, batch["labels"])) / 2 + apart


class Teacher(LitScores):
    """A teacher that is an average of the student."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        with torch.no_grad():
            said = self.teacher(batch["features"])
        return super().training_step(batch, batch_idx) + 0.01 * F.mse_loss(self(batch["features"]), said)

    def on_train_batch_end(self, *_: Any) -> None:
        for ours, theirs in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            ours.data.lerp_(theirs.data, 0.01)


class Averaging(LitScores):
    """Keeps the plain mean of its weights (stochastic weight averaging)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.optim.swa_utils.AveragedModel(self.net).requires_grad_(False)

    def on_before_zero_grad(self, *_: Any) -> None:
        self.mean.update_parameters(self.net)


class Adversary(ManualScores):
    """A generator of hard inputs that works against the classifier, with an optimizer each; the generator's step comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.harder = nn.Linear(FEATURES, FEATURES)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        features, labels = batch["features"], batch["labels"]
        optimizers: Any = self.optimizers()
        for sign, optimizer in zip((-1, 1), optimizers, strict=True):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(sign * self.loss(self(features + 0.1 * self.harder(features)), labels))
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=1e-2) for part in (self.harder, self.net)]


class OnlyTheHead(LitScores):
    """A backbone without gradient, which the optimizer does not hold, though nobody froze it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = F.gelu(self.net.hidden(features))
        return self.head(hidden)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.head.parameters(), lr=3e-2)


class FrozenAndListed(LitScores):
    """Frozen parameters with weight decay, which torch leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net.hidden.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-2, weight_decay=0.1)


class OneCycle(LitScores):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Pairs(LitScores):
    """Takes its batches as tuples, logs, and validates."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        features, labels = batch
        loss = self.loss(self(features), labels)
        self.log("train_loss", loss, prog_bar=True)
        return {"loss": loss}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))


class PlainBackward(ManualScores):
    """Calls backward on the loss itself, past Lightning."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        loss = self.loss(self(batch["features"]), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class PastLightning(ManualScores):
    """Steps the torch optimizer itself."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        optimizer.step()


class EveryFour(ManualScores):
    """Accumulates by itself, the last few batches of an epoch too."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]) / 4)
        if (batch_idx + 1) % 4 == 0 or self.trainer.is_last_batch:
            self.clip_gradients(optimizer, 1.0, "norm")
            optimizer.step()
            optimizer.zero_grad()


class SecondOrder(LitScores):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=4)


class GivesLabels(LitLM):
    """A model that computes its loss itself when it is given labels, as those of Hugging Face do."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        logits = self.net(input_ids, attention_mask)
        if labels is None:
            return {"logits": logits}
        return {"loss": super().loss(logits, {"labels": labels}), "logits": logits}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self(**batch)["loss"]


class Auxiliary(LitLM):
    """A small penalty on the size of the logits."""

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return super().loss(logits, batch) + 1e-3 * logits[:, :-1].logsumexp(-1).square().mean()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 32)
        self.rnn = nn.LSTM(32, 32, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(32, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(input_ids))[0])


class Normed(nn.Module):
    """Norms over the batch and much dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3),
            nn.BatchNorm2d(16, momentum=0.01),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, CLASSES))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.layers(pixel_values))


class Averaged(nn.Module):
    """Keeps a running mean of its inputs, in a buffer of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES, affine=False)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(FEATURES, 16))
        self.head = nn.Linear(16, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(F.gelu(self.spectral(self.norm(features))))


class Linear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(FEATURES, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features)


class Huber(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.smooth_l1_loss(logits.flatten(), batch["labels"].to(logits.dtype))

    def weight(self, batch: Batch) -> Tensor:
        return torch.tensor(len(batch["labels"]))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().logits(model, batch).flatten()


_LIT = (
    LabelSmoothing,
    Focal,
    OneAgainstAll,
    FixedClassWeights,
    Mixup,
    NoisyInputs,
    TwoPasses,
    Teacher,
    Averaging,
    Adversary,
    OnlyTheHead,
    FrozenAndListed,
    OneCycle,
    Pairs,
    PlainBackward,
    PastLightning,
    EveryFour,
    SecondOrder,
)

UNUSUAL: dict[str, Training] = {
    **{module.__name__: Training(TABLE, module) for module in _LIT},
    **{module.__name__: Training(TEXT, module) for module in (GivesLabels, Auxiliary)},
    "Recurrent": Training(TEXT, Recurrent),
    "Normed": Training(IMAGES, Normed),
    "Averaged": Training(NUMBER, Averaged),
    "Linear": Training(TABLE, Linear).under(learning_rate=0.05),
    "Huber": Training(NUMBER, lambda: Scores(1), Huber),
    "Tagger": Training(
        TAGS := TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=LENGTH, num_classes=CLASSES), tagger
    ),
}
"""By name."""
