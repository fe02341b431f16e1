"""Bounds follow the model's own rounding, and comparisons that compared nothing fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.analysis import Study, find_analysis
from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from harness.models.stubs import build_stub
from harness.properties.model_variants import Draws
from harness.properties.noise import FACTOR, difference, first_failure, judge_equal
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model
from pytest_modeltiers.property_tests import judge_property
from pytest_modeltiers.results import Result, asked_of_some_blocks, to_check
from pytest_modeltiers.verdicts import Judge

TASK = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=3)


def subject_of(model: nn.Module, task: TaskSpec = TASK) -> Subject:
    return Subject(model.eval(), make_adapter(task), task)


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = build_stub(TASK)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.inner(features) * self.scale


def test_the_bound_grows_with_the_scale_of_the_logits() -> None:
    small, large = (subject_of(Scaled(scale)).floor for scale in (1.0, 1000.0))
    assert large.bound == pytest.approx(1000 * small.bound, rel=0.5)
    assert small.bound == FACTOR * small.value


def test_the_bound_is_far_below_the_logits_and_above_their_resolution() -> None:
    floor = subject_of(Scaled(1.0)).floor
    assert floor.epsilon * floor.scale <= floor.value < 1e-4 * floor.scale


def test_a_model_that_refuses_float64_has_a_floor_all_the_same() -> None:
    class Single(Scaled):
        def forward(self, features: Tensor) -> Tensor:
            if features.dtype == torch.float64:
                raise NotImplementedError("no float64 kernel")
            return super().forward(features)

    floor = subject_of(Single(1.0)).floor
    assert floor.float64 is None
    assert 0 < floor.last_place < 1e-4


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.zeros(0), torch.zeros(0)),
        (torch.zeros(2), torch.zeros(3)),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")])),
        (torch.tensor([1.0]), torch.tensor([float("inf")])),
    ],
)
def test_a_comparison_of_nothing_or_of_nan_is_infinitely_wrong(left: Tensor, right: Tensor) -> None:
    assert difference(left, right) == float("inf")


def test_a_difference_that_vanishes_in_float64_is_rounding() -> None:
    subject = subject_of(Scaled(1.0))
    batch = subject.batch()

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        logits = subject.logits(batch, model)
        return logits, logits + (1e-3 if logits.dtype == torch.float32 else 1e-12)

    evidence = judge_equal(subject, "causal", compare, "wrong", "", "")
    assert evidence.status is Status.OK
    assert "vanishes in float64" in evidence.message


def test_a_difference_that_stays_in_float64_is_real() -> None:
    subject = subject_of(Scaled(1.0))
    batch = subject.batch()

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        logits = subject.logits(batch, model)
        return logits, logits + 1e-3

    assert judge_equal(subject, "causal", compare, "wrong", "", "").status is Status.FAIL


def test_the_user_s_tolerance_takes_the_place_of_the_derived_bound() -> None:
    task = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=3, tolerances={"memory_layout": 1e-2})
    subject = subject_of(Scaled(1.0), task)
    batch = subject.batch()

    def off_by(gap: float) -> Status:
        return judge_equal(
            subject, "memory_layout", lambda m: (subject.logits(batch, m), subject.logits(batch, m) + gap), "wrong", "", ""
        ).status

    assert off_by(5e-3) is Status.OK
    assert off_by(2e-2) is Status.FAIL


class WithoutNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)[:, -3:]


def test_a_model_without_numbers_is_asked_in_float64_too() -> None:
    subject = subject_of(WithoutNumbers(), TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=3))
    assert subject.double is not None
    assert subject.logits(subject.batch(), subject.double).dtype is torch.float64
    assert subject.logits(subject.batch()).dtype is torch.float32


def test_a_warning_counts_more_than_what_holds() -> None:
    holds = Evidence.ok("causal", "holds", (1.0, 2.0, ""))
    warning = Evidence.warned("causal", "in doubt")
    assert first_failure([holds, warning]) is warning
    assert first_failure([holds, warning, Evidence.failed("causal", "broken")]).status is Status.FAIL


def test_judging_no_finding_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was compared"):
        first_failure([])


class SingleInside(nn.Module):
    """Weights and logits in float64, products in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 300).double(), nn.Linear(300, 3).double()

    def forward(self, features: Tensor) -> Tensor:
        hidden = torch.nn.functional.linear(features.float(), self.first.weight.float()).tanh()
        return torch.nn.functional.linear(self.mixed(hidden), self.last.weight.float()).double()

    def mixed(self, hidden: Tensor) -> Tensor:
        return hidden


class SingleInsideAndMixed(SingleInside):
    def mixed(self, hidden: Tensor) -> Tensor:
        return hidden + 1e-3 * hidden.mean(0)


def test_the_coarsest_dtype_on_the_way_decides() -> None:
    single = torch.finfo(torch.float32).eps
    assert subject_of(SingleInside()).floor.epsilon == single
    assert subject_of(build_stub(TASK).double()).floor.epsilon == torch.finfo(torch.float64).eps
    assert subject_of(build_stub(TASK)).floor.epsilon == single


def test_rounding_inside_is_no_dependence_and_a_dependence_is_still_found() -> None:
    sound = judge_model(SingleInside, TASK, only=["batch_independence"], share=0.3)
    assert {finding.status for finding in sound.values()} == {Status.OK}
    mixed = judge_model(SingleInsideAndMixed, TASK, only=["batch_independence"], share=0.3)
    assert {finding.status for finding in mixed.values()} == {Status.FAIL}


class Rows(Scaled):
    """A model in bfloat16; the bug adds a hundredth of the mean of all rows."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__(1.0)
        self.share = share
        self.bfloat16()

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits + self.share * logits.mean(0, keepdim=True)


class RoundsInside(Rows):
    """One whose every call rounds to bfloat16 on the way, in float64 too."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).bfloat16().to(features.dtype)


