"""Losses that forward returns: it is given its labels, and where it takes none, there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from planted_bugs.setups import verdict_of
from planted_bugs.tier3.declared_tasks import POLICY, Policy
from torch import Tensor, nn

from harness.adapters import SignatureAdapter
from harness.errors import OutputError
from harness.evidence import Status

from .test_declared_trainings import Keys, task_of, trial_of, verdict


class Returning(nn.Module):
    """A forward that returns its loss where it is given labels."""

    def __init__(self, loss: Callable[[Tensor], Any] = torch.mean) -> None:
        super().__init__()
        self.head, self.loss = nn.Linear(6, 3), loss

    def forward(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        found = {"scores": self.head(features)}
        return (
            found if labels is None else {**found, "loss": self.loss(F.cross_entropy(found["scores"], labels, reduction="none"))}
        )


RETURNED: Keys = {
    "inputs": {"features": {"axes": ["batch", 6]}},
    "outputs": {"scores": {"axes": ["batch", 3], "kind": "class_scores"}},
    "loss": "model",
}


def test_forward_is_given_its_labels_and_returns_the_loss() -> None:
    task = task_of(RETURNED)
    model, batch = Returning(), task.signature.make_batch({"batch": 5})
    expected = F.cross_entropy(model.head(batch["features"]), batch["labels"])
    assert float(SignatureAdapter(task).loss_of_call(model, batch).detach()) == pytest.approx(float(expected.detach()))


def test_a_forward_without_a_loss_is_told_what_to_do() -> None:
    task = task_of({**POLICY, "loss": "model"})
    with pytest.raises(OutputError, match="`loss`: model, but forward returns no `loss`: return it under that name"):
        SignatureAdapter(task).loss_of_call(Policy(), task.signature.make_batch({"batch": 2}))


def test_a_returned_loss_that_is_no_scalar_is_refused() -> None:
    found = verdict("step_updates", trial_of(RETURNED, Returning(lambda losses: losses)))
    assert found.status is Status.FAIL
    assert found.message.startswith("`loss`: forward returned a tensor of shape [3], expected a scalar tensor")


class Reconstruction(nn.Module):
    """Hides inputs at random and compares with them what it makes of the rest, as a masked autoencoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.compare(x, x)

    def compare(self, x: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        again = self.layer(x * (torch.rand_like(x) > 0.3))
        return {"again": again, "loss": (again - wanted).square().mean()}


class Prediction(Reconstruction):
    """The same towards labels."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return self.compare(x, x if labels is None else labels)


@pytest.mark.parametrize(("model", "has_labels"), [(Reconstruction, False), (Prediction, True)])
def test_labels_that_forward_is_not_given_are_none(model: type[nn.Module], has_labels: bool) -> None:
    outputs = {"again": {"axes": ["batch", 4], "kind": "values"}, "loss": {"kind": "loss"}}
    trial = trial_of({"inputs": {"x": {"axes": ["batch", 4]}}, "outputs": outputs}, model())

    assert ("labels" in trial.subject.batch()) == has_labels
    assert verdict_of("training_loss", trial, "targets").status is (Status.OK if has_labels else Status.SKIPPED)
    assert verdict("step_updates", trial).status is Status.OK
