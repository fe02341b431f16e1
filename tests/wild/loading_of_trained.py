"""Reported bugs of what is saved of a training and loaded again, and of a start that is written over: the ninth draw."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model
from tests.planted_bugs.tier3.training import Training

from .register import FirstRun, pair_of_one_class, task_of

PEOPLE, ITEMS, WIDTH, ATOMS, BOARD, MOVES = 19, 23, 12, 5, 9, 4
CLICKS = task_of(
    inputs={
        "user": {"axes": ["batch"], "values": {"ids": PEOPLE}},
        "item": {"axes": ["batch"], "values": {"ids": ITEMS}},
    },
    outputs={"score": {"axes": ["batch"], "kind": "binary_scores"}},
)
PULSES = task_of(inputs={"pulses": {"axes": ["batch", ATOMS, 4]}}, outputs={"energy": {"axes": ["batch"], "kind": "values"}})
BOARDS = task_of(
    inputs={"boards": {"axes": ["batch", "time", BOARD]}},
    outputs={"moves": {"axes": ["batch", "time", MOVES], "kind": "class_scores"}},
    axes={"time": {"max": 6}},
)
LATENTS = task_of(
    inputs={"latent": {"axes": ["batch", 8]}, "timestep": {"axes": ["batch"], "values": {"ids": 10}}},
    outputs={"noise": {"axes": ["batch", 8], "kind": "values"}},
)


class TwoTower(nn.Module):
    """Users and items by tables; what is saved for serving is a second file, which the bug leaves as it was when all weights are saved."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.users, self.items = nn.Embedding(PEOPLE, WIDTH), nn.Embedding(ITEMS, WIDTH)
        self.item_tower = nn.Linear(WIDTH, WIDTH)
        self.item_embeds: Tensor | None = None

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        if self.item_embeds is not None and not self.training:
            return (self.users(user) * self.item_embeds.to(user.device)[item]).sum(-1)
        return (self.users(user) * self.item_tower(self.items(item)).tanh()).sum(-1)

    def save(self, path: str, inference_only: bool = False) -> None:
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        if inference_only or not self.wrong:
            torch.save(self.item_tower(self.items.weight).tanh().detach(), folder / "embeds.pt")
        torch.save(self.state_dict(), folder / "tower.pt")

    def load(self, path: str) -> None:
        self.load_state_dict(torch.load(Path(path) / "tower.pt"))
        embeds = Path(path) / "embeds.pt"
        self.item_embeds = torch.load(embeds) if embeds.exists() else None


@torch.no_grad()
def answers_of_an_older_file(model: Any) -> float:
    """How far a model that is loaded is from the one that was saved, in a folder where an earlier one was saved for serving."""
    user, item = torch.randint(PEOPLE, (6,)), torch.randint(ITEMS, (6,))
    with tempfile.TemporaryDirectory() as folder:
        model.eval().save(folder, inference_only=True)
        model.item_tower.weight.add_(0.3 * torch.randn_like(model.item_tower.weight))
        model.save(folder)
        other = TwoTower(model.wrong).eval()
        other.load(folder)
    return float((other(user, item) - model(user, item)).abs().max())


class Inference:
    """What calls a model for its predictions."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    @torch.no_grad()
    def run(self, model: nn.Module, pulses: Tensor) -> Tensor:
        return torch.cat([model(part) for part in pulses.split(self.batch_size)])


class Reconstruction(nn.Module):
    """The energy of a pulse; the bug makes what predicts only while it is trained, so that a loaded model cannot predict."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.first, self.readout = wrong, nn.Linear(4, WIDTH), nn.Linear(WIDTH, 1)
        if not wrong:
            self._inference = Inference(64)

    def forward(self, pulses: Tensor) -> Tensor:
        return self.readout(self.first(pulses).relu().mean(1))[:, 0]

    def fit(self, pulses: Tensor, energies: Tensor, steps: int = 3) -> None:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        self.train()
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(self(pulses), energies).backward()
            optimizer.step()
        self._inference = Inference(64)

    def predict(self, pulses: Tensor) -> Tensor:
        self.eval()
        return self._inference.run(self, pulses)


def loaded_cannot_predict(model: Any) -> float:
    """Whether a model that was given the weights of a trained one refuses to predict."""
    model.fit(torch.randn(8, ATOMS, 4), torch.randn(8))
    other = Reconstruction(model.wrong)
    other.load_state_dict(model.state_dict())
    try:
        other.predict(torch.randn(2, ATOMS, 4))
    except AttributeError:
        return 1.0
    return 0.0


