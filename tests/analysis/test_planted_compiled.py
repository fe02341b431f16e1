"""Models that are others once they are compiled, and their twins."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.analysis.study import Study, judge_analysis
from harness.batches import Batch
from harness.evidence import Status

from .pairs import CLASSES, FEATURES, TABLE, Factory, Pair, study_of

FAMILY = ("compiled",)

pytestmark = pytest.mark.slow


class Inner(nn.Module):
    """A layer with a path of its own for the compiler; the bug leaves the activation out there."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.proj = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        if self.fault and torch.compiler.is_compiling():
            if self.fault == "refuses":
                raise NotImplementedError("this path is not written yet")
            return x.detach() + 0 * x if self.fault == "gradient" else x
        return F.gelu(x) if self.fault != "gradient" else x


class Table(nn.Module):
    def __init__(self, fault: str = "", breaks: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 16)
        self.inner = Inner(fault)
        self.head = nn.Linear(16, CLASSES)
        self.breaks = breaks

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features)
        if self.breaks:
            torch._dynamo.graph_break()
        return self.head(self.inner(x))


PAIRS: list[Pair] = [
    Pair(
        "path_for_the_compiler",
        TABLE,
        partial(Table, "activation"),
        Table,
        "compiled",
        "the logits are not the model's own",
        "inner",
    ),
    Pair("gradient_for_the_compiler", TABLE, partial(Table, "gradient"), Table, "compiled", "the gradient of `first."),
    Pair(
        "path_not_written",
        TABLE,
        partial(Table, "refuses"),
        Table,
        "compiled",
        "compiles no part of the model",
        status=Status.WARN,
    ),
]


def study(factory: Factory, seconds: float = 30.0) -> Study:
    """A study without the time for a code generator."""
    found = study_of(factory, TABLE)
    found.seconds = seconds
    return found


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_bug_is_found(pair: Pair) -> None:
    evidence = judge_analysis("compiled", study(pair.buggy)).investigated()
    assert evidence.status is pair.status, evidence.explain()
    assert pair.says in evidence.message, evidence.explain()
    assert evidence.module == pair.module or not pair.module, evidence.explain()
    assert evidence.cause


@pytest.mark.parametrize("breaks", [False, True])
def test_twin_passes(breaks: bool) -> None:
    evidence = judge_analysis("compiled", study(partial(Table, breaks=breaks)))
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


def called_by(adapter: Adapter, fault: str = "") -> Study:
    found = study(partial(Table, fault))
    found.subject.adapter = adapter
    return found


def test_where_an_adapter_calls_the_parts_those_are_compiled() -> None:
    assert judge_analysis("compiled", called_by(CallsTheParts(TABLE))).status is Status.OK
    evidence = judge_analysis("compiled", called_by(CallsTheParts(TABLE), "logits"))
    assert evidence.status is Status.FAIL
    assert "the logits are not the model's own" in evidence.message


def test_where_it_calls_none_there_is_nothing_to_compile() -> None:
    evidence = judge_analysis("compiled", called_by(CallsNothing(TABLE)))
    assert evidence.status is Status.SKIPPED
    assert "calls no module" in evidence.message


def test_what_there_is_no_time_for_is_left_out() -> None:
    evidence = judge_analysis("compiled", study(Table, 2.0))
    assert evidence.status is Status.SKIPPED
    assert "`time_budget` leaves 2 s" in evidence.message
