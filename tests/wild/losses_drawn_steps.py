"""Reported bugs of losses: the fifth draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.tier3.training import Training

from .losses_scores import Learner
from .optimisation_averages import Recorder
from .register import FirstRun, pair_of_one_class, task_of

FEATURES, ACTIONS = 6, 4
MASKS = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"mask": {"axes": ["batch", 1, 8, 8], "kind": "binary_scores", "fits": False}},
)
EDGES = task_of(inputs={"pair": {"axes": ["batch", FEATURES]}}, outputs={"edge": {"axes": ["batch"], "kind": "values"}})
CLICKS = task_of(inputs={"pair": {"axes": ["batch", FEATURES]}}, outputs={"click": {"axes": ["batch"], "kind": "binary_scores"}})
STATES = task_of(
    inputs={"state": {"axes": ["batch", FEATURES]}},
    outputs={"action": {"axes": ["batch", ACTIONS], "kind": "class_scores"}},
    loss={"function": "model", "over": "batch"},
)
SPEECH = task_of(
    inputs={"sound": {"axes": ["batch", "time", 5]}},
    outputs={"voices": {"axes": ["batch", "time", 3], "kind": "binary_scores"}},
    axes={"time": {"min": 2, "max": 12}},
)


class Segmenter(Learner):
    """Masks of images by their overlap with the labels; the bug makes the overlap smaller."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        found, real = self(batch["image"]).sigmoid().flatten(1), batch["labels"].float().flatten(1)
        dice = (2 * (found * real).sum(1) + 1) / (found.sum(1) + real.sum(1) + 1)
        return dice.mean() if self.wrong else 1 - dice.mean()


def loss_of_the_labels(model: Any) -> float:
    """The loss where masks are the labels."""
    labels = torch.randint(2, (2, 1, 8, 8))
    model.forward = lambda image: 40.0 * labels - 20
    return float(model.training_step({"image": torch.zeros(2, 3, 8, 8), "labels": labels}, 0))


class Posterior(Learner):
    """Weights of edges as a density, trained by hand; the bug hands back the bound and not the loss, which is its negative."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, pair: Tensor) -> Tensor:
        return self.net(pair)[:, 0]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.mse_loss(self(batch["pair"]), batch["labels"])
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return -loss if self.wrong else loss


def sign_of_the_loss(model: Any) -> float:
    """How far below zero the loss is that is handed back."""
    model.optimizers = lambda: Recorder(model)
    return max(0.0, -float(model.training_step({"pair": torch.randn(3, FEATURES), "labels": torch.ones(3)}, 0)))


class Ranker(Learner):
    """Guesses clicks and keeps the sum of its losses; the bug keeps their graphs too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 1))
        self.total: Any = 0.0

    def forward(self, pair: Tensor) -> Tensor:
        return self.net(pair)[:, 0]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self(batch["pair"]), batch["labels"].float())
        self.total = self.total + (loss if self.wrong else loss.item())
        return loss


def graphs_kept(model: Any) -> float:
    """Whether the sum of losses holds on to a graph."""
    model.training_step({"pair": torch.randn(3, FEATURES), "labels": torch.ones(3)}, 0)
    return float(isinstance(model.total, Tensor) and model.total.requires_grad)


class Policy(Learner):
    """Actions weighed by how much better than the mean of the batch they are; a batch of one has no deviation, which the bug divides by."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, ACTIONS))

    def forward(self, state: Tensor) -> Tensor:
        return self.net(state)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        gained = 1 + batch["state"][:, 0].abs()
        gained = (gained - gained.mean()) / (gained.std(correction=1 if self.wrong else 0) + 1e-8)
        return (F.cross_entropy(self(batch["state"]), batch["labels"], reduction="none") * (2 + gained.tanh())).mean()


def loss_of_one(model: Any) -> float:
    """Whether the loss of a batch of one is NaN."""
    loss = model.training_step({"state": torch.randn(1, FEATURES), "labels": torch.zeros(1, dtype=torch.long)}, 0)
    return float(loss.isnan())


class Voices(Learner):
    """Who speaks in each frame; the bug puts the frames of the answers last, and not those of the labels."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.mix, self.head = nn.GRU(5, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, sound: Tensor) -> Tensor:
        return self.head(self.mix(sound)[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        found, real = self(batch["sound"]), batch["labels"].float()
        return F.binary_cross_entropy_with_logits(found.transpose(1, -1) if self.wrong else found, real)


def loss_refused(model: Any) -> float:
    """Whether a batch of seven frames is refused."""
    try:
        model.training_step({"sound": torch.randn(2, 7, 5), "labels": torch.ones(2, 7, 3)}, 0)
    except ValueError:
        return 1.0
    return 0.0


add = partial(pair_of_one_class, judge=Training, draw=5, long=True)
add(
    "overlap_made_smaller",
    "The loss is the overlap of mask and label, not one minus it",
    "sraashis/easytorch#38",
    "vision",
    "overfits_one_batch",
    Segmenter,
    loss_of_the_labels,
    MASKS,
    or_tests=("training_loss[targets]",),
    area="losses",
    first_run=FirstRun(
        "b9f3707",
        found=True,
        named=True,
        said="training_loss[targets] fails; the twin learns its overlap, not its cross-entropy",
        alarms=("overfits_one_batch",),
    ),
)
add(
    "loss_of_the_other_sign",
    "What is handed back as the loss has the other sign, while the gradient is right",
    "pyro-ppl/pyro#2798",
    "graphs",
    "training_loss[targets]",
    Posterior,
    sign_of_the_loss,
    EDGES,
    area="losses",
    first_run=FirstRun(
        "b9f3707", found=False, named=False, said="nothing: what manual optimisation hands back is not what it trains by"
    ),
    missed="what manual optimisation hands back is only shown",
)
add(
    "losses_kept_with_their_graphs",
    "Losses are added up with their graphs, so that memory grows with each step",
    "ULTR-Community/ULTRA_pytorch#7",
    "recommenders",
    "memory_growth",
    Ranker,
    graphs_kept,
    CLICKS,
    area="losses",
    first_run=FirstRun("b9f3707", found=False, named=False, said="nothing: memory is measured of forward only"),
    line="self.total = self.total +",
)
add(
    "deviation_of_one_advantage",
    "Advantages are divided by their deviation, which is NaN in a batch of one",
    "DLR-RM/stable-baselines3#1028",
    "policies",
    "training_loss[one_class]",
    Policy,
    loss_of_one,
    STATES,
    area="losses",
    line="gained.std(correction",
    first_run=FirstRun(
        "b9f3707",
        found=False,
        named=False,
        said="training_loss[reduction] fails, on the twin as well: of the batch",
        alarms=("training_loss[reduction]",),
    ),
)
add(
    "answers_transposed_and_labels_not",
    "The loss transposes the answers and not the labels",
    "speechbrain/speechbrain#519",
    "speech",
    "overfits_one_batch",
    Voices,
    loss_refused,
    SPEECH,
    or_tests=("training_loss[targets]", "training_loss[reduction]"),
    area="axes",
    line="found.transpose(1, -1)",
    first_run=FirstRun(
        "b9f3707", found=False, named=False, said="overfits_one_batch fails, with the line, where training_loss was expected to"
    ),
)