class Potential(lightning.LightningModule):
    """Trains on its weights and is validated by their average; the bug stores the average as the weights when a training is resumed."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.net = wrong, nn.Sequential(nn.Flatten(), nn.Linear(ATOMS * 4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
        self.average = [each.detach().clone() for each in self.net.parameters()]
        self.stored: list[Tensor] | None = None

    def forward(self, pulses: Tensor) -> Tensor:
        return self.net(pulses)[:, 0]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch["pulses"]), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.mse_loss(self(batch["pulses"]), batch["labels"]))

    def store(self) -> None:
        self.stored = [each.detach().clone() for each in self.net.parameters()]

    def give_back(self) -> None:
        if self.stored is not None:
            self.copied(self.stored)
            self.stored = None

    @torch.no_grad()
    def copied(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.net.parameters(), values, strict=True):
            parameter.copy_(value)

    def on_fit_start(self) -> None:
        if self.wrong:
            self.store()
        self.give_back()

    def on_train_epoch_start(self) -> None:
        self.give_back()

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for slow, fast in zip(self.average, self.net.parameters(), strict=True):
            slow.lerp_(fast.detach().to(slow), 0.1)

    def on_validation_epoch_start(self) -> None:
        if self.stored is None:
            self.store()
            self.copied(self.average)

    def on_validation_end(self) -> None:
        if self._trainer is not None and self.trainer.sanity_checking:
            self.give_back()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = {"average": self.average, "stored": self.stored}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.average, self.stored = checkpoint["ema"]["average"], checkpoint["ema"]["stored"]

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def resumed_from_the_average(model: Any) -> float:
    """How far the weights that a resumed training begins with are from those that were trained."""
    model.copied([each + 1 for each in model.average])
    trained = [each.detach().clone() for each in model.net.parameters()]
    model.on_validation_epoch_start()
    checkpoint: dict[str, Any] = {}
    model.on_save_checkpoint(checkpoint)
    other = Potential(model.wrong)
    other.load_state_dict(model.state_dict())
    other.on_load_checkpoint(checkpoint)
    other.on_fit_start()
    other.on_train_epoch_start()
    return max(float((a - b).detach().abs().max()) for a, b in zip(other.net.parameters(), trained, strict=True))


def layer_init(layer: nn.Linear, std: float = 2**0.5) -> nn.Linear:
    """A layer with orthogonal weights and a gain."""
    nn.init.orthogonal_(layer.weight, std)
    nn.init.zeros_(layer.bias)
    return layer


class Player(nn.Module):
    """A policy whose last layer begins small."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(layer_init(nn.Linear(BOARD, WIDTH)), nn.GELU())
        self.decoder = nn.Sequential(layer_init(nn.Linear(WIDTH, WIDTH)), nn.GELU(), layer_init(nn.Linear(WIDTH, MOVES), 0.01))


class Remembering(nn.Module):
    """A policy with memory around another; the bug draws the weights of that one as well."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.policy, self.lstm = Player(), nn.LSTM(WIDTH, WIDTH, batch_first=True)
        for name, param in (self if wrong else self.lstm).named_parameters():
            if "bias" in name:
                nn.init.constant_(param, 0)
            elif "weight" in name and param.ndim >= 2:
                nn.init.orthogonal_(param, 1.0)

    def forward(self, boards: Tensor) -> Tensor:
        return self.policy.decoder(self.lstm(self.policy.encoder(boards))[0])


def gain_of_the_last_layer(model: Any) -> float:
    """How far the gain of the last layer is from the one that it was given."""
    return abs(float(torch.linalg.matrix_norm(model.policy.decoder[2].weight.detach(), 2)) - 0.01)


class LowRank(nn.Module):
    """A frozen layer with an adapter."""

    def __init__(self, into: int, out: int, rank: int = 4, alpha: float = 4.0) -> None:
        super().__init__()
        self.base = nn.Linear(into, out).requires_grad_(False)
        self.rank, self.alpha = rank, alpha
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(rank, into) / 4), nn.Parameter(torch.zeros(out, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.alpha / self.rank * (x @ self.lora_A.T @ self.lora_B.T)

    def set_lora_weights(self, lora_A: Tensor, lora_B: Tensor, alpha: float | None = None) -> None:
        self.rank = lora_A.shape[0]
        self.alpha = self.rank if alpha is None else alpha
        self.lora_A, self.lora_B = nn.Parameter(lora_A), nn.Parameter(lora_B)


class Distilled(nn.Module):
    """A denoiser with adapters whose file says how strong each is; the bug does not read that, and takes alpha for the rank."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.steps = wrong, nn.Embedding(10, 8).requires_grad_(False)
        self.enter, self.leave = LowRank(8, 16, alpha=1.0), LowRank(16, 8, alpha=1.0)

    def forward(self, latent: Tensor, timestep: Tensor) -> Tensor:
        return self.leave(self.enter(latent + self.steps(timestep)).tanh())

    def adapters(self) -> dict[str, LowRank]:
        return {name: module for name, module in self.named_modules() if isinstance(module, LowRank)}

    def save_lora(self, path: str) -> None:
        saved: dict[str, Any] = {}
        for name, layer in self.adapters().items():
            saved[f"{name}.lora_A"], saved[f"{name}.lora_B"] = layer.lora_A.detach(), layer.lora_B.detach()
            saved[f"{name}.alpha"] = torch.tensor(layer.alpha)
        torch.save(saved, path)

    def load_lora(self, path: str) -> None:
        saved = torch.load(path)
        for name, layer in self.adapters().items():
            alpha = None if self.wrong else float(saved[f"{name}.alpha"])
            layer.set_lora_weights(saved[f"{name}.lora_A"], saved[f"{name}.lora_B"], alpha)


