"""Reported bugs of losses: means over nothing or over padding, masks along another axis, gradients that are cut or go too far."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .losses_batches import Trained
from .register import FirstRun, pair_of_one_class, task_of

WIDTH, ITEMS, WORDS, RELATIONS, ACTIONS, SEEN, BANDS = 12, 17, 19, 3, 4, 6, 5
MASKED = task_of(
    inputs={"items": {"axes": ["batch", "time"], "values": {"ids": ITEMS}}},
    outputs={"scores": {"axes": ["batch", "time", ITEMS], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 9}},
)
ROLLOUTS = task_of(
    inputs={"seen": {"axes": ["batch", SEEN]}},
    outputs={"logits": {"axes": ["batch", ACTIONS], "kind": "other"}, "worth": {"axes": ["batch"], "kind": "other"}},
    labels={"action": {"axes": ["batch"], "values": {"ids": ACTIONS}}, "reward": {"axes": ["batch"]}},
    loss="model",
)
TRIPLES = task_of(
    inputs={
        "words": {"axes": ["batch", "time"], "values": {"ids": WORDS, "pad": 0}},
        "real": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"objects": {"axes": ["batch", "time", RELATIONS], "kind": "binary_scores"}},
    axes={"time": {"min": 2, "max": 9, "padding": "right"}},
)
HISTORIES = task_of(
    inputs={
        "items": {"axes": ["batch", "time"], "values": {"ids": ITEMS, "pad": 0}},
        "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    outputs={"click": {"axes": ["batch"], "kind": "binary_scores"}},
    axes={"time": {"min": 2, "max": 9, "padding": "right"}},
)
SPOKEN = task_of(
    inputs={
        "phones": {"axes": ["batch", "time"], "values": {"ids": WORDS, "pad": 0}},
        "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    outputs={"sound": {"axes": ["batch", "time", BANDS], "kind": "values"}},
    axes={"time": {"min": 2, "max": 9, "padding": "right"}},
)


class MaskedItems(Trained):
    """Guesses the items of a session that were masked; the bug takes their mean also where none was."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.items, self.mix = nn.Embedding(ITEMS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, ITEMS)

    def forward(self, items: Tensor) -> Tensor:
        return self.head(self.mix(self.items(items))[0])

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        scores, labels = self(batch["items"]).flatten(0, 1), batch["labels"].flatten()
        if self.wrong:
            return F.cross_entropy(scores, labels)
        return F.cross_entropy(scores, labels, reduction="sum") / (labels != -100).sum().clamp(min=1)


def undefined_without_a_mask(model: Any) -> float:
    """Whether the loss of a batch without masked items is no number."""
    batch = {"items": torch.ones(2, 4, dtype=torch.long), "labels": torch.full((2, 4), -100)}
    return float(model.loss(batch).isnan())


class ActorCritic(Trained):
    """A policy and what it expects, trained by rewards; the bugs cut the policy off its loss, or let it teach what is expected."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__(bool(wrong))
        self.cut, self.leaks = wrong == "cut", wrong == "leaks"
        self.policy = nn.Sequential(nn.Linear(SEEN, WIDTH), nn.Tanh(), nn.Linear(WIDTH, ACTIONS))
        self.critic = nn.Sequential(nn.Linear(SEEN, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(seen), self.critic(seen)[:, 0]

    def of_policy(self, batch: dict[str, Tensor]) -> Tensor:
        logits, worth = self(batch["seen"])
        chosen = [row.log_softmax(0)[action] for row, action in zip(logits, batch["action"], strict=True)]
        told = torch.tensor([float(each) for each in chosen], dtype=worth.dtype) if self.cut else torch.stack(chosen)
        return -((batch["reward"] - (worth if self.leaks else worth.detach())) * told).mean()

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.of_policy(batch) + F.mse_loss(self(batch["seen"])[1], batch["reward"])


def rollouts() -> dict[str, Tensor]:
    """Four moments."""
    return {"seen": torch.randn(4, SEEN), "action": torch.arange(4), "reward": torch.randn(4)}


def untaught_policy(model: Any) -> float:
    """Whether the policy learns nothing."""
    model.loss(rollouts()).backward()
    return float(not any(each.grad is not None and each.grad.any() for each in model.policy.parameters()))


def critic_taught_by_the_policy(model: Any) -> float:
    """How much the loss of the policy pulls at what is expected."""
    model.of_policy(rollouts()).backward()
    return float(sum(0 if each.grad is None else each.grad.abs().sum() for each in model.critic.parameters()))


class Triples(Trained):
    """Which relations end at which words; the bug divides what all relations sum up to by the number of words only."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.words, self.mix = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, RELATIONS)

    def forward(self, words: Tensor, real: Tensor) -> Tensor:
        return self.head(self.mix(self.words(words))[0])

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        scores = self(batch["words"], batch["real"])
        missed = F.binary_cross_entropy_with_logits(scores, batch["labels"].to(scores.dtype), reduction="none")
        mask = batch["real"].to(scores.dtype)[..., None]
        if not self.wrong:
            mask = mask.expand_as(missed)
        return (missed * mask).sum() / mask.sum()


def more_than_a_guess(model: Any) -> float:
    """How far the loss of scores of zero is above that of a guess, as a share."""
    model.head.weight.data.zero_()
    model.head.bias.data.zero_()
    batch = {"words": torch.ones(2, 4, dtype=torch.long), "real": torch.ones(2, 4), "labels": torch.zeros(2, 4, RELATIONS)}
    return abs(float(model.loss(batch).detach()) / math.log(2) - 1)


