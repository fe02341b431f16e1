"""Reported bugs of loss functions, drawn after the checks."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .register import FirstRun, pair_of_one_class, task_of

PEOPLE, COLUMNS, GLYPHS, QUANTILES, ANCHORS, SEEN = 12, 12, 6, 8, 9, 6
PICTURES = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"point": {"axes": ["batch", 8], "kind": "embedding", "norm": 1}},
    labels={"people": {"axes": ["batch"], "values": {"ids": PEOPLE}}},
    loss={"function": "model", "over": "batch"},
)
WRITING = task_of(
    inputs={"strip": {"axes": ["batch", COLUMNS, 5]}},
    outputs={"glyphs": {"axes": ["batch", COLUMNS, GLYPHS + 1], "kind": "ctc_scores", "blank": GLYPHS}},
)
RETURNS = task_of(
    inputs={"seen": {"axes": ["batch", SEEN]}},
    outputs={"returns": {"axes": ["batch", QUANTILES], "kind": "other"}},
    labels={"samples": {"axes": ["batch", QUANTILES]}},
    loss="model",
)
BOXES = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"boxes": {"axes": ["batch", ANCHORS], "kind": "binary_scores"}},
)


class Trained(lightning.LightningModule):
    """What the models of this file share: a bug or none."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class Grouped(Trained):
    """Draws pictures of a person together; the bug divides by the number of others, which may be 0."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 8))

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.net(image), dim=-1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        points, people = self(batch["image"]), batch["people"]
        itself = torch.eye(len(people), dtype=torch.bool, device=people.device)
        alike = (people[:, None] == people) & ~itself
        similar = (points @ points.T / 0.1).masked_fill(itself, -1e9)
        told = -(similar.log_softmax(1) * alike).sum(1)
        if self.wrong:
            return (told / alike.sum(1)).mean()
        return (told / alike.sum(1).clamp(min=1)).mean()


def undefined_without_a_second_picture(model: Any) -> float:
    """Whether the loss of a batch in which each person is seen once is undefined."""
    batch = {"image": torch.randn(4, 3, 8, 8), "people": torch.arange(4)}
    return float(not torch.isfinite(model.training_step(batch, 0)))


class Reader(Trained):
    """Reads a line of writing; the bug takes symbol 0 for the blank, whatever the blank is said to be."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net, self.head = nn.GRU(5, 16, batch_first=True, bidirectional=True), nn.Linear(32, GLYPHS + 1)

    def forward(self, strip: Tensor) -> Tensor:
        return self.head(self.net(strip)[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        scores, labels = self(batch["strip"]).log_softmax(-1).transpose(0, 1), batch["labels"]
        frames = torch.full((len(labels),), COLUMNS)
        written = labels != -100
        blank = 0 if self.wrong else GLYPHS
        return F.ctc_loss(scores, labels.masked_fill(~written, blank), frames, written.sum(1), blank, zero_infinity=True)


def cost_of_the_right_reading(model: Any) -> float:
    """The loss of a model that is certain of the right reading, blanks between the glyphs."""
    labels = torch.tensor([[0, 3, 0, 2]])
    path = [GLYPHS] * COLUMNS
    path[1:8:2] = labels[0].tolist()
    scores = 50.0 * F.one_hot(torch.tensor([path]), GLYPHS + 1).float()
    model.forward = lambda strip: scores
    return float(model.training_step({"strip": torch.zeros(1, COLUMNS, 5), "labels": labels}, 0))


class Valued(Trained):
    """Predicts quantiles of returns; the bug lets the quantiles run along the returns instead of the predictions."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(SEEN, 32), nn.ReLU(), nn.Linear(32, QUANTILES))
        self.register_buffer("quantile", (torch.arange(QUANTILES) + 0.5) / QUANTILES)

    def forward(self, seen: Tensor) -> Tensor:
        return self.net(seen)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.loss(self(batch["seen"]), batch["samples"])

    def loss(self, predicted: Tensor, returns: Tensor) -> Tensor:
        error = returns[:, None, :] - predicted[:, :, None]
        quantile: Any = self.quantile
        below = (error.detach() < 0).float()
        weight = (quantile - below).abs() if self.wrong else (quantile[:, None] - below).abs()
        return (weight * F.huber_loss(error, torch.zeros_like(error), reduction="none")).sum(1).mean()


def disorder_of_quantiles(model: Any) -> float:
    """How far the lowest and the highest quantile are from lying below and above the middle after they were fitted."""
    returns = torch.linspace(-2, 2, QUANTILES)[None]
    predicted = torch.zeros(1, QUANTILES, requires_grad=True)
    for _ in range(300):
        (grad,) = torch.autograd.grad(model.loss(predicted, returns), predicted)
        predicted = (predicted - 0.5 * grad).detach().requires_grad_()
    return max(0.0, 1 - float(predicted.detach()[0, -1] - predicted.detach()[0, 0]))


class Focused(Trained):
    """A detector under a focal loss; the bug weights boxes with and without an object alike."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, ANCHORS))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.loss(self(batch["image"]), batch["labels"].float())

    def loss(self, scores: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
        told = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        weight = torch.full_like(labels, alpha) if self.wrong else alpha * labels + (1 - alpha) * (1 - labels)
        return (weight * (1 - (-told).exp()) ** gamma * told).mean()


def weight_beside_the_other(model: Any) -> float:
    """How far the weight of a box without an object is from three times that of one with an object."""
    scores = torch.zeros(1, ANCHORS)
    without, within = model.loss(scores, torch.zeros(1, ANCHORS)), model.loss(scores, torch.ones(1, ANCHORS))
    return abs(float(without / within) - 3)


add = partial(pair_of_one_class, area="losses", judge=Training, draw=2)
add(
    "mean_over_no_other_picture",
    "The supervised contrastive loss divides by the number of other pictures of a class, which is 0 for a class seen once",
    "HobbitLong/SupContrast#20",
    "vision",
    "overfits_one_batch",
    Grouped,
    undefined_without_a_second_picture,
    PICTURES,
    or_tests=("training_loss[one_class]", "training_loss[rows]"),
    first_run=FirstRun(
        "d13d60a",
        False,
        False,
        "`step_updates` fails at the first loss, which is not a right test; the twin was declared without `over: batch`",
        ("training_loss[reduction]",),
    ),
)
add(
    "blank_taken_for_symbol_zero",
    "A loss for unaligned writing ignores which symbol is the blank and takes the first one",
    "liuhu-bigeye/enctc.crnn#9",
    "vision",
    "training_loss[targets]",
    Reader,
    cost_of_the_right_reading,
    WRITING,
    or_tests=("overfits_one_batch",),
    line="F.ctc_loss(",
    first_run=FirstRun("d13d60a", True, False, "it cannot overfit; no place"),
)
add(
    "quantiles_along_the_returns",
    "The quantiles of a distributional critic are broadcast along the targets instead of the predictions",
    "BY571/QR-DQN#1",
    "policies",
    "training_loss[targets]",
    Valued,
    disorder_of_quantiles,
    RETURNS,
    first_run=FirstRun(
        "d13d60a",
        False,
        False,
        "bug and twin alike: the pair declared samples as the labels of quantiles",
        ("training_loss[targets]",),
    ),
    missed="no test knows which quantile an output stands for",
)
add(
    "one_alpha_for_both_classes",
    "The focal loss gives boxes without an object the weight of boxes with one",
    "liuyuisanai/Focal-Loss#4",
    "vision",
    "initial_loss",
    Focused,
    weight_beside_the_other,
    BOXES,
    status=Status.WARN,
    first_run=FirstRun("d13d60a", False, False, "not asked of yes or no"),
    missed="which weight a class shall have is said nowhere",
)
