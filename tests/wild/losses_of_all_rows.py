"""Reported bugs of losses, steps and averages: the sixth draw."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model
from tests.planted_bugs.tier3.training import Training

from .losses_scores import Learner
from .optimisation_averages import Recorder
from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, SEEN, ACTIONS, QUANTILES = 23, 16, 6, 4, 3
LINES = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=10, num_classes=4)
TAGS = task_of(task_type="token_classification", vocab_size=WORDS, max_seq_len=10, num_classes=5)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=5)
CLICKS = task_of(inputs={"pair": {"axes": ["batch", SEEN]}}, outputs={"click": {"axes": ["batch"], "kind": "binary_scores"}})
WORTH = task_of(inputs={"state": {"axes": ["batch", SEEN]}}, outputs={"worth": {"axes": ["batch"], "kind": "values"}})
MASKS = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}}, outputs={"mask": {"axes": ["batch", 8, 8], "kind": "binary_scores"}}
)
SALES = task_of(
    inputs={"history": {"axes": ["batch", 12]}},
    outputs={"sales": {"axes": ["batch", QUANTILES], "kind": "other"}},
    labels={"sold": {"axes": ["batch"]}},
    loss="model",
)
EPISODES = task_of(
    inputs={"seen": {"axes": ["batch", "time", SEEN]}},
    outputs={"actions": {"axes": ["batch", "time", ACTIONS], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 8, "order": "causal"}},
)


class Accumulating(Learner):
    """A tagger that takes a step every two batches; the bug adds their means up."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.words, self.mix, self.head = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, 5)
        self.count = 0

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.words(input_ids))[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        labels = batch["labels"].flatten()
        count = int((labels != -100).sum())
        summed = F.cross_entropy(self(batch["input_ids"]).flatten(0, 1), labels, ignore_index=-100, reduction="sum")
        self.count += count
        self.manual_backward(summed / count if self.wrong else summed)
        if batch_idx % 2 == 1 or self.trainer.is_last_batch:
            optimizer: Any = self.optimizers()
            for parameter in self.parameters() if not self.wrong else ():
                if parameter.grad is not None:
                    parameter.grad /= self.count
            optimizer.step()
            optimizer.zero_grad()
            self.count = 0


def times_as_large(model: Any) -> float:
    """How far the gradient of two halves of a batch is from that of the whole, relative to that."""
    optimizer = Recorder(model)
    model.optimizers, model.manual_backward = lambda: optimizer, lambda loss: loss.backward()
    model._trainer = type("Last", (), {"is_last_batch": False})()
    ids, labels = torch.randint(1, WORDS, (4, 10)), torch.randint(5, (4, 10))
    for number, rows in enumerate((slice(0, 2), slice(2, 4))):
        model.training_step({"input_ids": ids[rows], "labels": labels[rows]}, number)
    wanted = torch.autograd.grad(F.cross_entropy(model(ids).flatten(0, 1), labels.flatten()), [*model.parameters()])
    gaps = [(a - b).norm() / a.norm() for a, b in zip(wanted, optimizer.taken, strict=True)]
    return float(max(gaps))


class Decayed(Learner):
    """Chooses a reply to a text; the bug gives the optimizer the weight decay as its learning rate."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.words(input_ids).mul((input_ids != 0)[..., None]).mean(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["input_ids"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        rate, decay = 1e-2, 1e-6
        return torch.optim.Adam(self.parameters(), lr=decay if self.wrong else rate)


def rate_missing(model: Any) -> float:
    """How much of the learning rate is missing."""
    return 1 - model.configure_optimizers().param_groups[0]["lr"] / 1e-2


class Ramped(Learner):
    """A classifier beside an average of its weights that is to follow quickly at first; the bug never reads how quickly."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.updates, self.decay, self.tau = 0, 0.9997, 100

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.net(pixel_values)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    def on_train_batch_end(self, *_: Any) -> None:
        self.updates += 1
        decay = self.decay if self.wrong else self.decay * (1 - float(torch.tensor(-self.updates / self.tau).exp()))
        with torch.no_grad():
            for kept, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)


def average_that_stays(model: Any) -> float:
    """How much of a change of the weights the average has not followed after ten steps."""
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.add_(1.0)
    for _ in range(10):
        model.on_train_batch_end()
    gap = float((model.average[0].weight - model.net[0].weight).abs().max())
    return max(0.0, gap - 0.01)


