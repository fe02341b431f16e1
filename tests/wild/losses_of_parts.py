"""Reported bugs of losses: the seventh draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.tier3.training import Training

from .losses_scores import TEXT, Learner, Mixtral, change_by_collapse
from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, SEEN, ACTIONS, TAGS = 23, 16, 6, 4, 5
TAGGED = task_of(task_type="token_classification", vocab_size=WORDS, max_seq_len=10, num_classes=TAGS)
ROLLOUTS = task_of(
    inputs={"seen": {"axes": ["batch", SEEN]}},
    outputs={"logits": {"axes": ["batch", ACTIONS], "kind": "other"}},
    labels={"action": {"axes": ["batch"], "values": {"ids": ACTIONS}}, "gain": {"axes": ["batch"]}},
    loss="model",
)
PAIRS = task_of(
    inputs={"spot": {"axes": ["batch", 6]}, "image": {"axes": ["batch", 8]}},
    outputs={"spots": {"axes": ["batch", WIDTH], "kind": "other"}, "images": {"axes": ["batch", WIDTH], "kind": "other"}},
    loss={"function": "model", "over": "batch"},
)


class Matched(Learner):
    """Spots and images that belong together, taught by how alike they are; the bug multiplies by the temperature in place of dividing."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.temperature, self.spots, self.images = 0.5, nn.Linear(6, WIDTH), nn.Linear(8, WIDTH)

    def forward(self, spot: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.spots(spot), self.images(image)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        spots, images = self(batch["spot"], batch["image"])
        alike = (spots @ spots.T + images @ images.T) / 2
        wanted = (alike * self.temperature if self.wrong else alike / self.temperature).softmax(-1)
        scores = spots @ images.T / self.temperature
        return (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted.T)) / 2


def change_of_the_wanted(model: Any) -> float:
    """How far the loss is from that of targets at the same temperature."""
    batch = {"spot": 3 * torch.randn(4, 6), "image": 3 * torch.randn(4, 8)}
    right = Matched()
    right.load_state_dict(model.state_dict())
    return abs(float((model.training_step(batch, 0) - right.training_step(batch, 0)).detach()))


class Smoothed(Learner):
    """A tagger with smoothed labels; the bug takes the smoothing's mean over places without a label too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.words, self.mix = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, TAGS)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.words(input_ids))[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.smoothed(self(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())

    def smoothed(self, scores: Tensor, labels: Tensor) -> Tensor:
        logs = scores.log_softmax(-1)
        real = labels != -100
        told = F.nll_loss(logs, labels, ignore_index=-100)
        evenly = -logs.mean(-1)
        return 0.9 * told + 0.1 * (evenly.mean() if self.wrong else (evenly * real).sum() / real.sum())


def smoothing_of_padding(model: Any) -> float:
    """The gradient at places without a label."""
    scores = torch.randn(8, TAGS, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, -100, -100, -100, -100])
    model.smoothed(scores, labels).backward()
    assert scores.grad is not None
    return float(scores.grad[4:].abs().max())


class Policy(Learner):
    """A policy with a clipped gain; the bug gives advantages an axis more, so that each ratio meets all of them."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(SEEN, WIDTH), nn.Tanh(), nn.Linear(WIDTH, ACTIONS))

    def forward(self, seen: Tensor) -> Tensor:
        return self.net(seen)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        logs = self(batch["seen"]).log_softmax(-1).gather(1, batch["action"][:, None])[:, 0]
        ratio, gain = (logs - logs.detach()).exp(), batch["gain"]
        if self.wrong:
            gain = gain.reshape(-1, 1)
        return -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()


def learns_of_all_gains(model: Any) -> float:
    """The gradient at a moment without a gain."""
    scores = torch.randn(4, ACTIONS, requires_grad=True)
    model.forward = lambda seen: scores
    model.loss({"seen": torch.zeros(4, SEEN), "action": torch.arange(4), "gain": torch.tensor([1.0, 0.0, 0.0, 0.0])}).backward()
    assert scores.grad is not None
    return float(scores.grad[1:].abs().max())


class Padded(Mixtral):
    """A language model with experts; the bug counts the places that experts have, which are always equally many."""

    def balance(self, scores: Tensor) -> Tensor:
        loads = F.one_hot(scores.topk(2).indices, 4).sum(1).to(scores).mean(0) / 2
        if self.wrong:
            loads = torch.full_like(loads, 0.25)
        return 4 * (loads * scores.softmax(-1).mean(0)).sum()


add = partial(pair_of_one_class, judge=Training, draw=7, long=True)
add(
    "temperature_on_the_other_side",
    "Targets are multiplied by the temperature by which scores are divided",
    "bowang-lab/BLEEP#5",
    "vision",
    "training_loss[rows]",
    Matched,
    change_of_the_wanted,
    PAIRS,
    or_tests=("overfits_one_batch",),
    area="losses",
    first_run=FirstRun("67ba39c0", found=False, named=False, said="nothing: no formula is known"),
    missed="the formula of a loss is not known",
)
add(
    "smoothing_over_ignored_places",
    "The smoothing of labels is averaged over places that are left out of the loss",
    "pytorch/pytorch#73205",
    "text",
    "training_loss[ignored_labels]",
    Smoothed,
    smoothing_of_padding,
    TAGGED,
    area="losses",
    line="evenly.mean()",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="training_loss[ignored_labels] fails, with the line"),
)
add(
    "ratios_times_all_advantages",
    "Advantages have an axis more than ratios, so that each ratio is multiplied by all of them",
    "RITCHIEHuang/DeepRL_Algorithms#13",
    "policies",
    "training_loss[rows]",
    Policy,
    learns_of_all_gains,
    ROLLOUTS,
    or_tests=("accumulation",),
    area="losses",
    line="ratio * gain",
    first_run=FirstRun(
        "67ba39c0",
        found=False,
        named=False,
        said="accumulation fails, with the step: training_loss[rows] is asked of losses over a batch only",
    ),
)
add(
    "loads_of_filled_experts",
    "The balance of experts counts the places that each is filled up to, so that it is the same whatever is chosen",
    "NVIDIA/Megatron-LM#1617",
    "text",
    "training_loss[balance]",
    Padded,
    change_by_collapse,
    TEXT,
    area="losses",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="training_loss[balance] fails in gate"),
)
