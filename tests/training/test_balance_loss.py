"""Balance losses that do what they are for; they depend on which rows share a batch, so no twin of a planted bug can be one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from harness.evidence import Status
from harness.training.checks.balance_loss import balance, find_routers
from tests.planted_bugs.tier3.experts import EXPERTS, Balanced, ByImportance, Switched
from tests.planted_bugs.tier3.training import TABLE, Training


@pytest.mark.parametrize("model", [Balanced, ByImportance])
def test_a_loss_that_balances_passes(model: type[nn.Module], tmp_path: Path) -> None:
    found = balance(Training(TABLE, model).trial(tmp_path))
    assert found.status is Status.OK, found.explain()


def test_a_router_is_found_beside_its_experts() -> None:
    (router,) = find_routers(nn.Sequential(nn.Linear(3, 16), Switched()))
    assert (router.path, router.name, router.experts) == ("1.router", "1.router.weight", EXPERTS)


def test_a_gate_without_experts_is_no_router() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(4, 2)
            self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])

    assert find_routers(Gated()) == []
