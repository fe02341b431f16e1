"""Tier 4 finds every planted bug by the right check, and is quiet on its twin."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import PLANTED, Planted

from harness.catalogue import CATALOGUE
from harness.evidence import Evidence
from harness.export.checks.models import MODEL_CHECKS
from harness.export.checks.table import judge_format
from harness.export.exports import Exports


def judged(planted: Planted, exports: Exports) -> Evidence:
    if planted.format:
        return judge_format(planted.check, exports, planted.format)
    return MODEL_CHECKS[planted.check](exports)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_bug_is_found(planted: Planted, tmp_path: Path) -> None:
    evidence = judged(planted, planted.broken(tmp_path))
    assert evidence.status.value == planted.status, evidence.message
    assert planted.says in evidence.message


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_twin_passes(planted: Planted, tmp_path: Path) -> None:
    evidence = judged(planted, planted.sound(tmp_path))
    assert evidence.status.value == "ok", evidence.message


def test_every_check_has_a_planted_bug() -> None:
    assert {planted.check for planted in PLANTED} == {entry.name for entry in CATALOGUE.values() if entry.tier == 4}
