"""An evaluation leaves the model and the process as they were."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from judging import Echo, classes_task, echo_rows, judge, random_logits
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.data.loader import make_loader
from harness.errors import ForwardError
from harness.evaluation.evaluation import evaluate
from harness.runtime import RandomState

LOGITS, LABELS = random_logits(10, 3)
ROWS = echo_rows(LOGITS, LABELS)
TASK = classes_task(3)


class Noisy(nn.Module):
    """Random in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3)
        self.modes: list[bool] = []
        self.grads: list[bool] = []

    def forward(self, features: Tensor) -> Tensor:
        self.modes.append(self.dropout.training)
        self.grads.append(torch.is_grad_enabled())
        random.random()
        np.random.rand()
        return self.norm(self.dropout(self.layer(features))) + torch.rand(1)


def test_every_module_is_put_back_into_its_mode() -> None:
    model = Noisy().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    judge(TASK, ROWS, model)
    assert not any(model.modes)
    assert not any(model.grads)
    assert (model.training, model.dropout.training, model.norm.training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_modes_are_put_back_after_a_failure_too() -> None:
    class Failing(Noisy):
        def forward(self, features: Tensor) -> Tensor:
            raise ZeroDivisionError("oops")

    model = Failing().train()
    with pytest.raises(ForwardError, match="ZeroDivisionError: oops"):
        judge(TASK, ROWS, model)
    assert model.dropout.training


def test_the_global_random_state_is_left_alone_and_does_not_matter() -> None:
    model, found = Noisy(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = RandomState()
        found.append(judge(TASK, ROWS, model).summary)
        assert before.changes(RandomState()) == []
    assert found[0] == found[1]


def test_each_forward_has_a_context_of_its_own() -> None:
    entered: list[int] = []

    @contextmanager
    def half() -> Iterator[None]:
        entered.append(1)
        with torch.autocast("cpu", torch.bfloat16):
            yield

    model = nn.Sequential(nn.Linear(3, 3))
    summary = judge(TASK, ROWS, model, batch_size=4, forward=half).summary
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(LOGITS)
    assert logits.dtype == torch.bfloat16
    assert summary["loss"] == pytest.approx(nn.functional.cross_entropy(logits.float(), LABELS).item(), abs=1e-6)
    assert len(entered) == 3


def test_inputs_are_given_in_the_models_dtype() -> None:
    summary = judge(TASK, ROWS, nn.Linear(3, 3, dtype=torch.float64)).summary
    assert 0 < summary["loss"] < 10


def test_progress_is_told_batch_by_batch() -> None:
    told: list[tuple[int, int]] = []
    evaluation = judge(TASK, ROWS, batch_size=4, on_batch=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert evaluation.seconds > 0


def test_a_loader_that_mixes_rows_is_refused() -> None:
    loader = make_loader(ROWS, TASK, 3, shuffle=True)
    with pytest.raises(ValueError, match="no `shuffle`"):
        evaluate(Echo(), make_adapter(TASK), TASK, loader)


def test_a_share_of_the_rows_without_the_other_processes_is_refused() -> None:
    loader = make_loader(ROWS, TASK, 3, share=(0, 2))
    with pytest.raises(ValueError, match=r"deals rows to 2 processes, of which torch\.distributed knows 1"):
        evaluate(Echo(), make_adapter(TASK), TASK, loader)


def test_the_room_is_light_to_import() -> None:
    code = (
        "import sys, harness.evaluation; assert 'torch' not in sys.modules;"
        "import harness.evaluation.evaluation; assert 'torchmetrics' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
