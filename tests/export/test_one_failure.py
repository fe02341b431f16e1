"""What a check of tier 4 says beside others: of a model that one of them owns, and of what it measures."""

from __future__ import annotations

import linecache
from pathlib import Path

from planted_bugs.tier4.exports import make_exports
from planted_bugs.tier4.models import Scores, language_model, with_nan
from torch import Tensor

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


def test_the_peak_of_memory_is_the_same_alone_and_after_others(tmp_path: Path) -> None:
    alone = judge_export("memory_requirements", make_exports(language_model(), tmp_path / "alone"))
    exports = make_exports(language_model(), tmp_path / "among")
    for name in ("forward_pass_validation", "shape_validation"):
        assert judge_export(name, exports).status is Status.OK
    assert judge_export("memory_requirements", exports).measured == alone.measured


def test_a_branch_on_a_size_that_a_file_has_frozen_is_one_failure_with_its_line(tmp_path: Path) -> None:
    class Branches(Scores):
        def forward(self, features: Tensor) -> Tensor:
            if len(features) > 1:  # the branch
                features = features * 3
            return super().forward(features)

    exports = make_exports(Branches(), tmp_path, "torchscript")
    found = judge_export("numerical_consistency", exports, "torchscript")
    assert found.status is Status.FAIL
    assert "is skipped there, and the file always runs it" in found.message, found.message
    assert "# the branch" in linecache.getline(__file__, int(found.place.rpartition(":")[2]))
