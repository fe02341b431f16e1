"""Reported bugs of optimizers, schedules, clipping and averages, drawn after the checks were finished."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .optimisation_averages import MeanTeacher, Recorder, network
from .optimisation_steps import Contrasted, Trained, configured
from .register import pair_of_one_class, task_of

FEATURES, ACTIONS, WORDS, LENGTH = 6, 4, 31, 10
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=4)
TABLE = task_of(task_type="tabular_classification", num_features=FEATURES, num_classes=3)
REPLIES = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=LENGTH, pad_token_id=0, num_classes=3)
POLICY = task_of(
    inputs={"state": {"axes": ["batch", FEATURES]}},
    outputs={"action": {"axes": ["batch", ACTIONS], "kind": "class_scores"}},
)


class ByIterations(Contrasted):
    """A cosine with a warm-up, stepped at each step; the bug gives it the number of epochs as its length."""

    def configure_optimizers(self) -> Any:
        optimizer = Trained.configure_optimizers(self)
        length = self.trainer.max_epochs if self.wrong else max(1, int(self.trainer.estimated_stepping_batches))
        cosine = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / length)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def times_it_rises(model: nn.Module) -> float:
    """How often the learning rate rises in a run of 5 epochs of 20 batches."""
    found = configured(model, 5, 20)
    rates = []
    for _ in range(100):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    return float(sum(after > before + 1e-9 for before, after in pairwise(rates)))


class Tabular(Trained):
    """A classifier of table rows that clips its gradients by hand; the bug does so before the backward pass."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch["features"]), batch["labels"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        loss = self.loss(batch)
        if self.wrong:
            clip_grad_norm_(self.parameters(), 0.05)
        loss.backward()
        if not self.wrong:
            clip_grad_norm_(self.parameters(), 0.05)
        optimizer.step()
        optimizer.zero_grad()


def table_step_above_the_limit(model: Any) -> float:
    """How far a step of rate 1 goes beyond the limit of its gradient."""
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.optimizers = lambda: optimizer
    model.training_step({"features": 3 * torch.randn(4, FEATURES), "labels": torch.zeros(4, dtype=torch.long)}, 0)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    return max(0.0, float((after - before).norm()) - 0.05)


class World(Trained):
    """A policy under automatic optimisation; the bug clips in its training step, which comes before the backward pass."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, ACTIONS))

    def forward(self, state: Tensor) -> Tensor:
        return self.net(state)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch["state"]), batch["labels"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        if self.wrong:
            clip_grad_norm_(self.parameters(), 0.05)
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *_limits: Any, **_more: Any) -> None:
        if not self.wrong:
            clip_grad_norm_(self.parameters(), 0.05)


def unclipped(model: Any) -> float:
    """How far the gradient of a step, taken in Lightning's order, is above the limit."""
    loss = model.training_step({"state": 3 * torch.randn(4, FEATURES), "labels": torch.zeros(4, dtype=torch.long)}, 0)
    model.zero_grad()
    loss.backward()
    model.configure_gradient_clipping(None)
    return max(0.0, float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])) - 0.05)


class Replies(Trained):
    """A classifier of texts with a step every four batches; the bug takes none at the end of an epoch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.words, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.words(input_ids).mul((input_ids != 0)[..., None]).sum(1))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch["input_ids"]), batch["labels"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        (self.loss(batch) / 4).backward()
        if batch_idx % 4 == 3 or (self.trainer.is_last_batch and not self.wrong):
            optimizer.step()
            optimizer.zero_grad()


def gradient_left_by_an_epoch(model: Any) -> float:
    """The gradient that an epoch of five batches leaves behind."""
    optimizer = Recorder(model)
    model.optimizers = lambda: optimizer
    for number in range(5):
        model._trainer = type("Last", (), {"is_last_batch": number == 4})()
        model.training_step({"input_ids": torch.randint(1, WORDS, (3, LENGTH)), "labels": torch.tensor([0, 1, 2])}, number)
    return float(sum(p.grad.abs().sum() for p in model.parameters() if p.grad is not None))


class Preferred(World):
    """A policy that accumulates over two batches; the bug clears the gradients before each of them."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        if self.wrong or batch_idx % 2 == 0:
            optimizer.zero_grad()
        (self.loss(batch) / 2).backward()
        if batch_idx % 2 == 1:
            optimizer.step()


def missing_batch(model: Any) -> float:
    """How far the gradient of a step is from the mean of those of its two batches."""
    batches = [{"state": torch.randn(3, FEATURES), "labels": torch.tensor([0, 1, 2])} for _ in range(2)]
    wanted = torch.autograd.grad(sum(model.loss(batch) for batch in batches) / 2, [*model.parameters()])
    optimizer = Recorder(model)
    model.optimizers = lambda: optimizer
    for number, batch in enumerate(batches):
        model.training_step(batch, number)
    return max(float((a - b).abs().max()) for a, b in zip(wanted, optimizer.taken, strict=True))


