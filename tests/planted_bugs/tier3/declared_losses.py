"""Losses of declared tasks as people write them, sound and with a bug."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]


def pixels(outputs: Tensors, batch: Tensors) -> Tensor:
    return F.cross_entropy(outputs["mask"], batch["labels"])


def pixels_summed(outputs: Tensors, batch: Tensors) -> Tensor:
    return F.cross_entropy(outputs["mask"], batch["labels"], reduction="sum") / len(batch["labels"])


def _kl(outputs: Tensors) -> Tensor:
    mu, logvar = outputs["mu"], outputs["logvar"]
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1)


def vae(outputs: Tensors, batch: Tensors) -> Tensor:
    return F.mse_loss(outputs["image"], batch["image"]) + 1e-2 * _kl(outputs).mean()


def vae_with_summed_kl(outputs: Tensors, batch: Tensors) -> Tensor:
    return F.mse_loss(outputs["image"], batch["image"]) + 1e-2 * _kl(outputs).sum()


def elbo(recon: Tensor, image: Tensor, mu: Tensor, logvar: Tensor, beta: float) -> dict[str, Tensor]:
    divergence = _kl({"mu": mu, "logvar": logvar}).mean()
    return {"loss": F.mse_loss(recon, image) + beta * divergence, "kl": divergence}


def elbo_summed(recon: Tensor, image: Tensor, mu: Tensor, logvar: Tensor, beta: float) -> dict[str, Tensor]:
    parts = elbo(recon, image, mu, logvar, beta)
    return {**parts, "loss": parts["loss"] * len(image)}


def imitation(outputs: Tensors, batch: Tensors) -> Tensor:
    return F.cross_entropy(outputs["actions"], batch["actions"]) + 0.5 * F.mse_loss(outputs["value"], batch["value"])


def imitation_with_a_detached_value(outputs: Tensors, batch: Tensors) -> Tensor:
    policy = F.cross_entropy(outputs["actions"], batch["actions"])
    return policy + 0.5 * F.mse_loss(outputs["value"].detach(), batch["value"])


def imitation_with_swapped_weights(outputs: Tensors, batch: Tensors) -> Tensor:
    return 0.5 * F.cross_entropy(outputs["actions"], batch["actions"]) + F.mse_loss(outputs["value"], batch["value"])


def _policy_gradient(outputs: Tensors, batch: Tensors) -> Tensor:
    taken = outputs["actions"].log_softmax(-1).gather(1, batch["action"][:, None]).squeeze(1)
    return -(taken * batch["advantage"]).mean()


def actor_critic(outputs: Tensors, batch: Tensors) -> Tensor:
    return _policy_gradient(outputs, batch) + 0.5 * F.mse_loss(outputs["value"], batch["returns"])


def actor_critic_without_a_critic(outputs: Tensors, batch: Tensors) -> Tensor:
    return _policy_gradient(outputs, batch) + 0.5 * F.mse_loss(outputs["value"].detach(), batch["returns"])


def contrastive(outputs: Tensors, batch: Tensors) -> Tensor:
    similar = 5 * outputs["left"] @ outputs["right"].t()
    places = torch.arange(len(similar))
    return (F.cross_entropy(similar, places) + F.cross_entropy(similar.t(), places)) / 2


def contrastive_along_the_embedding(outputs: Tensors, batch: Tensors) -> Tensor:
    similar = 5 * outputs["left"][:, :, None] * outputs["right"][:, None, :]
    places = torch.arange(similar.shape[1]).expand(len(similar), -1)
    return (F.cross_entropy(similar, places) + F.cross_entropy(similar.transpose(1, 2), places)) / 2


def of_classes(outputs: Tensors, batch: Tensors) -> Tensor:
    near, same = outputs["embedding"] @ outputs["embedding"].t(), batch["kind"][:, None] == batch["kind"]
    apart = near[~same].relu().mean() if bool((~same).any()) else near.new_zeros(())
    return (1 - near[same]).mean() + apart


def of_several_classes(outputs: Tensors, batch: Tensors) -> Tensor:
    near, same = outputs["embedding"] @ outputs["embedding"].t(), batch["kind"][:, None] == batch["kind"]
    return (1 - near[same]).mean() + near[~same].relu().mean()


def pixels_with_ignored(outputs: Tensors, batch: Tensors) -> Tensor:
    return F.cross_entropy(outputs["mask"], batch["labels"], ignore_index=-100, reduction="none").mean()
