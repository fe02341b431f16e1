"""A head that takes one element of a sequence by its index, and those that read too little in another way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from planted_bugs.tier1.declared import Keys, task_of
from torch import Tensor, nn

from harness.evidence import Status
from pytest_modeltiers.live import judge_model

STATES: Keys = {
    "inputs": {"states": {"axes": ["batch", "time", 6]}},
    "outputs": {"label": {"axes": ["batch", 3]}},
    "axes": {"time": {"min": 1, "max": 12}},
}
TAKES: dict[str, Callable[[Tensor], Tensor]] = {
    "first": lambda states: states[:, 0],
    "last": lambda states: states[:, -1, :],
    "slice": lambda states: states[:, :1].mean(1),
    "half": lambda states: states[:, : states.shape[1] // 2 or 1].mean(1),
    "mean": lambda states: states.mean(1),
}


class Head(nn.Module):
    def __init__(self, takes: str) -> None:
        super().__init__()
        self.takes, self.score = TAKES[takes], nn.Linear(6, 3)

    def forward(self, states: Tensor) -> Tensor:
        return self.score(self.takes(states))


@pytest.mark.parametrize(
    ("takes", "status", "code"),
    [
        ("first", Status.WARN, "picked_element"),
        ("last", Status.WARN, "picked_element"),
        ("slice", Status.FAIL, "ignored_input"),
        ("half", Status.FAIL, "ignored_input"),
        ("mean", Status.OK, ""),
    ],
)
def test_only_an_index_of_one_end_is_a_way_to_read_one_element(takes: str, status: Status, code: str) -> None:
    found = judge_model(lambda: Head(takes), task_of(STATES), only=["input_dependence"])["input_dependence[inputs]"]

    assert (found.status, found.code) == (status, code)
    assert (
        takes not in ("first", "last")
        or f"forward takes only the {takes} element along `time` of input `states`" in found.message
    )
