"""Sound runs of unusual kinds: steps every few batches, adapters that are folded into weights, steps that Lightning does not take."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from planted_bugs.tier3.lightning_run_models import Module, Pair
from planted_bugs.tier3.run_models import WIDTH, Net, OwnNoise
from planted_bugs.tier3.runs import run_of
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.config import SuiteConfig
from harness.evidence import Evidence, Status
from harness.properties.calling import mode
from harness.training.checkpoints import read_checkpoint, write_checkpoint
from harness.training.checks.accumulation import accumulation
from harness.training.checks.fine_tuning import fine_tuning
from harness.training.checks.gradient_noise import NothingComparedError, epsilon_of_step, find_gap
from harness.training.checks.resume import resume
from harness.training.checks.seeded_repeat import seeded_repeat
from harness.training.checks.step_updates import step_updates
from harness.training.run import run_training
from harness.training.trial import Trial

from .test_simulated_data_parallel import Adapted, EveryThree, Experts, SharpnessAware


class ForgetsCount(EveryThree):
    """Weights its loss by the steps so far, which no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def training_step(self, batch: Pair, index: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(batch) / 3 * (1 + self.steps))
        if index % 3 == 2:
            self.steps += 1
            optimizer.step()
            optimizer.zero_grad()


class KeepsParts(Experts):
    """Keeps its network and a way to make its optimizer among its hyperparameters, as templates of projects do."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"net": nn.Linear(2, 2), "optimizer": partial(torch.optim.Adam, lr=1e-2), "sizes": (3, [4])})

    def configure_optimizers(self) -> Any:
        return self.hparams["optimizer"](self.parameters())


def test_hyperparameters_that_are_objects_do_not_keep_a_run_from_being_resumed(tmp_path: Path) -> None:
    found = resume(run_of(KeepsParts).trial(tmp_path))
    assert found.status is Status.OK, found.explain()
    write_checkpoint({"state_dict": {}, "hyper_parameters": {"net": nn.Linear(2, 2), "sizes": (3, [4])}}, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"] == {"sizes": (3, [4])}


class AverageBegunAnew(Experts):
    """Copies its weights into their average whenever a training starts, also where a checkpoint has just brought that back."""

    updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.average = copy.deepcopy(nn.ModuleList(self.children())).requires_grad_(False)
        self.register_buffer("updates", torch.zeros(()))

    def copies(self) -> list[tuple[Tensor, Tensor]]:
        trained = [each for each in self.parameters() if each.requires_grad]
        return list(zip(self.average.parameters(), trained, strict=True))

    def on_fit_start(self) -> None:
        self.updates.zero_()
        for slow, fast in self.copies():
            slow.data.copy_(fast.data)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.updates += 1
        for slow, fast in self.copies():
            slow.data.lerp_(fast.data, 0.1)


def test_what_a_resumed_run_loses_that_no_loss_reads_is_named(tmp_path: Path) -> None:
    found = resume(run_of(AverageBegunAnew).trial(tmp_path))
    assert (found.status, found.code) == (Status.FAIL, "resumed_run_differs")
    assert found.investigate is not None
    assert found.investigate() == "average"


class FrozenBase(Adapted):
    """Trains the adapter, on a weight that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.adapted.weight.requires_grad_(False)


class Decaying(Adapted):
    """Decays the weight by hand, whether or not it is frozen."""

    def body(self, features: Tensor) -> Tensor:
        if self.training:
            self.adapted.weight.data.mul_(0.999)
        return super().body(features)


class DecayingBase(FrozenBase, Decaying):
    """Decays a weight that is frozen."""


class Narrow(Net):
    """Computes in float64, but for one layer in bfloat16; a table in half precision, which carries no gradient, is beside the way."""

    def body(self, features: Tensor) -> Tensor:
        x = super().body(features.double())
        return self.narrow(x) + torch.zeros(1, dtype=torch.float16) * 2

    def narrow(self, x: Tensor) -> Tensor:
        return (x.bfloat16() * 1).double()


