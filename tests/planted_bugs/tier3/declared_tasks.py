"""Declared tasks with losses of their own: segmentation, an autoencoder, policies, a pair of encoders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature

from ..register import HUMBATOVA, RECIPE
from ..tier1.declared import Policy
from .training import Training, plant

Keys = dict[str, Any]

IMAGE = {"image": {"axes": ["batch", 3, "height", "width"]}}
SIZES = {"height": {"min": 4, "max": 9}, "width": {"min": 4, "max": 9}}
SEGMENTATION = {
    "inputs": IMAGE,
    "outputs": {"mask": {"axes": ["batch", 4, "height", "width"], "kind": "class_scores", "classes": 1}},
    "axes": SIZES,
}
AUTOENCODER = {
    "inputs": {"image": {"axes": ["batch", 12]}},
    "outputs": {
        "image": {"axes": ["batch", 12], "fits": False},
        "mu": {"axes": ["batch", 3], "kind": "embedding"},
        "logvar": {"axes": ["batch", 3], "kind": "other"},
    },
    "labels": {"image": {"from": "image"}},
}
POLICY = {
    "inputs": {"observation": {"axes": ["batch", 8]}},
    "outputs": {"actions": {"axes": ["batch", 4], "kind": "class_scores"}, "value": {"axes": ["batch"], "weight": 0.5}},
}
IMITATION = {**POLICY, "labels": {"actions": {"axes": ["batch"], "values": {"ids": 4}}, "value": {"axes": ["batch"]}}}
REINFORCEMENT = {
    **POLICY,
    "labels": {
        "action": {"axes": ["batch"], "values": {"ids": 4}},
        "advantage": {"axes": ["batch"]},
        "returns": {"axes": ["batch"]},
    },
}
PAIR = {
    "inputs": {"left": {"axes": ["batch", 6]}, "right": {"axes": ["batch", 5]}},
    "outputs": {
        "left": {"axes": ["batch", 8], "kind": "embedding", "norm": 1.0},
        "right": {"axes": ["batch", 8], "kind": "embedding", "norm": 1.0},
    },
}


class Segmenter(nn.Module):
    """Two convolutions and a head for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image))


class Autoencoder(nn.Module):
    """A variational one (Kingma and Welling 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mu, self.logvar, self.decoder = (nn.Linear(*sizes) for sizes in ((12, 16), (16, 3), (16, 3), (3, 12)))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        hidden = self.body(image).tanh()
        mu, logvar = self.mu(hidden), self.logvar(hidden)
        noise = torch.randn_like(mu) if self.training else 0.0
        return {"image": self.decoder(mu + noise * (logvar / 2).exp()), "mu": mu, "logvar": logvar}


class Pair(nn.Module):
    """Two encoders into one space."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(5, 8)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"left": F.normalize(self.left(left), dim=-1), "right": F.normalize(self.right(right), dim=-1)}


class LitPolicy(lightning.LightningModule):
    """A policy with its own training step, which takes batches as tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Policy()

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(observation)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        observation, actions, value = batch
        scores, guess = self(observation)
        return F.cross_entropy(scores, actions) + 0.5 * self.of_value(guess, value)

    def of_value(self, guess: Tensor, value: Tensor) -> Tensor:
        return F.mse_loss(guess, value)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class BroadcastPolicy(LitPolicy):
    """[B] minus [B, 1] is [B, B]: every guess is pulled to the mean of all values."""

    def of_value(self, guess: Tensor, value: Tensor) -> Tensor:
        return (guess - value[:, None]).square().mean()


def declared(keys: Keys, build: Callable[[], nn.Module], loss: Any) -> Training:
    if isinstance(loss, str) and loss != "model":
        loss = f"declared_losses.py:{loss}"
    return Training(TaskSpec(TaskType.DECLARED, declared=read_signature({**keys, "loss": loss})), build)


def over_batch(function: str) -> dict[str, str]:
    return {"function": f"declared_losses.py:{function}", "over": "batch"}


plant(
    "loss_summed_over_pixels",
    "initial_loss",
    declared(SEGMENTATION, Segmenter, "pixels_summed"),
    declared(SEGMENTATION, Segmenter, "pixels"),
    "too_large",
    RECIPE,
    says="it is the sum over each row's labels",
)
plant(
    "kl_summed_over_the_batch",
    "training_loss[reduction]",
    declared(AUTOENCODER, Autoencoder, "vae_with_summed_kl"),
    declared(AUTOENCODER, Autoencoder, "vae"),
    "depends_on_batch",
    HUMBATOVA,
)
ELBO = {"recon": "outputs.image", "image": "batch.image", "mu": "outputs.mu", "logvar": "outputs.logvar", "beta": 0.01}
plant(
    "named_loss_summed_over_the_batch",
    "training_loss[reduction]",
    declared(AUTOENCODER, Autoencoder, {"function": "declared_losses.py:elbo_summed", "arguments": ELBO, "result": "loss"}),
    declared(AUTOENCODER, Autoencoder, {"function": "declared_losses.py:elbo", "arguments": ELBO, "result": "loss"}),
    "summed",
    HUMBATOVA,
)
plant(
    "loss_of_the_second_output_detached",
    "training_loss[targets]",
    declared(IMITATION, Policy, "imitation_with_a_detached_value"),
    declared(IMITATION, Policy, "imitation"),
    "no_gradient_to_output",
    HUMBATOVA,
    says="has no gradient with respect to output `value`",
)
plant(
    "weight_of_another_output",
    "training_loss[weights]",
    declared(IMITATION, Policy, "imitation_with_swapped_weights"),
    declared(IMITATION, Policy, "imitation"),
    "other_weights",
    HUMBATOVA,
    says="weighs its outputs as `actions` 1 and `value` 2, declared are `actions` 1 and `value` 0.5",
)
plant(
    "critic_without_gradient",
    "step_updates",
    declared(REINFORCEMENT, Policy, "actor_critic_without_a_critic"),
    declared(REINFORCEMENT, Policy, "actor_critic"),
    "output_without_gradient",
    HUMBATOVA,
    module="value.weight",
    says="no gradient reaches `value.weight` (and 1 other parameter), on which output `value` depends",
)
plant(
    "contrast_along_the_embedding",
    "training_loss[rows]",
    declared(PAIR, Pair, over_batch("contrastive_along_the_embedding")),
    declared(PAIR, Pair, over_batch("contrastive")),
    "rows_not_compared",
    HUMBATOVA,
)
plant(
    "values_broadcast_in_a_training_step",
    "training_loss[targets]",
    declared(IMITATION, BroadcastPolicy, "model"),
    declared(IMITATION, LitPolicy, "model"),
    "trained_away_from_label",
    RECIPE,
    says="of output `value`",
)


class Embedding(nn.Module):
    """A direction for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.net(features), dim=-1)


