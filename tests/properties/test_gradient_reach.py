"""A gradient of zero may be forgiven where another mode has one; a gradient that is absent in training never is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from harness.adapters import make_adapter
from harness.analysis import Study
from harness.analysis.gradcheck import gradcheck
from harness.config import SuiteConfig
from harness.evidence import Status
from harness.owners import owners_of
from harness.properties.gradients import gradient_reaches
from harness.properties.numerics import finite_gradients_by_content
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model
from tests.planted_bugs.tier1.tabular import SoftplusByHand

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=3)
WIDTH = 8


def subject_of(build: type[nn.Module], seed: int = 0, task: TaskSpec = TABLE) -> Subject:
    def made(weights_seed: int) -> nn.Module:
        with seeded(weights_seed):
            return build().eval()

    model = made(seed)
    return Subject(model, make_adapter(task), task, pristine=model, rebuild=made, seed=seed)


class Adapted(nn.Module):
    """A frozen stem, and blocks with trainable adapters that are computed again in the backward pass."""

    reentrant = False

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, WIDTH).requires_grad_(False)
        self.adapters = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, features: Tensor) -> Tensor:
        x = self.stem(features)
        for adapter in self.adapters:
            x = x + (checkpoint(adapter, x, use_reentrant=self.reentrant) if self.training else adapter(x)).tanh()
        return self.head(x)


class CutOff(Adapted):
    """Reentrant checkpointing returns no graph where no input asks for a gradient, as behind a frozen stem."""

    reentrant = True


class BiasBeforeNorm(nn.Module):
    """The norm takes the mean away in train mode, and with it the bias, whose gradient is zero there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(6, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(features)).relu())


class LayerDrop(nn.Module):
    """Leaves a layer out at random, for all rows at once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, features: Tensor) -> Tensor:
        x = self.stem(features).relu()
        return self.head(x if self.training and torch.rand(()) < 0.7 else x + self.layer(x))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_adapters_cut_off_in_training_are_found_though_eval_mode_has_their_gradient() -> None:
    found = gradient_reaches(subject_of(CutOff))
    assert found.status is Status.FAIL
    assert found.message.startswith("parameter `adapters.0.weight` receives no gradient (and 3 other parameters)")


@pytest.mark.parametrize("build", [Adapted, BiasBeforeNorm, LayerDrop], ids=lambda build: build.__name__)
def test_sound_models_are_green(build: type[nn.Module]) -> None:
    found = gradient_reaches(subject_of(build))
    assert found.status is Status.OK, found.explain()


class Recomputed(nn.Module):
    """Computes a block with dropout again in the backward pass, in whatever mode it is then."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, self.stem(features), use_reentrant=False))


def test_gradients_are_checked_in_train_mode_up_to_the_end_of_the_backward_pass() -> None:
    found = gradcheck(Study(subject_of(Recomputed)))
    assert found.status is Status.OK, found.explain()


class Apart(nn.Module):
    """Two halves of a row through one layer, compared; its bias is the same in both and subtracted again."""

    apart = True

    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, features: Tensor) -> Tensor:
        left, right = features[:, :3], features[:, 3:]
        return self.head((self.each(left) - self.each(right if self.apart else left)).square())


class FromItself(Apart):
    """Compares the left half with itself."""

    apart = False


WAVES = SuiteConfig.model_validate(
    {
        "task_name": "waves",
        "model_file": "model.py",
        "inputs": {"wave": {"axes": ["batch", "time"]}},
        "outputs": {"level": {"axes": ["batch"]}},
        "axes": {"time": {"min": 2}},
    }
).task_spec()


class BehindStrides(nn.Module):
    """A recurrent layer sees one step of 64 samples, so that a short wave gives it nothing to remember."""

    remembers = True

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.memory, self.head = nn.Conv1d(1, WIDTH, 64, 64), nn.GRU(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, wave: Tensor) -> Tensor:
        whole = functional.pad(wave, (0, -wave.shape[1] % 64))
        steps = self.frames(whole[:, None]).permute(2, 0, 1)
        read = self.memory(steps if self.remembers else steps[:1])[0]
        return self.head(read.mean(0))[:, 0]


class FirstStepOnly(BehindStrides):
    """Gives the recurrent layer the first step, however long the wave is."""

    remembers = False


def test_a_gradient_that_only_longer_inputs_have_is_one() -> None:
    evidence = gradient_reaches(subject_of(BehindStrides, task=WAVES))

    assert evidence.status is Status.OK, evidence.explain()
    assert "1 of them from inputs of batch=3, time=112 only" in evidence.message


def test_a_gradient_that_no_length_has_is_none() -> None:
    evidence = gradient_reaches(subject_of(FirstStepOnly, task=WAVES))

    assert (evidence.status, evidence.code, evidence.module) == (Status.FAIL, "no_gradient", "memory")
    assert evidence.details["unreached"] == ["memory.weight_hh_l0"]


def test_gradients_of_logits_that_are_not_finite_are_left_to_them() -> None:
    evidence = finite_gradients_by_content(subject_of(SoftplusByHand))

    assert owners_of(evidence) == ("finite_output[extremes]",)
    assert evidence.message.endswith("where the logits are not finite")