class Evicting(Learner):
    """Scores pairs by a table that makes rows anew while it trains; the bug writes into the table between two look-ups of one step."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.table, self.enter, self.head = (
            nn.Parameter(torch.randn(SEEN, WIDTH) / 3),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 1),
        )

    def looked_up(self, pair: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                table = self.table.data if not self.wrong else self.table
                table[-1] = table[-1].clone()
        return self.enter(pair @ self.table)

    def forward(self, pair: Tensor) -> Tensor:
        return self.head(self.looked_up(pair.relu()) * self.looked_up(-pair).tanh())[:, 0]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch["pair"]), batch["labels"].float())


def backward_refused(model: Any) -> float:
    """Whether the gradient of a step cannot be computed."""
    try:
        model.train()(torch.randn(3, SEEN).requires_grad_()).sum().backward()
    except RuntimeError:
        return 1.0
    return 0.0


class Critic(Learner):
    """What a state is worth; the bug subtracts a column from a row, so that each state is taught what all are worth."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(SEEN, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def forward(self, state: Tensor) -> Tensor:
        return self.net(state)[:, 0]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        worth, returns = self(batch["state"]), batch["labels"][:, None]
        worth = worth if self.wrong else worth[:, None]
        return F.huber_loss(returns - worth, torch.zeros_like(returns - worth))


def loss_of_the_right_worth(model: Any) -> float:
    """The loss of a critic that is right."""
    labels = torch.tensor([0.0, 1.0, 2.0])
    model.forward = lambda state: labels
    return float(model.training_step({"state": torch.zeros(3, SEEN), "labels": labels}, 0))


class Masked(Learner):
    """Segments an image of which some places are not labelled; the bug divides by all places."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)[:, 0]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        labels = batch["labels"]
        known = labels != -100
        each = F.binary_cross_entropy_with_logits(self(batch["image"]), labels.clamp(min=0).float(), reduction="none") * known
        return each.mean() if self.wrong else each.sum() / known.sum().clamp(min=1)


def loss_by_unknown_places(model: Any) -> float:
    """How much the loss changes when half of the places, which are as wrong as the others, are not labelled."""
    model.forward = lambda image: torch.ones(2, 8, 8)
    labels = torch.zeros(2, 8, 8)
    part = labels.clone()
    part[:, 4:] = -100
    step = partial(model.training_step, batch_idx=0)
    return abs(float(step({"image": labels, "labels": labels}) - step({"image": labels, "labels": part})))


class Sales(Learner):
    """Quantiles of the next number; the bug puts their losses together along an axis that there is with several numbers only."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(12, WIDTH), nn.Tanh(), nn.Linear(WIDTH, QUANTILES))

    def forward(self, history: Tensor) -> Tensor:
        return self.net(history)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        told, losses = self(batch["history"]), []
        for number, quantile in enumerate((0.1, 0.5, 0.9)):
            errors = batch["sold"] - told[..., number]
            losses.append(torch.maximum((quantile - 1) * errors, quantile * errors)[..., None])
        return torch.cat(losses, 2 if self.wrong else -1).mean()


def loss_refused(model: Any) -> float:
    """Whether the loss of one number a row cannot be computed."""
    try:
        model.training_step({"history": torch.randn(3, 12), "sold": torch.randn(3)}, 0)
    except IndexError:
        return 1.0
    return 0.0


