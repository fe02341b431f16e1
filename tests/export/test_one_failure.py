"""One bug, one failure: what other checks of tier 4 say of a model that one of them owns."""

from __future__ import annotations

from pathlib import Path

from planted_bugs.tier4.exports import make_exports
from planted_bugs.tier4.models import with_nan

from harness.catalogue import CATALOGUE, names_of
from harness.evidence import Status
from harness.export.checks import judge_export


def test_nan_weights_are_one_failure_of_tier_4(tmp_path: Path) -> None:
    exports = make_exports(with_nan(), tmp_path)
    found = {name: judge_export(name, exports) for name in names_of(4) if not CATALOGUE[name].formats}
    names = [name for name in names_of(4) if CATALOGUE[name].formats and name not in ("quantisation", "performance_benchmark")]
    found |= {name: judge_export(name, exports, "onnx") for name in names}
    assert [name for name, evidence in found.items() if evidence.status is Status.FAIL] == ["parameter_validation"]
    left = [name for name, evidence in found.items() if evidence.message.endswith("(see parameter_validation)")]
    assert {"forward_pass_validation", "validation", "numerical_consistency", "inference_mode", "invalid_input"} <= set(left)