def test_what_rounding_in_half_precision_hides_is_found_in_float64() -> None:
    found = judge_model(partial(Rows, 0.01), TASK, only=["batch_independence"])["batch_independence[forward]"]
    assert (found.status, found.code) == (Status.FAIL, "reads_other_rows")
    assert "rounding in bfloat16 hides it" in found.unit
    assert found.details.get("reproducible", True)


@pytest.mark.parametrize("factory", [Rows, RoundsInside, partial(RoundsInside, 0.01)])
def test_a_sound_model_in_half_precision_is_quiet_and_one_that_rounds_inside_cannot_tell(
    factory: Callable[[], nn.Module],
) -> None:
    found = judge_model(factory, TASK, only=["batch_independence"])["batch_independence[forward]"]
    assert found.status is Status.OK


class Branch(nn.Module):
    """Adds what a layer computes; the bug mixes the rows of a batch."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.mixes, self.layer = mixes, nn.Linear(6, 6)

    def forward(self, hidden: Tensor) -> Tensor:
        branch = self.layer(hidden).tanh()
        return hidden + branch + (0.01 * branch.mean(0, keepdim=True) if self.mixes else 0)


class Deep(nn.Module):
    """Eight blocks in bfloat16."""

    def __init__(self, broken: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Branch(number == broken) for number in range(8))
        self.head = nn.Linear(6, 3)
        self.bfloat16()

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return self.head(features)


def test_of_a_large_model_in_half_precision_the_block_that_mixes_rows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("harness.runtime", "harness.models.copies"):
        monkeypatch.setattr(f"{module}._LARGE", 1)
    found, sound = (
        judge_model(partial(Deep, broken), TASK, only=["batch_independence"])["batch_independence[forward]"]
        for broken in (5, None)
    )
    assert (found.status, found.details["hidden_by"], found.module) == (Status.FAIL, "bfloat16", "blocks.5")
    assert "reproducible" not in found.details
    assert sound.status is Status.OK


def test_which_blocks_a_large_model_was_asked_of_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1)
    judge = Judge("batch_independence", subject_of(Deep()), share=20.0, case="forward")
    judge_property(CATALOGUE["batch_independence"], judge, judge.subject, "forward")
    judge.finish()
    blocks = "2 of 8 blocks of `blocks`, the others are like them"
    asked = Result("c.json::TestTier1::test_batch_independence[forward]", "c.json", 1, Status.OK, "", 0.0, judge.verdict())
    of_all = Result("c.json::TestTier1::test_causal", "c.json", 1, Status.OK, "", 0.0, {"blocks": ""})
    assert asked_of_some_blocks([of_all, asked]) == f"batch_independence[forward]: of {blocks}"
    assert (to_check(asked).details["blocks"], asked_of_some_blocks([of_all])) == (blocks, "")


class Switches(Branch):
    """A block that computes something else in train mode."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) * (1.5 if self.training else 1)


@pytest.mark.parametrize("case", ["equals_eval", "after_eval"])
def test_train_mode_is_asked_of_few_blocks_of_a_large_model(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1)
    judge = Judge("train_mode", subject_of(Deep().float()), share=20.0, case=case)
    judge_property(CATALOGUE["train_mode"], judge, judge.subject, case)
    assert judge.finish().status is Status.OK
    assert judge.blocks == "2 of 8 blocks of `blocks`, the others are like them"


class Rooted(Branch):
    """A block whose gradient is not finite."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) + (hidden - hidden.detach()).abs().sqrt()


class Detached(Branch):
    """A block that passes a part of its gradient on only."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.detach()) + 0.1 * hidden


def with_another_block(block: type[Branch]) -> nn.Module:
    model = Deep().float()
    model.blocks[5] = block(mixes=False)
    return model


@pytest.mark.parametrize(("case", "block"), [("train_mode[equals_eval]", Switches), ("gradient_flow[finite]", Rooted)])
def test_a_block_of_a_large_model_that_is_unlike_the_others_is_named(
    monkeypatch: pytest.MonkeyPatch, case: str, block: type[Branch]
) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1)
    found = judge_model(partial(with_another_block, block), TASK, only=[case.partition("[")[0]])[case]
    assert (found.status, found.module.partition(".layer")[0]) == (Status.FAIL, "blocks.5")


class Sets(Branch):
    """A block that sets the default dtype."""

    def forward(self, hidden: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return super().forward(hidden)


def test_a_block_of_a_large_model_that_changes_the_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1)
    found = judge_model(partial(with_another_block, Sets), TASK, only=["stateless"])["stateless"]
    assert (found.status, found.code) == (Status.FAIL, "changes_process")


def test_gradients_at_the_input_of_a_large_model_are_asked_of_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1)
    sound, found = (
        find_analysis("attribution", Study(subject_of(model))) for model in (Deep().float(), with_another_block(Detached))
    )
    assert (sound.status, sound.details["blocks"]) == (Status.OK, "2 of 8 blocks of `blocks`, the others are like them")
    assert "shares" not in sound.details  # which are those of all blocks or of none
    assert (found.status, found.investigated().module) == (Status.WARN, "blocks.5")


def test_weights_of_a_large_model_are_moved_by_numbers_that_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1)
    model, drawn = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)]), list[int]()

    def draw(like: Tensor) -> Tensor:
        drawn.append(like.numel())
        return torch.randn_like(like)

    draws = Draws(draw, model)
    first, second = (draws.like(layer.weight) for layer in model)
    assert len(drawn) == 1
    assert not bool((first == second).any())
    assert 0.9 < float(first.std()) < 1.1