KINDS = {
    "inputs": {"features": {"axes": ["batch", 6]}},
    "outputs": {"embedding": {"axes": ["batch", 8], "kind": "embedding", "norm": 1.0}},
    "labels": {"kind": {"axes": ["batch"], "values": {"ids": 3}}},
}


plant(
    "no_row_of_another_class",
    "training_loss[one_class]",
    declared(KINDS, Embedding, over_batch("of_several_classes")),
    declared(KINDS, Embedding, over_batch("of_classes")),
    "",
    "HobbitLong/SupContrast, issue 141",
)

plant(
    "ignored_pixels_in_the_mean",
    "training_loss[ignored_labels]",
    declared(SEGMENTATION, Segmenter, "pixels_with_ignored"),
    declared(SEGMENTATION, Segmenter, "pixels"),
    "averages_over_ignored_positions",
    "open-mmlab/mmsegmentation#886",
)


class LossVae(nn.Module):
    """A variational autoencoder that returns its loss; the bug adds up the divergences of the batch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.net, self.wrong = Autoencoder(), wrong

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.net(image)
        mu, logvar = found["mu"], found["logvar"]
        apart = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1)
        loss = F.mse_loss(found["image"], image) + 0.01 * (apart.sum() if self.wrong else apart.mean())
        return {"image": found["image"], "loss": loss}


LOSS_OF_FORWARD = {
    "inputs": AUTOENCODER["inputs"],
    "outputs": {"image": {"axes": ["batch", 12], "fits": False}, "loss": {"axes": [], "kind": "loss"}},
    "labels": AUTOENCODER["labels"],
}
plant(
    "divergence_summed_in_forward",
    "training_loss[reduction]",
    declared(LOSS_OF_FORWARD, partial(LossVae, True), "model"),
    declared(LOSS_OF_FORWARD, LossVae, "model"),
    "depends_on_batch",
    "tensorflow/models#2243",
)


class Agent(lightning.LightningModule):
    """Q-learning with a target network; the bug trains that as well."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
        self.target = copy.deepcopy(self.net).requires_grad_(wrong)

    def forward(self, observation: Tensor) -> Tensor:
        return self.net(observation)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        taken = self(batch["observation"]).gather(1, batch["action"][:, None]).squeeze(1)
        goal = batch["reward"] + 0.9 * (1 - batch["done"]) * self.target(batch["following"]).amax(1)
        return F.smooth_l1_loss(taken, goal if self.wrong else goal.detach())

    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.01)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters() if self.wrong else self.net.parameters(), lr=1e-2)


AGENT = {
    "inputs": {"observation": {"axes": ["batch", 6]}},
    "outputs": {"q": {"axes": ["batch", 4], "kind": "values"}},
    "labels": {
        "action": {"axes": ["batch"], "values": {"ids": 4}},
        "reward": {"axes": ["batch"]},
        "following": {"axes": ["batch", 6]},
        "done": {"axes": ["batch"], "values": {"one_of": [0.0, 1.0]}},
    },
}
plant(
    "target_network_trained",
    "averaged_weights",
    declared(AGENT, partial(Agent, True), "model"),
    declared(AGENT, Agent, "model"),
    "average_is_trained",
    "DLR-RM/stable-baselines3#1946",
    module="target",
)
