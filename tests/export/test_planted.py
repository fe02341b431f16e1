"""Tier 4 finds every planted bug by the right check, and is quiet on its twin."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import PLANTED, Planted

from harness.catalogue import CATALOGUE, names_of, of_tier
from harness.evidence import Evidence, Status
from harness.export.checks.table import judge_format, judge_model_check
from harness.export.exports import Exports


def judged(planted: Planted, exports: Exports) -> Evidence:
    if planted.format:
        files = [entry.name for entry in of_tier(4) if entry.formats]  # what the model's own checks own is shown here
        return judge_format(planted.check, exports, planted.format, files)
    return CATALOGUE[planted.check].load()(exports)


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
    assert {planted.check for planted in PLANTED} == names_of(4)


def test_nan_weights_are_one_failure_of_tier_4(tmp_path: Path) -> None:
    exports = next(planted for planted in PLANTED if planted.name == "nan_in_the_file").broken(tmp_path)
    found = {name: judge_model_check(name, exports) for name in names_of(4) if not CATALOGUE[name].formats}
    names = [name for name in names_of(4) if CATALOGUE[name].formats and name not in ("quantisation", "performance_benchmark")]
    found |= {name: judge_format(name, exports, "onnx") for name in names}
    assert [name for name, evidence in found.items() if evidence.status is Status.FAIL] == ["parameter_validation"]
    left = [name for name, evidence in found.items() if evidence.message.endswith("(see parameter_validation)")]
    assert {"forward_pass_validation", "validation", "numerical_consistency", "inference_mode", "invalid_input"} <= set(left)
