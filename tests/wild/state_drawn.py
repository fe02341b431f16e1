"""Reported bugs of what is frozen and of what an evaluation leaves behind, drawn when the checks were finished."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model
from tests.planted_bugs.tier3.training import Training

from .register import task_of, wild

NODES = task_of(task_type="tabular_classification", num_features=6, num_classes=3)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=4)
OBSERVATIONS = task_of(
    inputs={"observation": {"axes": ["batch", 6]}},
    outputs={"actions": {"axes": ["batch", 3], "kind": "class_scores"}},
)


class Encoder(nn.Module):
    """Frozen layers with a norm below a head; the bug puts the norm into eval mode once, which the next train() undoes."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.head = nn.Linear(12, 3)
        self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        if not self.wrong:
            self.encoder.eval()
        return self

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.encoder(features))


class Stages(nn.Module):
    """Two stages of convolutions of which the first is frozen; the bug forgets its norm."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).requires_grad_(False)
        self.stage2 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def train(self, mode: bool = True) -> Stages:
        super().train(mode)
        if not self.wrong:
            self.stage1.eval()
        return self

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(pixel_values)).mean((2, 3)))


def moved_statistics(shape: tuple[int, ...], model: nn.Module) -> float:
    """How far a batch in train mode moves the statistics of the frozen norm."""
    norm = next(module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)))
    model.train()(torch.randn(shape) + 1)
    return float(norm.running_mean.abs().max())


_frozen = partial(wild, area="state", test="step_updates", status=Status.WARN, draw=1)
_frozen(
    "freezing_undone_by_train",
    title="Frozen batch norms are in eval mode until the next train(), and then average the batches again",
    report="pgniewko/gt-pyg#112",
    field="graphs",
    setup=partial(Training, NODES),
    buggy=partial(Encoder, True),
    sound=Encoder,
    wrong=partial(moved_statistics, (8, 6)),
    module="encoder.1",
)
_frozen(
    "norm_of_a_frozen_stage",
    title="The batch norms of frozen stages run in train mode",
    report="open-mmlab/mmdetection#560",
    field="vision",
    setup=partial(Training, IMAGES),
    buggy=partial(Stages, True),
    sound=Stages,
    wrong=partial(moved_statistics, (8, 3, 8, 8)),
    module="stage1.1",
)


class Whitened(nn.Module):
    """A policy that whitens what it observes; the bug folds what it sees in eval mode into its statistics too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
        self.register_buffer("count", torch.ones(()))
        self.register_buffer("mean", torch.zeros(6))

    @torch.no_grad()
    def fold(self, observation: Tensor) -> None:
        self.count += len(observation)
        self.mean += (observation - self.mean).sum(0) / self.count

    def forward(self, observation: Tensor) -> Tensor:
        if self.training or self.wrong:
            self.fold(observation)
        return self.net(observation - self.mean)


def change_by_a_call(model: nn.Module) -> float:
    """How much a call in eval mode changes the next one."""
    seen, other = torch.randn(2, 6), torch.randn(8, 6) + 100
    model.eval()
    with torch.no_grad():
        before = model(seen)
        model(other)
        return float((model(seen) - before).abs().max())


wild(
    "whitening_goes_on_in_eval_mode",
    title="The statistics that whiten observations are updated in eval mode too",
    report="strands-labs/robots#2426",
    area="state",
    field="policies",
    test="stateless",
    setup=partial(Model, OBSERVATIONS),
    buggy=partial(Whitened, True),
    sound=Whitened,
    wrong=change_by_a_call,
    draw=1,
)