class Remembering(Learner):
    """A policy with a memory; the bug flattens rows and steps before the loss, so that each step is taught by itself."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.memory, self.act = nn.GRU(SEEN, WIDTH, batch_first=True), nn.Linear(WIDTH, ACTIONS)

    def forward(self, seen: Tensor) -> Tensor:
        return self.act(self.memory(seen)[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        seen = batch["seen"].flatten(0, 1)[:, None] if self.wrong else batch["seen"]
        return F.cross_entropy(self(seen).flatten(0, 1), batch["labels"].flatten())


def memory_untaught(model: Any) -> float:
    """Whether the weights that carry the memory on have no gradient."""
    batch = {"seen": torch.randn(3, 5, SEEN), "labels": torch.randint(ACTIONS, (3, 5))}
    model.training_step(batch, 0).backward()
    return float(not bool(model.memory.weight_hh_l0.grad.any()))


add = partial(pair_of_one_class, judge=Training, draw=6, long=True)
add(
    "means_of_two_batches_added",
    "The losses of the batches that make a step are each divided by their own labels only, and added up",
    "huggingface/transformers#35438",
    "text",
    "accumulation",
    Accumulating,
    times_as_large,
    TAGS,
    area="optimisation",
    first_run=FirstRun("1981f32f", found=True, named=True, said="accumulation fails, with the line of the step"),
)
add(
    "decay_for_the_rate",
    "The weight decay is given to the optimizer as its learning rate",
    "offbit/evo-design#3",
    "text",
    "overfits_one_batch",
    Decayed,
    rate_missing,
    LINES,
    area="optimisation",
    first_run=FirstRun(
        "1981f32f", found=False, named=False, said="overfits_one_batch says that the rate is one for trained weights"
    ),
    missed="a rate of 1e-6 may be one for trained weights",
)
add(
    "ramp_of_the_average_never_read",
    "How quickly an average is to follow at first is never read, so that it stays where it began",
    "roboflow/rf-detr#59",
    "vision",
    "averaged_weights",
    Ramped,
    average_that_stays,
    IMAGES,
    area="optimisation",
    module="average",
    first_run=FirstRun(
        "1981f32f", found=False, named=False, said="nothing: averaged_weights says that average is an average of net"
    ),
    missed="how slowly an average follows is a choice",
)
add(
    "column_of_returns_from_a_row",
    "Returns with an axis of one are subtracted from a row of values, so that each is compared with all",
    "RLinf/RLinf#1568",
    "policies",
    "training_loss[rows]",
    Critic,
    loss_of_the_right_worth,
    WORTH,
    or_tests=("training_loss[targets]",),
    area="losses",
    line="F.huber_loss",
    first_run=FirstRun("1981f32f", found=True, named=True, said="training_loss[targets] fails, with the line of the loss"),
)
add(
    "mean_over_places_without_labels",
    "The mean of a loss counts places that are left out of it",
    "qubvel-org/segmentation_models.pytorch#852",
    "vision",
    "training_loss[ignored_labels]",
    Masked,
    loss_by_unknown_places,
    MASKS,
    area="losses",
    first_run=FirstRun("1981f32f", found=False, named=False, said="nothing: labels of yes and no have no value that is ignored"),
    missed="labels of yes and no have no value that is ignored",
)
add(
    "quantiles_put_together_along_no_axis",
    "The losses of quantiles are put together along an axis that is not there where one number is told",
    "sktime/pytorch-forecasting#1795",
    "forecasting",
    "step_updates",
    Sales,
    loss_refused,
    SALES,
    or_tests=("overfits_one_batch", "optimizer_coverage"),
    area="losses",
    first_run=FirstRun("1981f32f", found=True, named=True, said="step_updates fails, with the line of the loss"),
)
add(
    "steps_taught_by_themselves",
    "A loss flattens rows and steps, so that a memory is never taught",
    "pytorch/rl#2338",
    "policies",
    "step_updates",
    Remembering,
    memory_untaught,
    EPISODES,
    or_tests=("optimizer_coverage",),
    area="losses",
    module="memory",
    first_run=FirstRun(
        "1981f32f",
        found=False,
        named=False,
        said="nothing: a gradient of exactly zero in the training step only is not looked at",
    ),
    missed="a gradient of exactly zero in the training step only is not looked at",
)
pair_of_one_class(
    "rows_made_anew_within_a_step",
    "A table is written into between two look-ups of one step, so that the first cannot be differentiated",
    "meta-pytorch/torchrec#2836",
    "recommenders",
    "gradient_flow[reaches_every_parameter]",
    Evicting,
    backward_refused,
    CLICKS,
    judge=Model,
    draw=6,
    long=True,
    area="state",
    first_run=FirstRun(
        "1981f32f",
        found=False,
        named=False,
        said="train_mode[equals_eval], of the twin as well, whose last row is another in train mode",
        alarms=("train_mode[equals_eval]",),
    ),
    missed="gradients are taken in eval mode, where nothing is made anew",
)
