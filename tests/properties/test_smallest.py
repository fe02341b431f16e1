"""The counterexample that is shown is the smallest one on every axis, and fails again when it is run once more."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import Sizes
from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from harness.owners import left_to
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers import strategies as draw
from pytest_modeltiers.property_tests import judge_property
from pytest_modeltiers.strategies import kind_of, smallest_failing
from pytest_modeltiers.verdicts import Judge


def task_of(longest: int) -> TaskSpec:
    return TaskSpec(TaskType.CAUSAL_LM, vocab_size=20, max_seq_len=longest, pad_token_id=0)


class Fragile(nn.Module):
    """Raises, or gives NaN, from some sizes on."""

    def __init__(self, rows: int, length: int, nan: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 20)
        self.rows, self.length, self.nan = rows, length, nan

    def forward(self, input_ids: Tensor) -> Tensor:
        rows, length = input_ids.shape
        if rows < self.rows or length < self.length:
            return self.embed(input_ids)  # type: ignore[no-any-return]
        if not self.nan:
            raise ValueError("too large")
        return self.embed(input_ids) * float("nan")  # type: ignore[no-any-return]


def judge_of(name: str, model: nn.Module, longest: int, case: str | None = None) -> Judge:
    task = task_of(longest)
    return Judge(name, Subject(model.eval(), make_adapter(task), task), 60.0, case=case)


@cache
def anything(longest: int) -> Subject:
    """A sound model that checks which make up their findings are given; what is found out about it once is shared."""
    task = task_of(longest)
    return Subject(nn.Embedding(20, 20).eval(), make_adapter(task), task)


def judge_of_anything(longest: int) -> Judge:
    return Judge("made_up", anything(longest), 60.0)


THRESHOLDS = [(3, 20, 32), (1, 32, 32), (5, 1, 32), (4, 11, 32), (2, 100, 128), (1, 49, 128)]


@pytest.mark.parametrize(("rows", "length", "longest"), THRESHOLDS)
def test_sizes_at_which_a_model_raises_are_the_smallest(rows: int, length: int, longest: int) -> None:
    judge = judge_of("shape_contract", Fragile(rows, length), longest)
    judge_property(CATALOGUE["shape_contract"], judge, judge.subject)
    assert judge.finish().counterexample == f"batch={rows}, seq={length}, seed=0"


def test_sizes_at_which_logits_are_nan_are_the_smallest() -> None:
    judge = judge_of("finite_output", Fragile(3, 20, nan=True), 32, "typical")
    judge_property(CATALOGUE["finite_output"], judge, judge.subject, "typical")
    assert judge.finish().counterexample == "batch=3, seq=20, content=typical, seed=0"


@pytest.mark.parametrize(("rows", "length", "longest"), THRESHOLDS)
def test_drawn_sizes_are_the_smallest(rows: int, length: int, longest: int) -> None:
    def check(_subject: Subject, sizes: Sizes, seed: int) -> Evidence:
        fails = sizes.batch >= rows and sizes.seq >= length
        return Evidence(
            "made_up", Status.FAIL if fails else Status.OK, f"fails at {sizes.batch} and {sizes.seq}: x", float(sizes.seq), 1.0
        )

    judge = judge_of_anything(longest)
    judge.for_all(check, draw.batches(task_of(longest)), examples=60)
    assert judge.finish().message == f"fails at {rows} and {length}: x"


def test_a_larger_failure_of_another_kind_is_not_taken_for_a_smaller_one() -> None:
    assert kind_of(Evidence("x", Status.FAIL, "3 of 12 logits are NaN")) == kind_of(
        Evidence("x", Status.FAIL, "1 of 4 logits are NaN")
    )
    assert kind_of(Evidence("x", Status.FAIL, "logits are NaN")) != kind_of(Evidence("x", Status.FAIL, "forward raises at 3: y"))
    assert kind_of(Evidence("x", Status.OK, "fine")) == ""


@pytest.mark.parametrize("longest", [2, 3, 12, 48, 49, 200])
def test_lengths_stay_within_the_declared_one_which_is_drawn_often(longest: int) -> None:
    drawn: list[int] = []

    def check(_subject: Subject, sizes: Sizes, seed: int) -> Evidence:
        drawn.append(sizes.seq)
        return Evidence("made_up", Status.OK, "fine")

    judge = judge_of_anything(longest)
    judge.for_all(check, draw.batches(task_of(longest)), examples=40)
    assert set(drawn) <= {*range(1, min(longest, 49)), longest}
    assert drawn.count(longest) > len(drawn) / 6


def test_a_failure_that_does_not_happen_again_is_said_to_be_not_reproducible() -> None:
    calls: list[int] = []

    def check(_subject: Subject, sizes: Sizes, seed: int) -> Evidence:
        calls.append(seed)
        status = Status.FAIL if len(calls) == 1 else Status.OK
        return Evidence("made_up", status, "it fails", counterexample="batch=1")

    judge = judge_of_anything(8)
    judge.holds(check, sizes=Sizes(1), seed=0)
    found = judge.finish()
    assert found.status is Status.FAIL
    assert found.message == "it fails (not reproducible: a fresh copy of the model passes at the same inputs)"
    assert found.details["reproducible"] is False


def test_what_belongs_to_another_property_is_not_shrunk() -> None:
    def check(_subject: Subject, sizes: Sizes, seed: int) -> Evidence:
        return left_to("made_up", "causal", "leaks", counterexample=f"seq={sizes.seq}")

    judge = judge_of_anything(8)
    judge.for_all(check, draw.batches(task_of(8)), examples=5)
    assert judge.examples == 5
    assert judge.finish().status is Status.SKIPPED


def test_every_declared_axis_is_made_smaller() -> None:
    found = Evidence("shape_contract", Status.FAIL, "wrong")
    tried = {"sizes": Sizes.of({"batch": 3, "height": 20, "width": 18}), "seed": 1}

    def run(case: dict[str, Any]) -> Evidence:
        sizes = dict(case["sizes"].declared)
        return found if sizes["height"] >= 9 and sizes["width"] >= 7 else Evidence("shape_contract", Status.OK, "right")

    least = Sizes.of({"batch": 1, "height": 4, "width": 4})
    case, _ = smallest_failing(tried, found, run, least, lambda: False)
    assert case == {"sizes": Sizes.of({"batch": 1, "height": 9, "width": 7}), "seed": 0}
