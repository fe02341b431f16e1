"""Where padding stands, what it holds, and what is compared of outputs whose axis is worked out from a padded one."""

from __future__ import annotations

import pytest
import torch
from planted_bugs.tier1.declared import Keys, task_of
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import Sizes
from harness.evidence import Evidence, Status
from harness.properties.independence import ends_along
from harness.properties.padding import padded, padding_ignored, placed
from harness.properties.subject import Subject

KEYS: Keys = {
    "inputs": {
        "frames": {"axes": ["batch", "time", 3]},
        "hidden": {"axes": ["batch", "time"], "values": {"mask_of": "time", "inverted": True}, "dtype": "bool"},
        "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
        "ids": {"axes": ["batch", "time"], "values": {"ids": 9, "pad": 4}},
    },
    "outputs": {"pooled": {"axes": ["batch", 2]}, "halves": {"axes": ["batch", "half", 2]}},
    "axes": {"time": {"min": 2, "max": 9, "padding": "both"}, "half": {"from": "time // 2"}},
}


@pytest.mark.parametrize(
    ("side", "real"),
    [("right", [[1, 1, 0, 0], [1, 1, 1, 1]]), ("left", [[0, 0, 1, 1], [1, 1, 1, 1]])],
)
def test_padding_stands_on_its_side(side: str, real: list[list[int]]) -> None:
    assert placed(side, [2, 4], 4).long().tolist() == real  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["both", "anywhere"])
def test_padding_on_any_side_keeps_the_lengths(side: str) -> None:
    drawn = [placed(side, [2, 3, 0], 5, seed) for seed in range(8)]  # type: ignore[arg-type]
    assert all(real.sum(1).tolist() == [2, 3, 0] for real in drawn)
    assert len({str(real.tolist()) for real in drawn}) > 1


def test_every_input_that_has_the_axis_says_what_is_padding() -> None:
    signature = task_of(KEYS).signature
    real = torch.tensor([[True, True, False], [True, True, True]])
    batch = padded(signature, signature.make_batch({"batch": 2, "time": 3}), "time", real)

    assert batch["hidden"].tolist() == [[False, False, True], [False, False, False]]
    assert batch["lengths"].tolist() == [2, 3]
    assert batch["ids"][0, 2] == 4
    assert not (batch["ids"][real] == 4).any()
    assert batch["frames"][0, 2].tolist() == [0.0, 0.0, 0.0]


def test_an_axis_that_is_worked_out_ends_where_the_real_elements_end() -> None:
    signature = task_of(KEYS).signature
    assert ends_along(signature, signature.outputs[1], "time", 5, {"batch": 2, "time": 9}) == [(1, 2)]
    assert ends_along(signature, signature.outputs[0], "time", 5, {"batch": 2, "time": 9}) == []


class Mean(nn.Module):
    """The mean of real frames; of all of them, where it is ``wrong``."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.head = nn.Linear(3, 2)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        hidden = self.head(frames).tanh()
        keep = torch.ones_like(mask) if self.wrong else mask
        return (hidden * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)


def found(side: str, wrong: bool) -> Evidence:
    keys: Keys = {
        "inputs": {"frames": KEYS["inputs"]["frames"], "mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}}},
        "outputs": {"pooled": {"axes": ["batch", 2]}},
        "axes": {"time": {"min": 1, "max": 9, "padding": side}},
    }
    task = task_of(keys)
    subject = Subject(Mean(wrong).eval(), make_adapter(task), task)
    return padding_ignored(subject, Sizes.of({"batch": 2, "time": 5}), (3, 5), 1)


@pytest.mark.parametrize("side", ["right", "left", "both", "anywhere"])
def test_a_mean_over_padding_is_found_on_every_side(side: str) -> None:
    assert found(side, wrong=True).status is Status.FAIL
    assert found(side, wrong=False).status is Status.OK
