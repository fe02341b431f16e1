"""The health checker: every check of the contract, under its name, with figures and advice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from planted_bugs.tier4.models import TABLE, RowLoop, Scores, SizeBranch, with_nan

from harness.config import ExportConfig
from harness.evidence import Evidence, Status
from harness.export.bundle import create_export_bundle
from harness.export.export_model import export_model, run_tier4_export_validation
from harness.export.exports import Exports
from harness.export.health import ExportHealthChecker
from harness.health import ExportHealthReport
from harness.health.checks import CheckResult
from harness.runtime import seeded

FORMATS = ["torchscript", "onnx", "pytorch"]


def check(model: type[Scores] = Scores, *formats: str, **options: object) -> ExportHealthReport:
    with seeded(0):
        checker = ExportHealthChecker(model(), {"formats": list(formats) or FORMATS, **options}, TABLE)
    return checker.run_all_checks(formats=checker.options.formats)


@pytest.fixture(scope="module")
def sound() -> ExportHealthReport:
    return check()


@pytest.fixture(scope="module")
def broken() -> ExportHealthReport:
    return check(SizeBranch, "onnx")


def test_the_checks_of_the_contract_are_there(sound: ExportHealthReport) -> None:
    assert {
        "architecture_validation",
        "parameter_validation",
        "shape_validation",
        "memory_requirements",
        "forward_pass_validation",
        "onnx_validation",
        "torchscript_validation",
        "pytorch_validation",
        "numerical_consistency",
        "performance_benchmark",
    } <= {check.check_name for check in sound.checks}


def test_a_sound_model_is_healthy(sound: ExportHealthReport) -> None:
    assert sound.all_passed
    assert sound.health_score == 100
    assert sound.recommendations == []
    assert sound.model_facts["formats"] == "torchscript, onnx, pytorch"


def details_of(report: ExportHealthReport, name: str) -> dict[str, object]:
    return next(check.details for check in report.checks if check.check_name == name)


def test_figures_are_there(sound: ExportHealthReport) -> None:
    onnx = details_of(sound, "onnx_validation")
    assert onnx["opset"] == 20
    assert onnx["operators"]["Gemm"] == 2
    assert onnx["inputs"] == {"features": ["batch", 5]}
    parameters = details_of(sound, "parameter_validation")
    assert (parameters["total_params"], parameters["trainable_params"], parameters["nan_params"]) == (75, 75, 0)
    latency = details_of(sound, "performance_benchmark")["by_format"]["onnx"]
    assert latency["artifact"]["iterations"] >= 50
    assert latency["artifact"]["p50"] <= latency["artifact"]["p90"]
    assert latency["artifact"]["p99"] is None
    assert latency["speed_up"] > 0
    parity = details_of(sound, "numerical_consistency")["by_format"]["torchscript"]
    assert parity["max_abs_diff"] <= 1e-6
    assert parity["argmax_agreement"] == 1
    assert parity["shapes_unseen"] >= 5


def test_a_broken_model_is_told_what_to_do() -> None:
    with seeded(0):
        report = ExportHealthChecker(with_nan(), ExportConfig(formats=["pytorch"]), TABLE).run_all_checks(formats=["pytorch"])
    failed = {check.check_name: check for check in report.get_failed_checks()}
    assert "clip" in failed["parameter_validation"].recommendation
    assert failed["parameter_validation"].details["module"] == "head.weight"
    assert list(failed) == ["parameter_validation"]
    left = [skipped.check_name for skipped in report.skipped if skipped.reason.endswith("(see parameter_validation)")]
    assert {"forward_pass_validation", "pytorch_validation", "numerical_consistency"} <= set(left)
    assert report.health_score < 90
    assert report.recommendations


def test_every_failed_check_has_a_recommendation(broken: ExportHealthReport) -> None:
    for report in (broken, check(RowLoop, "torch_export")):
        assert report.get_failed_checks()
        assert all(check.recommendation for check in report.get_failed_checks())


def test_reports_are_written(sound: ExportHealthReport, broken: ExportHealthReport, tmp_path: Path) -> None:
    for name, report in (("sound", sound), ("broken", broken)):
        data = json.loads(report.save_json(tmp_path / f"{name}.json").read_text())
        assert data["summary"]["total"] == len(data["checks"])
        assert "numerical_consistency" in report.save_markdown(tmp_path / f"{name}.md").read_text()
        assert "numerical_consistency" in report.save_html(tmp_path / f"{name}.html").read_text()
    assert "models.py" in (tmp_path / "broken.md").read_text()


def test_own_checks_join() -> None:
    def small(exports: Exports) -> Evidence:
        return Evidence("small", Status.WARN, "could be smaller", cause="many parameters")

    def broken(exports: Exports) -> CheckResult:
        raise ZeroDivisionError("oops")

    checker = ExportHealthChecker(Scores(), {"formats": ["pytorch"]}, TABLE)
    checker.add_check("small", small)
    checker.add_check("counted", lambda exports: CheckResult("counted", "passed", "three"))
    checker.add_check("broken", broken)
    found = {check.check_name: check for check in checker.run_all_checks().checks}
    assert found["small"].status == "warning"
    assert found["counted"].message == "three"
    assert found["broken"].status == "failed"
    assert "ZeroDivisionError" in found["broken"].message


@pytest.mark.parametrize(
    "config",
    [ExportConfig(formats=["pytorch"]), {"formats": ["pytorch"], "width": 8}, SimpleNamespace(formats=["pytorch"], width=8)],
    ids=["config", "mapping", "namespace"],
)
def test_any_config_will_do(config: object) -> None:
    assert ExportHealthChecker(Scores(), config, TABLE).options.formats == ["pytorch"]


def test_files_in_a_folder_are_judged_as_they_stand(tmp_path: Path) -> None:
    with seeded(0):
        model = Scores()
    checker = ExportHealthChecker(model, None, TABLE)
    assert checker.run_all_checks(tmp_path, ["safetensors"]).all_passed
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    failed = [check.check_name for check in checker.run_all_checks(tmp_path, ["safetensors"]).get_failed_checks()]
    assert failed == ["safetensors_validation", "exports"]


def test_formats_that_are_not_installed_are_skipped() -> None:
    import importlib.util

    if importlib.util.find_spec("openvino"):
        pytest.skip("openvino is installed here")
    report = check(Scores, "pytorch", "openvino")
    reasons = {skipped.check_name: skipped.reason for skipped in report.skipped}
    assert "pytest-modeltiers[openvino]" in reasons["openvino_validation"]
    assert report.all_passed


def test_validation_in_one_call(tmp_path: Path) -> None:
    with seeded(0):
        found = run_tier4_export_validation(SizeBranch(), None, TABLE, tmp_path, ["onnx", "pytorch"])
    assert found["status"] == found["onnx"]["status"] == "fail"
    assert found["pytorch"]["status"] == "ok"
    assert found["pytorch"]["max_abs_diff"] == 0
    assert found["onnx"]["max_abs_diff"] > 0.01
    assert found["onnx"]["latency_ms"] > 0
    assert Path(found["onnx"]["path"]) == tmp_path / "model.onnx"
    assert list((tmp_path / "failures").glob("*.onnx"))


def _check_health(model: Scores, _folder: Path) -> None:
    ExportHealthChecker(model, {"formats": ["pytorch"]}, TABLE).run_all_checks(formats=["pytorch"])


def _bundle(model: Scores, folder: Path) -> None:
    create_export_bundle(model, {"formats": ["pytorch"]}, TABLE, output_dir=folder / "bundle")


def _export(model: Scores, folder: Path) -> None:
    export_model(model, None, TABLE, folder, ["pytorch"])


def _validate(model: Scores, folder: Path) -> None:
    run_tier4_export_validation(model, None, TABLE, folder, ["pytorch"])


@pytest.mark.parametrize("use", [_check_health, _bundle, _export, _validate])
def test_the_callers_model_stays_in_the_mode_it_was_in(use: Callable[[Scores, Path], None], tmp_path: Path) -> None:
    with seeded(0):
        model = Scores().train()
    frozen = next(model.children()).eval()

    use(model, tmp_path)

    assert model.training
    assert not frozen.training