class Wide(Narrow):
    def narrow(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("check", [resume, fine_tuning])
@pytest.mark.parametrize("build", [EveryThree, SharpnessAware, Adapted], ids=lambda build: build.__name__)
def test_unusual_runs_are_judged_and_sound(
    build: Callable[[], nn.Module], check: Callable[[Trial], Evidence], tmp_path: Path
) -> None:
    evidence = check(run_of(build).trial(tmp_path))
    assert evidence.status is Status.OK, evidence.explain()


def test_what_a_run_with_a_step_every_third_batch_forgets_is_found(tmp_path: Path) -> None:
    evidence = resume(run_of(ForgetsCount).trial(tmp_path))
    assert evidence.status is Status.FAIL
    assert "differs from the uninterrupted run" in evidence.message
    assert evidence.message.endswith("differs at step 5")


@pytest.mark.parametrize(
    ("check", "sound", "broken"),
    [(step_updates, FrozenBase, DecayingBase), (fine_tuning, Adapted, Decaying)],
    ids=lambda value: value.__name__,
)
def test_a_frozen_weight_that_an_adapter_is_folded_into_is_told_from_one_that_moves(
    check: Callable[[Trial], Evidence], sound: Callable[[], nn.Module], broken: Callable[[], nn.Module], tmp_path: Path
) -> None:
    assert check(run_of(sound).trial(tmp_path)).status is Status.OK
    found = check(run_of(broken).trial(tmp_path))
    assert found.status is Status.FAIL, found.explain()
    assert "`adapted.weight` is frozen" in found.message


class BalancedByHand(Experts):
    """Takes a step after every third batch; its loss has a statistic of the batch beside the mean over the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Pair, index: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(super().training_step(batch, index) / 3)
        if index % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize(
    ("build", "code"),
    [(EveryThree, "left_over_from_epoch"), (BalancedByHand, "side_term_depends_on_batch")],
    ids=["mean", "balance loss"],
)
def test_what_is_accumulated_by_hand_is_worth_a_warning(build: Callable[[], nn.Module], code: str, tmp_path: Path) -> None:
    found = accumulation(run_of(build).trial(tmp_path))
    assert (found.status, found.code) == (Status.WARN, code), found.explain()


class MappedNoise(Net):
    """Calls a layer inside of ``vmap``, and draws noise that no seed reaches in another."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = OwnNoise()

    def body(self, features: Tensor) -> Tensor:
        return self.noise(torch.func.vmap(self.stem)(features))


def test_a_training_with_vmap_can_be_traced(tmp_path: Path) -> None:
    found = seeded_repeat(run_of(MappedNoise).trial(tmp_path)).investigated()
    assert (found.status, found.code, found.module) == (Status.FAIL, "differs_when_repeated", "noise"), found.explain()


class Bank(Net):
    """A table without contents, which a state dict leaves out, and which may be read before it is filled."""

    is_read = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", OwnNoise()(torch.zeros(3)), persistent=False)  # as torch.empty, whose numbers may repeat

    def body(self, features: Tensor) -> Tensor:
        return super().body(features + self.bank.sum() if self.is_read else features)


class ReadBank(Bank):
    is_read = True


@pytest.mark.parametrize(("build", "status"), [(Bank, Status.OK), (ReadBank, Status.FAIL)])
def test_a_table_that_is_not_yet_filled_counts_where_it_is_read(build: type[Bank], status: Status, tmp_path: Path) -> None:
    found = seeded_repeat(run_of(build).trial(tmp_path))
    assert found.status is status, found.explain()


class Branch(Module):
    """A branch that begins with next to nothing, by a scale that training makes larger."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.gamma, self.rate = nn.Parameter(torch.full((WIDTH,), 1e-7)), rate

    def forward(self, features: Tensor) -> Tensor:
        stem = self.net.stem(features)
        return self.net.head(stem + self.gamma * self.net.middle(stem))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.rate)


@pytest.mark.parametrize(("rate", "code"), [(1e-2, ""), (1e-12, "lost_in_rounding")])
def test_weights_behind_a_small_scale_wait_for_it(rate: float, code: str, tmp_path: Path) -> None:
    found = step_updates(run_of(partial(Branch, rate)).trial(tmp_path))
    assert found.code == code, found.explain()


class Prototypes(Module):
    """Running means in a parameter that is made to be trained, and is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.Parameter(torch.randn(2, 6)).requires_grad_(False)

    def training_step(self, batch: Any, _index: int) -> Any:
        self.groups.data.lerp_(batch[0].mean(0).expand(2, -1), 0.1)
        return super().training_step(batch, _index)


class BornFrozen(Prototypes):
    """In one that is never to be trained."""

    def __init__(self) -> None:
        Module.__init__(self)
        self.groups = nn.Parameter(torch.randn(2, 6), requires_grad=False)


@pytest.mark.parametrize(("build", "status"), [(BornFrozen, Status.WARN), (Prototypes, Status.FAIL)])
def test_running_values_in_a_frozen_parameter_are_a_warning(
    build: Callable[[], nn.Module], status: Status, tmp_path: Path
) -> None:
    found = step_updates(run_of(build).trial(tmp_path))
    assert (found.status, found.code, found.module) == (status, "frozen_parameter_changes", "groups"), found.explain()


class DrawsFloats(Module):
    """Draws float32, whatever it computes in, and has a bias that a norm over the batch takes out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        return self.net.head(torch.tanh(self.norm(self.net.stem(features))))

    def training_step(self, batch: Any, _index: int) -> Any:
        drawn = torch.randn(len(batch[0]), WIDTH, dtype=torch.float32)
        return super().training_step(batch, _index) + F.linear(drawn, self.net.middle.weight).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.net.parameters(), *self.norm.parameters()], 1e-2)


def test_a_step_that_cannot_be_taken_in_float64_is_no_failure(tmp_path: Path) -> None:
    found = step_updates(run_of(DrawsFloats).trial(tmp_path))
    assert found.status is Status.OK, found.explain()


class Whisper(Net):
    """A weight whose gradient is rounding beside the others."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * (1 + 1e-25 * (self.scale - self.scale.detach()))


def test_a_gradient_that_is_rounding_need_not_move_its_weight(tmp_path: Path) -> None:
    sound = step_updates(run_of(Whisper).trial(tmp_path))
    assert sound.status is Status.OK, sound.explain()


def test_an_evaluation_in_between_leaves_a_folding_adapter_in_train_mode(tmp_path: Path) -> None:
    model = Adapted().train()
    with mode(model, train=False):
        assert model.adapted.folded
    assert not model.adapted.folded


def test_a_folding_adapter_learns_in_a_run_that_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.training.coordinator.write_dashboard", lambda *_: {})
    keys = {"task_type": "tabular_classification", "num_features": 6, "num_classes": 4, "batch_size": 4, "epochs": 2}
    rows = "\n".join(json.dumps({"features": [n * i % 5 for i in range(6)], "labels": n % 4}) for n in range(8))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(rows + "\n")
    suite = SuiteConfig.model_validate({**keys, "train": {"path": "train.jsonl"}, "eval": {"path": "validation.jsonl"}})
    model = Adapted()
    before = model.adapted.up.detach().clone()
    task = suite.task_spec()
    run_training(
        model,
        make_adapter(task),
        suite.training_config(),
        task,
        suite.eval,
        train_cfg=suite.train,
        folder=tmp_path,
        engine="plain",
        progress=False,
    )
    assert not torch.equal(model.adapted.up, before)


def test_noise_is_that_of_the_coarsest_dtype_on_the_way(tmp_path: Path) -> None:
    def of(build: Callable[[], nn.Module]) -> float:
        return epsilon_of_step(run_of(lambda: build().double()).trial(tmp_path))

    assert of(Narrow) == torch.finfo(torch.bfloat16).eps
    assert of(Wide) == torch.finfo(torch.float64).eps


def test_nothing_to_compare_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(NothingComparedError, match="nothing to compare"):
        find_gap(run_of(Net).trial(tmp_path), lambda _trial, _vary: {}, lambda _trial, _vary: {})