@torch.no_grad()
def strength_that_is_lost(model: Any) -> float:
    """How far a loaded adapter acts otherwise than the one that was saved."""
    for layer in model.adapters().values():
        layer.lora_B.add_(torch.randn_like(layer.lora_B))
    inputs = torch.randn(4, 8), torch.randint(10, (4,))
    before = model(*inputs)
    with tempfile.TemporaryDirectory() as folder:
        model.save_lora(str(Path(folder, "lora.pt")))
        model.load_lora(str(Path(folder, "lora.pt")))
    return float((model(*inputs) - before).abs().max())


add = partial(pair_of_one_class, judge=Model, draw=9, long=True)
add(
    "older_file_for_serving",
    "Saving all weights leaves the embeddings in place that were saved for serving before, and loading reads these",
    "massquantity/LibRecommender#487",
    "recommenders",
    "serialisation[own_methods]",
    TwoTower,
    answers_of_an_older_file,
    CLICKS,
    area="loading",
    line="if inference_only",
    first_run=FirstRun("c9711093", found=False, named=False, said="nothing: a model is saved once, into an empty folder"),
    missed="a model is saved once, into an empty folder",
)
add(
    "predicts_only_after_training",
    "What runs the predictions is made by the training, so that a model with loaded weights cannot predict",
    "graphnet-team/graphnet#403",
    "graphs",
    "serialisation[own_methods]",
    Reconstruction,
    loaded_cannot_predict,
    PULSES,
    area="loading",
    or_tests=("train_mode[own_answers]", "eval_deterministic"),
    line="self._inference.run",
    first_run=FirstRun(
        "c9711093", found=False, named=False, said="skipped: a predict that raises is taken for one with other inputs"
    ),
    status=Status.WARN,
    long=False,
)
add(
    "resumed_from_the_average",
    "A checkpoint that is written while averaged weights are validated resumes from the average and not from the weights",
    "atomistic-machine-learning/schnetpack#785",
    "graphs",
    "resume",
    Potential,
    resumed_from_the_average,
    PULSES,
    area="loading",
    judge=Training,
    line="self.store()",
    first_run=FirstRun("c9711093", found=False, named=False, said="nothing: no checkpoint is written during a validation"),
    missed="no checkpoint is written during a validation",
)
add(
    "wrapper_draws_all_weights",
    "A wrapper with a memory initialises the weights of the policy in it again, which has a small last layer",
    "PufferAI/PufferLib#459",
    "policies",
    "initialisation[applied]",
    Remembering,
    gain_of_the_last_layer,
    BOARDS,
    area="start",
    status=Status.WARN,
    line="nn.init.orthogonal_(param",
    first_run=FirstRun(
        "c9711093",
        found=False,
        named=False,
        said="nothing about the start; both fail gradient_flow[reaches_every_parameter], since one step of a memory reads no state",
        alarms=("gradient_flow[reaches_every_parameter]",),
    ),
    missed="weights that begin in another way are a choice, and nothing tells which of two was meant",
)
add(
    "strength_in_the_file_unread",
    "The strength of each adapter stands in its file and is not read, so that it acts as if alpha were the rank",
    "sgl-project/sglang#16935",
    "diffusion",
    "adapter_layers[saved]",
    Distilled,
    strength_that_is_lost,
    LATENTS,
    area="adapters",
    or_tests=("serialisation[own_methods]",),
    line="set_lora_weights(saved",
    first_run=FirstRun(
        "c9711093",
        found=False,
        named=False,
        said="skipped: adapters that nothing merges or switches off are not known, nor is load_lora",
    ),
    missed="adapters that nothing merges or switches off are not known",
)
