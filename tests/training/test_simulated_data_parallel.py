"""Two halves of a batch against the whole: models that are random in training, clip, or accumulate, and what hides among them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from planted_bugs.tier3.lightning_run_models import Manual, Module, Pair
from planted_bugs.tier3.run_models import WIDTH, Net
from planted_bugs.tier3.runs import run_of
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from harness.evidence import Status
from harness.training.checks.distributed import distributed
from harness.training.checks.gradient_noise import disable_dropout, disable_stochastic_layers
from harness.training.checks.simulated_data_parallel import judge_simulated_data_parallel

pytestmark = pytest.mark.usefixtures("one_thread")


class Latent(Net):
    """Samples what it passes on while it trains, and takes the mean otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Linear(WIDTH, WIDTH)

    def body(self, features: Tensor) -> Tensor:
        mean = super().body(features)
        return mean + F.softplus(self.spread(mean)) * torch.randn_like(mean) if self.training else mean


class CentredLatent(Latent):
    """The same, and takes the mean over the batch away: a leak between rows beside the noise."""

    def body(self, features: Tensor) -> Tensor:
        x = super().body(features)
        return x - x.mean(0)


class StochasticDepth(Net):
    """Leaves a residual branch out, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.survival = nn.Linear(WIDTH, WIDTH), 0.5

    def body(self, features: Tensor) -> Tensor:
        x = super().body(features)
        if not self.training:
            return x + self.branch(x)
        kept = torch.rand(len(x), 1) < self.survival
        return x + self.branch(x) * kept / self.survival


class WholeDepth(StochasticDepth):
    """Leaves it out for all rows at once, by Python's generator."""

    def body(self, features: Tensor) -> Tensor:
        x = Net.body(self, features)
        return x if self.training and random.random() > self.survival else x + self.branch(x)


class Mixup(Module):
    """Trains on mixtures of the batch's rows."""

    def training_step(self, batch: Pair, _index: int) -> Any:
        first, second = (batch[0][torch.randperm(len(batch[1]))] for _ in range(2))
        return self.loss((0.5 * batch[0] + 0.3 * first + 0.2 * second, batch[1]))