class Encoder(World):
    """An encoder that calls its optimizer itself; the bug never clears the gradients."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        if not self.wrong:
            optimizer.zero_grad()
        self.loss(batch).backward()
        optimizer.step()


def left_from_the_first(model: Any) -> float:
    """How far the gradient of the second step is from that of its batch."""
    batch = {"state": torch.randn(3, FEATURES), "labels": torch.tensor([0, 1, 2])}
    wanted = torch.autograd.grad(model.loss(batch), [*model.parameters()])
    optimizer = Recorder(model)
    model.optimizers = lambda: optimizer
    for number in range(2):
        model.training_step(batch, number)
    return max(float((a - b).abs().max()) for a, b in zip(wanted, optimizer.taken, strict=True))


class RandomTeacher(MeanTeacher):
    """A teacher that is an average of the student; the bug begins with a network of its own."""

    def begin(self) -> nn.Module:
        return network() if self.wrong else super().begin()

    def on_train_batch_end(self, *_call: Any) -> None:
        wrong, self.wrong = self.wrong, False
        super().on_train_batch_end()
        self.wrong = wrong


def begins_elsewhere(model: Any) -> float:
    """How far the teacher's weights are from the student's before any training."""
    pairs = zip(model.teacher.parameters(), model.student.parameters(), strict=True)
    return max(float((mean - now).detach().abs().max()) for mean, now in pairs)


class NeverSpared(Tabular):
    """A residual net over tables, of which biases and norms are to be spared; the bug puts every parameter into the group with decay."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = True
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        decayed, spared = list[Tensor](), list[Tensor]()
        for parameter in self.parameters():
            (decayed if parameter.ndim > 1 or self.wrong else spared).append(parameter)
        return torch.optim.AdamW([{"params": decayed}, {"params": spared, "weight_decay": 0.0}], lr=1e-3, weight_decay=1e-2)


class ByWholeName(NeverSpared):
    """The same over another net; the bug asks whether a whole name is one of the endings that are spared."""

    def configure_optimizers(self) -> Any:
        spared_names = ("bias", "1.weight")
        spared = {
            name: name in spared_names if self.wrong else name.endswith(spared_names) for name, _ in self.named_parameters()
        }
        groups = [
            {"params": [p for name, p in self.named_parameters() if not spared[name]], "weight_decay": 0.01},
            {"params": [p for name, p in self.named_parameters() if spared[name]], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=1e-3)


def decayed_vectors(model: Any) -> float:
    """How many biases and scales have weight decay."""
    groups = model.configure_optimizers().param_groups
    return float(sum(p.ndim < 2 for group in groups if group["weight_decay"] for p in group["params"]))


add = partial(pair_of_one_class, area="optimisation", judge=Training, draw=1)
WARNS: dict[str, Any] = {"status": Status.WARN}

add(
    "steps_of_a_schedule_of_epochs",
    "Schedules that are stepped at each iteration are given the number of epochs as their length",
    "ScrollPrize/villa#1495",
    "vision",
    "learning_rate_schedule",
    ByIterations,
    times_it_rises,
    IMAGES,
    **WARNS,
)
add(
    "clipped_before_backward",
    "Gradients are clipped before the backward pass, when there are none",
    "yandex-research/tabm#20",
    "tables",
    "gradient_clipping",
    Tabular,
    table_step_above_the_limit,
    TABLE,
)
add(
    "clipped_in_the_training_step",
    "The training step clips, and Lightning calls it before the backward pass",
    "simchowitzlabpublic/nano-world-model#22",
    "policies",
    "gradient_clipping",
    World,
    unclipped,
    POLICY,
)
add(
    "no_step_at_the_end_of_an_epoch",
    "Where an epoch does not end with a full accumulation, its last batches take no step",
    "timoschick/pet#36",
    "text",
    "accumulation",
    Replies,
    gradient_left_by_an_epoch,
    REPLIES,
    **WARNS,
)
add(
    "cleared_before_each_batch_of_a_step",
    "The gradients are cleared at every batch that is accumulated, so only the last one counts",
    "huggingface/trl#583",
    "policies",
    "accumulation",
    Preferred,
    missing_batch,
    POLICY,
)
add(
    "never_cleared",
    "zero_grad of one optimizer is missing before its backward pass",
    "Hsintien-Ng/idinvert_pytorch-reproduced#1",
    "vision",
    "accumulation",
    Encoder,
    left_from_the_first,
    POLICY,
)
add(
    "teacher_begins_at_random",
    "The teacher that averages the student begins with random weights",
    "Haochen-Wang409/U2PL#128",
    "vision",
    "averaged_weights",
    RandomTeacher,
    begins_elsewhere,
    IMAGES,
    module="teacher",
    **WARNS,
)
add(
    "spared_list_stays_empty",
    "Both branches of the filter add to the list with weight decay",
    "yandex-research/tabular-dl-tabr#19",
    "tables",
    "parameter_groups[decay]",
    NeverSpared,
    decayed_vectors,
    TABLE,
    **WARNS,
)
add(
    "spared_by_whole_name",
    "Names of parameters are looked up in a list of their endings, so almost none is spared",
    "namisan/mt-dnn#37",
    "text",
    "parameter_groups[decay]",
    ByWholeName,
    decayed_vectors,
    TABLE,
    **WARNS,
)
