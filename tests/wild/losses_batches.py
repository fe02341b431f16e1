"""Reported bugs of losses over a batch: shapes that are broadcast, sums that are divided once too often, answers that are never scaled back."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.tier3.training import Training

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, EVENTS, PEOPLE, ITEMS = 12, 9, 7, 11
TABLE = task_of(task_type="tabular_regression", num_features=6)
HISTORIES = task_of(
    inputs={
        "events": {"axes": ["batch", "time", 3]},
        "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    outputs={"waits": {"axes": ["batch", "time"], "kind": "values"}},
    axes={"time": {"min": 2, "max": EVENTS, "padding": "right"}},
)
PAIRS = task_of(
    inputs={
        "user": {"axes": ["batch"], "values": {"ids": PEOPLE}},
        "liked": {"axes": ["batch"], "values": {"ids": ITEMS}},
        "other": {"axes": ["batch"], "values": {"ids": ITEMS}},
    },
    outputs={"margin": {"axes": ["batch"], "kind": "other"}},
    loss="model",
)
CRYSTALS = task_of(
    inputs={"atoms": {"axes": ["batch", "atoms", 4]}},
    outputs={"energy": {"axes": ["batch"], "kind": "values"}},
    axes={"atoms": {"min": 1, "max": 6, "order": "none"}},
)
NOISY = task_of(
    inputs={"sample": {"axes": ["batch", 6]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", 6], "kind": "values"}},
)


class Trained(lightning.LightningModule):
    """What the models of this file share: a bug or none, and a training step whose loss is a method."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def change_by_repeating(model: Any, batch: dict[str, Tensor]) -> float:
    """How much the loss of a batch changes where each of its rows is there twice."""
    twice = {name: torch.cat([values, values]) for name, values in batch.items()}
    with torch.no_grad():
        return float((model.loss(twice) / model.loss(batch) - 1).abs())