def test_a_bias_that_is_subtracted_again_is_a_warning() -> None:
    evidence = gradient_reaches(subject_of(Apart))

    assert evidence.status is Status.WARN, evidence.explain()
    assert (evidence.code, evidence.module) == ("cancels", "each")
    assert "the gradients of parameter `each.bias` from 2 calls cancel exactly" in evidence.message


class Narrow(nn.Module):
    """Two units behind a ReLU, which some weights leave dead."""

    bias = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.head = nn.Linear(6, 2), nn.Linear(2, 3)
        dead = float(torch.rand(())) < 0.5
        nn.init.constant_(self.narrow.bias, -9.0 if dead else self.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.narrow(features).relu())


class AlwaysDead(Narrow):
    """Starts dead whatever the weights."""

    bias = -9.0


def test_units_that_are_dead_with_some_weights_only_are_a_warning() -> None:
    seed = next(seed for seed in range(20) if _is_dead(Narrow, seed) and not _is_dead(Narrow, seed + 1))
    evidence = gradient_reaches(subject_of(Narrow, seed))

    assert evidence.status is Status.WARN, evidence.explain()
    assert (evidence.code, evidence.module) == ("dead_by_chance", "narrow")
    assert "receives no gradient" in evidence.message


def test_units_that_are_dead_with_all_weights_are_a_failure() -> None:
    evidence = gradient_reaches(subject_of(AlwaysDead))

    assert evidence.status is Status.FAIL, evidence.explain()


def _is_dead(model: type[Narrow], seed: int) -> bool:
    torch.manual_seed(seed)
    return float(model().narrow.bias[0].detach()) < -1


def test_weights_whose_gradients_cancel_are_a_failure() -> None:
    evidence = gradient_reaches(subject_of(FromItself))

    assert evidence.status is Status.FAIL, evidence.explain()
    assert {"each.weight", "each.bias"} <= set(evidence.details["unreached"])


class Cut(nn.Module):
    """Loses the gradient of what it embeds, in one way or another."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.embed, self.head = way, nn.Linear(6, WIDTH), nn.Linear(6 + WIDTH, 3)

    def forward(self, features: Tensor) -> Tensor:
        x = self.embed(features)
        scale = x.detach().abs().mean() + 1  # for all the same: it costs no gradient
        x = x / scale
        if self.way == "detached":
            x = x.detach().tanh()
        if self.way == "read as data":
            x = x.data.tanh()
        if self.way == "without gradients":
            with torch.no_grad():
                x = x.tanh()
        if self.way == "rounded":
            x = torch.round(x)
        if self.way == "one share":
            x = x.sum(-1, keepdim=True).softmax(-1) * torch.ones(WIDTH)
        if self.way == "dropped":
            x = torch.zeros_like(x)
        return self.head(torch.cat((features, x), -1))


@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("detached", "x = x.detach().tanh()"),
        ("read as data", "x = x.data.tanh()"),
        ("without gradients", "x = x.tanh()"),
        ("rounded", "x = torch.round(x)"),
        ("one share", "softmax(-1)"),
        ("dropped", "zeros_like(x)"),
    ],
)
def test_the_line_that_loses_a_gradient_is_named(way: str, line: str) -> None:
    found = judge_model(lambda: Cut(way), TABLE, only=["gradient_flow"])["gradient_flow[reaches_every_parameter]"]
    assert found.status is Status.FAIL
    assert found.excerpt is not None
    assert line in found.excerpt.marked, found.explain()


class DividesByNothing(nn.Module):
    """Has a finite output and a gradient of NaN at zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.head = nn.Linear(6, WIDTH, bias=False), nn.Linear(WIDTH, 3)

    def forward(self, features: Tensor) -> Tensor:
        x = self.near(features)
        size = x.square().sum(-1, keepdim=True)
        return self.head(x / (size.sqrt() + 1))


def test_the_line_whose_gradient_is_not_finite_is_named() -> None:
    found = judge_model(DividesByNothing, TABLE, only=["gradient_flow"])["gradient_flow[finite]"]
    assert found.status is Status.FAIL
    assert found.excerpt is not None
    assert "size.sqrt()" in found.excerpt.marked, found.explain()


class Routed(nn.Module):
    """Experts that each row chooses one of; most get no row of a small batch."""

    experts_asked = 24

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 24)
        self.experts = nn.ModuleList(nn.Linear(6, 3) for _ in range(24))

    def forward(self, features: Tensor) -> Tensor:
        weight, chosen = self.router(features).softmax(-1).max(-1)
        out = features.new_zeros(len(features), 3)
        for number in chosen.unique().tolist():
            rows = (chosen == number).nonzero()[:, 0]
            out = out.index_copy(0, rows, weight[rows, None] * self.experts[min(number, self.experts_asked - 1)](features[rows]))
        return out


class LastLeftOut(Routed):
    """The last expert's rows go to the one before it."""

    experts_asked = 23


def test_experts_that_few_rows_choose_are_asked_with_many_rows() -> None:
    evidence = gradient_reaches(subject_of(Routed))

    assert evidence.status in (Status.OK, Status.WARN), evidence.explain()
    assert evidence.status is Status.OK or evidence.code == "dead_by_chance"


def test_an_expert_that_no_row_can_choose_is_a_failure() -> None:
    evidence = gradient_reaches(subject_of(LastLeftOut))

    assert (evidence.status, evidence.module) == (Status.FAIL, "experts.23"), evidence.explain()
