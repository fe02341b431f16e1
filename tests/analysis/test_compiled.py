"""What is compiled, and what is said where nothing is."""

from __future__ import annotations

from functools import partial

import pytest
import torch.nn.functional as F
from planted_bugs.setups import Factory, verdict_of
from planted_bugs.tasks import TABLE
from planted_bugs.tier2.compiled import Table, timed
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.analysis import Study
from harness.batches import Batch
from harness.evidence import Status


def study(build: Factory, seconds: float = 30.0) -> Study:
    """A study without the time for a code generator."""
    return timed(build, seconds).study()


@pytest.mark.parametrize("breaks", [False, True])
def test_twin_passes(breaks: bool) -> None:
    evidence = verdict_of("compiled", study(partial(Table, breaks=breaks)))
    assert evidence.status is Status.OK, evidence.explain()
    assert "(backends eager, aot_eager" in evidence.message
    assert ("graph break" in evidence.message) == breaks
    assert bool(evidence.details["graph_breaks"]) == breaks


class CallsTheParts(Adapter):
    """Calls the model's layers and never the model."""

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Table)
        return model.head(model.inner(model.first(batch["features"])))


class CallsNothing(Adapter):
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Table)
        hidden = F.linear(batch["features"], model.first.weight, model.first.bias)
        return F.linear(F.gelu(hidden), model.head.weight, model.head.bias)


class Steps(nn.Module):
    """Reads the features one by one, with a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.GRU(1, 8, batch_first=True)
        self.head = nn.Linear(8, TABLE.num_classes or 0)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.steps(features.unsqueeze(-1))[0][:, -1])


def called_by(adapter: Adapter, fault: str = "") -> Study:
    found = study(partial(Table, fault))
    found.subject.adapter = adapter
    return found


def test_where_an_adapter_calls_the_parts_those_are_compiled() -> None:
    assert verdict_of("compiled", called_by(CallsTheParts(TABLE))).status is Status.OK
    evidence = verdict_of("compiled", called_by(CallsTheParts(TABLE), "logits"))
    assert evidence.status is Status.FAIL
    assert "the logits differ from the uncompiled model's" in evidence.message


def test_where_it_calls_none_there_is_nothing_to_compile() -> None:
    evidence = verdict_of("compiled", called_by(CallsNothing(TABLE)))
    assert evidence.status is Status.SKIPPED
    assert "calls no module" in evidence.message


def test_a_recurrent_layer_that_the_compiler_leaves_as_it_is_is_no_fault_of_the_model() -> None:
    evidence = verdict_of("compiled", study(Steps))
    assert evidence.status is Status.SKIPPED, evidence.explain()
    assert "calls nn.GRU uncompiled" in evidence.message


def test_what_there_is_no_time_for_is_left_out() -> None:
    evidence = verdict_of("compiled", study(Table, 2.0))
    assert evidence.status is Status.SKIPPED
    assert "`time_budget` leaves 2 s" in evidence.message