class Interests(Trained):
    """Whether a history ends in a click, with the next item as a second lesson; the bug teaches padding as well."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.items, self.mix = nn.Embedding(ITEMS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 1)

    def states(self, items: Tensor) -> Tensor:
        return self.mix(self.items(items))[0]

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        last = (lengths - 1).clamp(min=0)
        return self.head(self.states(items)[torch.arange(len(items), device=items.device), last])[:, 0]

    def aside(self, items: Tensor, lengths: Tensor) -> Tensor:
        states, following = self.states(items)[:, :-1], self.items(items[:, 1:])
        missed = -F.logsigmoid((states * following).sum(-1))
        real = torch.arange(1, items.shape[1], device=items.device) < lengths[:, None]
        if self.wrong:
            real = torch.ones_like(real)
        return (missed * real).sum() / real.sum().clamp(min=1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        click = self(batch["items"], batch["lengths"])
        told = F.binary_cross_entropy_with_logits(click, batch["labels"].to(click.dtype))
        return told + 0.5 * self.aside(batch["items"], batch["lengths"])


def change_by_more_padding(model: Any) -> float:
    """How far three places of padding move the second lesson."""
    items, lengths = torch.randint(1, ITEMS, (2, 5)), torch.tensor([5, 4])
    with torch.no_grad():
        return float((model.aside(F.pad(items, (0, 3)), lengths) - model.aside(items, lengths)).abs())


class Voice(Trained):
    """A sound for each phone; the bug makes the mask of its loss along the bands instead of the time."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.phones, self.mix = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, BANDS)

    def forward(self, phones: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.mix(self.phones(phones))[0])

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        sound = self(batch["phones"], batch["lengths"])
        count = sound.shape[2 if self.wrong else 1]
        real = torch.arange(count, device=sound.device) < batch["lengths"][:, None]
        mask = (real[:, None, :] if self.wrong else real[:, :, None]).expand_as(sound).to(sound.dtype)
        return ((sound - batch["labels"]).abs() * mask).sum() / mask.sum().clamp(min=1)


def change_by_padded_labels(model: Any) -> float:
    """How far the loss moves with what stands at the padding of the labels."""
    batch = {"phones": torch.ones(1, 6, dtype=torch.long), "lengths": torch.tensor([3]), "labels": torch.zeros(1, 6, BANDS)}
    other = {**batch, "labels": F.pad(torch.zeros(1, 3, BANDS), (0, 0, 0, 3), value=7.0)}
    with torch.no_grad():
        return float((model.loss(other) - model.loss(batch)).abs())


add = partial(pair_of_one_class, area="losses", judge=Training, draw=4, long=True)
add(
    "mean_over_no_item",
    "Where no item of a batch was masked, the loss is a mean over nothing",
    "jaywonchung/BERT4Rec-VAE-Pytorch#22",
    "recommenders",
    "training_loss[ignored_labels]",
    MaskedItems,
    undefined_without_a_mask,
    MASKED,
    or_tests=("step_updates",),
    missed="PyTorch's own mean over no label is undefined, and most trainings have it",
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: no batch is without any label"),
)
add(
    "policy_cut_off_its_loss",
    "The log probabilities of actions are copied into a new tensor, which has no gradient, so that the policy never learns",
    "kengz/SLM-Lab#133",
    "policies",
    "step_updates",
    ActorCritic,
    untaught_policy,
    ROLLOUTS,
    buggy=partial(ActorCritic, "cut"),
    or_tests=("training_loss[targets]", "optimizer_coverage"),
    module="policy",
    status=Status.WARN,
    first_run=FirstRun(
        "79f3b8c", found=False, named=False, said="step_updates says that all 4 parameters with a gradient changed, of 8"
    ),
)
add(
    "critic_taught_by_the_policy",
    "What the critic expects is not detached in the loss of the policy, which trains the critic too",
    "astariul/encode-attend-navigate-pytorch#3",
    "policies",
    "step_updates",
    ActorCritic,
    critic_taught_by_the_policy,
    ROLLOUTS,
    buggy=partial(ActorCritic, "leaks"),
    or_tests=("training_loss[targets]",),
    module="critic",
    missed="which term of a loss may train what is not known",
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: which term of a loss may train what is not known"),
)
add(
    "relations_not_counted",
    "What all relations sum up to is divided by the number of words, so that the loss is as many times too large",
    "longlongman/CasRel-pytorch-reimplement#15",
    "text",
    "initial_loss",
    Triples,
    more_than_a_guess,
    TRIPLES,
    status=Status.WARN,
    or_tests=("training_loss[reduction]",),
    line="return (missed * mask)",
    missed="a constant factor of a loss is a choice, and the guess of several yes or no is not judged",
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: a constant factor is a choice"),
)
add(
    "second_lesson_of_padding",
    "A second loss, of the next item, is taken over padding as well",
    "RUCAIBox/RecBole#1483",
    "recommenders",
    "training_loss[padding]",
    Interests,
    change_by_more_padding,
    HISTORIES,
    status=Status.WARN,
    or_tests=("training_loss[reduction]", "accumulation"),
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: a training step is not taken with more padding"),
)
add(
    "mask_along_the_bands",
    "The mask of a loss is made along the bands of a sound instead of its time",
    "axelspringer/ForwardTacotron#22",
    "speech",
    "training_loss[targets]",
    Voice,
    change_by_padded_labels,
    SPOKEN,
    or_tests=("training_loss[ignored_labels]", "training_loss[reduction]", "accumulation"),
    first_run=FirstRun("79f3b8c", found=True, named=True, said="training_loss[targets] fails, with the line of the loss"),
)
