"""Repeated, interrupted, shared, frozen and compared runs: every planted bug is found by its check, and every twin is sound."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from harness.evidence import Evidence
from harness.training.checks.baseline import baseline_comparison
from harness.training.checks.distributed import distributed
from harness.training.checks.fine_tuning import fine_tuning
from harness.training.checks.repeat import seeded_repeat
from harness.training.checks.resume import resume
from harness.training.checks.sensitivity import hyperparameter_sensitivity
from harness.training.trial import Trial

from .planted_runs import PLANTED, Planted, Run, called

CHECKS: dict[str, Callable[[Trial], Evidence]] = {
    check.__name__: check
    for check in (seeded_repeat, resume, distributed, fine_tuning, hyperparameter_sensitivity, baseline_comparison)
}
SOUND: list[tuple[str, Run]] = []
for _planted in PLANTED:
    SOUND += [(_planted.check, _planted.sound)] if (_planted.check, _planted.sound) not in SOUND else []

_CLUMSY = re.compile(r"\b0 other|\bNone\b|``|\n|Traceback| at 0x|lambda|\bnan\b")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_bug_is_found(planted: Planted, tmp_path: Path) -> None:
    evidence = CHECKS[planted.check](planted.broken.trial(tmp_path)).investigated()
    assert evidence.status.value == planted.status, evidence.explain()
    assert planted.says in evidence.message
    assert evidence.module == planted.module
    assert evidence.cause
    assert evidence.name == planted.check
    assert not _CLUMSY.search(evidence.headline)


@pytest.mark.parametrize(("check", "run"), SOUND, ids=lambda value: value if isinstance(value, str) else called(value.build))
def test_twin_is_sound(check: str, run: Run, tmp_path: Path) -> None:
    evidence = CHECKS[check](run.trial(tmp_path)).investigated()
    assert evidence.status.value == "ok", evidence.explain()
    assert not _CLUMSY.search(evidence.headline)
