"""What starts at zero or at one on purpose, and what is dead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.evidence import Status
from harness.properties.contents import flat_rows_are_taught
from harness.properties.initialisation import signal_scale, symmetry
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=4)


class Net(nn.Module):
    """A perceptron whose units have a factor each, as adapters that rescale activations have."""

    def __init__(self, head: float) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.factors = nn.Parameter(torch.ones(16, 1))
        nn.init.normal_(self.head.weight, std=head) if head else nn.init.zeros_(self.head.weight)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(features)
        product = (hidden * self.factors[:8, 0]) * (hidden * self.factors[8:, 0])
        return self.head(product.relu() * (hidden > 0))


def subject_of(net: nn.Module) -> Subject:
    return Subject(net.eval(), make_adapter(TABLE), TABLE, pristine=net)


def test_a_head_that_starts_at_zero_is_meant() -> None:
    torch.manual_seed(0)
    assert signal_scale(subject_of(Net(head=0.0))).status is Status.OK


def test_units_that_are_all_dead_are_found_whatever_the_head() -> None:
    torch.manual_seed(0)
    net = Net(head=0.3)
    with torch.no_grad():
        net.first.weight.mul_(1e-12)
        net.first.bias.fill_(-1.0)

    assert signal_scale(subject_of(net)).status is Status.FAIL


@pytest.mark.parametrize("copied", [False, True])
def test_factors_that_start_equal_are_no_units(copied: bool) -> None:
    torch.manual_seed(0)
    net = Net(head=0.3)
    with torch.no_grad():
        net.first.bias.fill_(1.0)  # both units are alive
        if copied:
            net.first.weight[1] = net.first.weight[0]
            net.head.weight[:, 1] = net.head.weight[:, 0]
    found = symmetry(subject_of(net))

    assert (found.status, found.module) == ((Status.FAIL, "first.weight") if copied else (Status.OK, ""))


class ScaledBranch(nn.Module):
    """A branch behind a layer scale of 1e-9, with a factor of one for each head; or one that a dead unit keeps from learning."""

    def __init__(self, is_dead: bool) -> None:
        super().__init__()
        self.first, self.head, self.is_dead = nn.Linear(6, 8), nn.Linear(8, 4), is_dead
        self.temperature = nn.Parameter(torch.ones(2, 1))
        self.branch = nn.Linear(8, 8)
        nn.init.zeros_(self.branch.weight)
        nn.init.zeros_(self.branch.bias)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(features)
        heads = hidden.view(-1, 2, 4) * self.temperature
        branch = self.branch(hidden).relu() if self.is_dead else heads.flatten(1)
        return self.head(hidden + 1e-9 * branch)


@pytest.mark.parametrize("is_dead", [False, True])
def test_steps_that_are_lost_in_rounding_are_not_the_same_as_no_gradient(is_dead: bool) -> None:
    torch.manual_seed(0)
    net = ScaledBranch(is_dead)
    net.get_parameter("temperature" if is_dead else "branch.weight").requires_grad_(False)
    found = symmetry(subject_of(net))

    assert (found.status, found.module) == ((Status.FAIL, "branch.weight") if is_dead else (Status.OK, ""))


class Masked(nn.Module):
    """A layer hands on scores of which some say "never"; or scores that explode."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.scores, self.head = nn.Sequential(nn.Linear(6, 8), nn.Identity()), nn.Linear(8, 4)
        self.scores[1].register_forward_hook(self.hide)

    def hide(self, _layer: nn.Module, _inputs: object, scores: Tensor) -> Tensor:
        return self.factor * scores if self.factor > 0 else torch.where(torch.arange(8) > 5, self.factor, scores)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.scores(features).softmax(-1))


@pytest.mark.parametrize(("factor", "status"), [(-1e10, Status.OK), (1e10, Status.WARN)])
def test_scores_that_are_masked_are_no_activations_that_explode(factor: float, status: Status) -> None:
    torch.manual_seed(0)
    net = Masked(factor)
    found = signal_scale(Subject(net.eval(), make_adapter(TABLE), TABLE, pristine=net))
    assert found.status is status, found.explain()


class Weighted(nn.Module):
    """Numbers weighted by what a layer says of them; the weights add up to 1, or are multiplied by the deviation of the row."""

    def __init__(self, by_deviation: bool) -> None:
        super().__init__()
        self.by_deviation = by_deviation
        self.weigh = nn.Linear(6, 24)

    def forward(self, features: Tensor) -> Tensor:
        weights = self.weigh(features).unflatten(1, (4, 6)).softmax(-1)
        if self.by_deviation:
            weights = weights * features.std(1, unbiased=False)[:, None, None]
        return (features[:, None] * weights).sum(-1)


@pytest.mark.parametrize(("by_deviation", "status"), [(False, Status.OK), (True, Status.FAIL)])
def test_weights_that_add_up_to_1_make_no_difference_where_numbers_are_the_same(by_deviation: bool, status: Status) -> None:
    torch.manual_seed(0)
    assert flat_rows_are_taught(subject_of(Weighted(by_deviation))).status is status