class Regression(Trained):
    """A regression; the bug compares answers of shape [N] with labels of shape [N, 1], each with all."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)[:, 0]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        labels = batch["labels"][:, None] if self.wrong else batch["labels"]
        return (labels - self(batch["features"])).square().mean()


def change_of_order(model: Any) -> float:
    """How little it matters which label a row has: 1 where the loss is the same with the labels of other rows."""
    batch = {"features": torch.randn(4, 6), "labels": torch.tensor([-3.0, -1.0, 1.0, 3.0])}
    with torch.no_grad():
        return float((model.loss(batch) - model.loss({**batch, "labels": batch["labels"].flip(0)})).abs() < 1e-6)


class Waits(Trained):
    """How long until the next event, by a latent with a prior; the bug charges each event with the divergence of the whole batch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.encode, self.decode = nn.Linear(3, 2 * WIDTH), nn.Linear(WIDTH, 1)

    def latent(self, events: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.encode(events).chunk(2, -1)
        return mean, spread

    def forward(self, events: Tensor, lengths: Tensor) -> Tensor:
        return self.decode(self.latent(events)[0].tanh())[..., 0]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        events, lengths = batch["events"], batch["lengths"]
        real = (torch.arange(events.shape[1], device=events.device) < lengths[:, None]).to(events.dtype)
        mean, spread = self.latent(events)
        apart = 1 + spread - mean.square() - spread.exp()
        divergence = -0.5 * (apart.sum() if self.wrong else apart.sum(-1)) * real
        missed = (self(events, lengths) - batch["labels"]).square() * real
        return (missed + 0.01 * divergence).sum() / real.sum()


def more_by_more_histories(model: Any) -> float:
    """How much the loss of histories changes where each is there twice."""
    events, lengths = torch.randn(2, 5, 3), torch.tensor([5, 5])
    return change_by_repeating(model, {"events": events, "lengths": lengths, "labels": torch.randn(2, 5)})


class Ranked(Trained):
    """A recommender trained by pairs of items; the bug divides their mean by their number once more."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.users, self.items = nn.Embedding(PEOPLE, WIDTH), nn.Embedding(ITEMS, WIDTH)

    def forward(self, user: Tensor, liked: Tensor, other: Tensor) -> Tensor:
        return (self.users(user) * (self.items(liked) - self.items(other))).sum(-1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        told = -F.logsigmoid(self(batch["user"], batch["liked"], batch["other"])).mean()
        return told / len(batch["user"]) if self.wrong else told


def less_by_more_pairs(model: Any) -> float:
    """How much the loss of pairs changes where each is there twice."""
    return change_by_repeating(model, {"user": torch.arange(4), "liked": torch.arange(4), "other": torch.arange(4) + 4})


class Crystals(Trained):
    """Energies, trained as distances from their mean; the bug answers by those distances and never brings them back."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.each, self.head = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh()), nn.Linear(WIDTH, 1)
        self.register_buffer("mean", torch.tensor(5.0))
        self.register_buffer("deviation", torch.tensor(3.0))

    def normal(self, atoms: Tensor) -> Tensor:
        return self.head(self.each(atoms).mean(1))[:, 0]

    def forward(self, atoms: Tensor) -> Tensor:
        found = self.normal(atoms)
        return found if self.wrong else found * self.deviation + self.mean

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(self.normal(batch["atoms"]), (batch["labels"] - self.mean) / self.deviation)


def loss_of_right_answers(model: Any) -> float:
    """The loss where the answers are the labels themselves."""
    atoms = torch.randn(4, 3, 4)
    with torch.no_grad():
        return float(model.loss({"atoms": atoms, "labels": model(atoms)}))


class Denoiser(Trained):
    """A denoiser whose rows are weighted by their step; the bug weights each row by the steps of all."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.steps, self.net = nn.Embedding(20, WIDTH), nn.Sequential(nn.Linear(6 + WIDTH, 16), nn.Tanh(), nn.Linear(16, 6))

    def forward(self, sample: Tensor, step: Tensor) -> Tensor:
        return self.net(torch.cat([sample, self.steps(step)], 1))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        error = (self(batch["sample"], batch["step"]) - batch["labels"]).square().mean(-1)
        weight = 2.0 / (1 + batch["step"].to(error.dtype))
        return ((weight[:, None] if self.wrong else weight) * error).mean()


def error_of_the_weights(model: Any) -> float:
    """How far the loss of two rows is from the mean of the losses of each."""
    batch = {"sample": torch.randn(2, 6), "step": torch.tensor([0, 19]), "labels": torch.tensor([[9.0] * 6, [0.0] * 6])}
    rows = [{name: values[row : row + 1] for name, values in batch.items()} for row in range(2)]
    with torch.no_grad():
        return float((model.loss(batch) - torch.stack([model.loss(row) for row in rows]).mean()).abs())


add = partial(pair_of_one_class, area="losses", judge=Training, draw=3, long=True)
add(
    "labels_in_a_column",
    "Labels of shape [N, 1] are compared with answers of shape [N], each label with all answers",
    "LAMDA-Tabular/TALENT#92",
    "tables",
    "training_loss[targets]",
    Regression,
    change_of_order,
    TABLE,
    or_tests=("training_loss[reduction]", "overfits_one_batch"),
    line="return (labels - self(",
    first_run=FirstRun("039188d", found=True, named=True, said="training_loss[targets] fails, with its line"),
)
add(
    "divergence_of_the_whole_batch",
    "The divergence of a latent is summed over all events, and each event of the batch is charged with it",
    "EDAPINENUT/GNTPP#4",
    "forecasting",
    "training_loss[reduction]",
    Waits,
    more_by_more_histories,
    HISTORIES,
    or_tests=("accumulation",),
    line="return (missed + ",
    first_run=FirstRun("039188d", found=True, named=True, said="training_loss[reduction] fails, with its line"),
)
add(
    "mean_divided_once_more",
    "The mean over the pairs of a batch is divided by their number once more",
    "pyg-team/pytorch_geometric#7196",
    "recommenders",
    "training_loss[reduction]",
    Ranked,
    less_by_more_pairs,
    PAIRS,
    or_tests=("accumulation",),
    line="return told / len(",
    first_run=FirstRun("039188d", found=True, named=True, said="training_loss[reduction] fails, with its line"),
)
add(
    "answers_never_scaled_back",
    "Labels are normalised in training, and the answers are never brought back",
    "CompRhys/aviary#90",
    "graphs",
    "training_loss[targets]",
    Crystals,
    loss_of_right_answers,
    CRYSTALS,
    or_tests=("overfits_one_batch",),
    first_run=FirstRun(
        "039188d",
        found=False,
        named=False,
        said="overfits_one_batch warns that it learns slowly; training_loss[targets] is skipped, as the step does not call forward",
    ),
)
add(
    "weights_of_all_steps",
    "The weight of a row's step, of shape [N, 1], is multiplied with errors of shape [N], so that each row has the weights of all",
    "bayesflow-org/bayesflow#787",
    "diffusion",
    "training_loss[reduction]",
    Denoiser,
    error_of_the_weights,
    NOISY,
    or_tests=("training_loss[targets]", "accumulation"),
    line="return ((weight",
    first_run=FirstRun("039188d", found=True, named=True, said="accumulation fails, with its line"),
)