class Clipping(Manual):
    """Clips before each step, by Lightning's own method."""

    def training_step(self, batch: Pair, _index: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip(optimizer)
        optimizer.step()

    def clip(self, optimizer: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm="norm")


class ClippingByName(Clipping):
    """Clips by a function that this file has imported by name."""

    def clip(self, optimizer: Any) -> None:
        clip_grad_norm_(self.parameters(), 0.01)


class ClippingPairs(Clipping):
    """Clips, and its loss holds the rows of a batch against each other."""

    def loss(self, batch: Pair) -> Tensor:
        logits = self(batch[0])
        return F.cross_entropy(logits, batch[1]) - torch.cdist(logits, logits).mean()


class EveryThree(Manual):
    """Takes a step after every third batch."""

    def training_step(self, batch: Pair, index: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(batch) / 3)
        if index % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()


class Experts(Module):
    """A mixture of experts with a loss that keeps them equally busy, which is a statistic of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        shares = self.router(features).softmax(-1)
        return torch.stack([expert(features) for expert in self.experts], -1).mul(shares[:, None]).sum(-1) + self.net(features)

    def training_step(self, batch: Pair, _index: int) -> Any:
        return self.loss(batch) + self.router(batch[0]).softmax(-1).mean(0).square().sum()


class Folding(nn.Linear):
    """A linear layer whose adapter is folded into its weights in eval mode, and taken out in train mode."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.down, self.up = nn.Parameter(torch.randn(2, WIDTH)), nn.Parameter(torch.randn(WIDTH, 2))
        self.folded = False

    def train(self, mode: bool = True) -> Folding:
        super().train(mode)
        if mode == self.folded:
            self.weight.data += (-1 if mode else 1) * (self.up @ self.down).data
            self.folded = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.folded else y + x @ self.down.t() @ self.up.t()


class Adapted(Net):
    def __init__(self) -> None:
        super().__init__()
        self.adapted = Folding()

    def body(self, features: Tensor) -> Tensor:
        return self.adapted(super().body(features)).tanh()


class ActorCritic(Net):
    """Returns the value of a state beside the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(WIDTH, 1)

    def forward(self, features: Tensor) -> Any:
        x = self.body(features)
        return self.head(x), self.value(x)


class Sharpness(torch.optim.Optimizer):
    """Sharpness-aware minimisation (Foret et al. 2021, arXiv:2010.01412): steps at the worst place near by."""

    def __init__(self, parameters: Any, reach: float = 0.5) -> None:
        super().__init__(parameters, {"lr": 1e-2, "reach": reach})
        self.base = torch.optim.SGD(self.param_groups, lr=1e-2)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def climb(self) -> None:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        for parameter in parameters:
            step = parameter.grad * (self.defaults["reach"] / (norm + 1e-12))
            parameter.add_(step)
            self.state[parameter]["step"] = step
        self.zero_grad()

    @torch.no_grad()
    def descend(self) -> None:
        for parameter, state in self.state.items():
            parameter.sub_(state["step"])
        self.base.step()
        self.zero_grad()

    def step(self, closure: Any = None) -> Any:
        self.base.step()


class SharpnessAware(Manual):
    def training_step(self, batch: Pair, _index: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(batch))
        optimizer.climb()
        self.manual_backward(self.loss(batch))
        optimizer.descend()

    def configure_optimizers(self) -> Any:
        return Sharpness(self.parameters())


@pytest.mark.parametrize("stance", [disable_stochastic_layers, disable_dropout])
@pytest.mark.parametrize(
    "build",
    [Latent, StochasticDepth, WholeDepth, Clipping, ClippingByName, EveryThree, Adapted, ActorCritic],
    ids=lambda b: b.__name__,
)
def test_the_halves_of_sound_models_add_up(build: Callable[[], nn.Module], stance: Any, tmp_path: Path) -> None:
    found = judge_simulated_data_parallel(run_of(build).trial(tmp_path), stance)
    assert found is None, found.explain()


@pytest.mark.parametrize("build", [CentredLatent, ClippingPairs], ids=lambda b: b.__name__)
def test_a_leak_between_rows_is_seen_through_noise_and_clipping(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    found = judge_simulated_data_parallel(run_of(build).trial(tmp_path), disable_dropout)
    assert found is not None
    assert found.status is Status.FAIL
    assert "the contribution of a row depends on the other rows of its process" in found.message


def test_noise_is_not_blamed_for_a_leak(tmp_path: Path) -> None:
    found = judge_simulated_data_parallel(run_of(CentredLatent).trial(tmp_path), disable_dropout)
    assert found is not None
    assert found.module == "(model)"


def test_draws_that_belong_to_no_row_are_a_reason_not_to_judge(tmp_path: Path) -> None:
    found = judge_simulated_data_parallel(run_of(Mixup).trial(tmp_path), disable_dropout)
    assert found is not None
    assert found.status is Status.SKIPPED
    assert "random numbers that belong to no single row" in found.message


def test_a_balance_loss_is_worth_a_warning(tmp_path: Path) -> None:
    found = judge_simulated_data_parallel(run_of(Experts).trial(tmp_path), disable_dropout)
    assert found is not None
    assert found.status is Status.WARN
    assert "because of a term of the loss beside that of the logits" in found.message
    assert "a balance loss" in found.cause


@pytest.mark.long
@pytest.mark.parametrize(
    "build", [Latent, StochasticDepth, Clipping, SharpnessAware, EveryThree, Adapted, ActorCritic], ids=lambda b: b.__name__
)
def test_two_processes_train_sound_models_as_one(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    evidence = distributed(run_of(build).trial(tmp_path))
    assert evidence.status is Status.OK, evidence.explain()
    assert "have the gradients of 1" in evidence.message
    assert ("`value.weight`" in evidence.message) == (build is ActorCritic)
