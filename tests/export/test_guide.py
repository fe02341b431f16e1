"""What the guide shows of exports, health checks and bundles works as it is shown there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
import torch
from planted_bugs.tier4.models import TABLE, TEXT, Scores, language_model, with_nan
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.config import TrainingConfig
from harness.export.bundle import create_export_bundle
from harness.export.export_model import export_model
from harness.export.formats import ExportError
from harness.export.formats.onnx import ONNXExporter
from harness.export.health import ExportHealthChecker
from harness.health import ExportHealthReport
from harness.health.checks import CheckResult
from harness.tasks import TaskSpec, TaskType


def opset(path: Path) -> int:
    return next(entry.version for entry in onnx.load(path).opset_import if entry.domain in ("", "ai.onnx"))


def details(report: ExportHealthReport, name: str) -> dict[str, object]:
    return next(check.details for check in report.checks if check.check_name == name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_export_bundle(
        Scores(),
        {"task_name": "scores"},
        TABLE,
        training_config=TrainingConfig(export_formats=["torchscript"]),
        output_dir=tmp_path_factory.mktemp("guide") / "bundle",
    )


def test_a_bundle_has_the_formats_of_the_training_config(bundle: Path) -> None:
    assert {path.suffix for path in (bundle / "artifacts").glob("model.*")} == {".ts", ".json"}


def test_the_formats_of_the_config_come_first(tmp_path: Path) -> None:
    wanted = TrainingConfig(export_formats=["torchscript"])
    made = create_export_bundle(
        Scores(), {"formats": ["pytorch"]}, TABLE, wanted, run_health_checks=False, output_dir=tmp_path / "b"
    )
    assert {path.name for path in (made / "artifacts").glob("model.*")} == {"model.pt", "model.pt.json"}


def test_the_health_report_lies_where_the_guide_says(bundle: Path) -> None:
    assert (bundle / "health_report.md").read_text().startswith("# Scores")
    assert json.loads((bundle / "artifacts" / "health_report.json").read_text())["health_score"] > 80
    assert "health_report.md" in (bundle / "README.md").read_text()


def test_alone_the_checks_before_the_export_run(tmp_path: Path) -> None:
    checker = ExportHealthChecker(Scores(), {"formats": ["pytorch"]}, TABLE)
    names = [
        "architecture_validation",
        "parameter_validation",
        "shape_validation",
        "memory_requirements",
        "forward_pass_validation",
    ]
    assert [check.check_name for check in checker.run_all_checks().checks] == names
    assert "pytorch_validation" in {check.check_name for check in checker.run_all_checks(export_dir=tmp_path).checks}


def test_the_details_have_the_keys_of_the_guide() -> None:
    report = ExportHealthChecker(with_nan(), {}, TABLE).run_all_checks()
    architecture, parameters = details(report, "architecture_validation"), details(report, "parameter_validation")
    assert architecture["total_modules"] == 3
    assert architecture["layer_counts"] == {"Linear": 2}
    assert parameters["total_params"] == parameters["trainable_params"] == 5 * 8 + 8 + 8 * 3 + 3
    assert parameters["nan_params"] == 1
    assert parameters["inf_params"] == 0


def test_the_markdown_ends_its_recommendations_with_the_warnings(tmp_path: Path) -> None:
    report = ExportHealthReport("model")
    report.add_check(CheckResult("slow", "warning", "slower", recommendation="Use more threads"))
    report.add_check(CheckResult("weights", "failed", "NaN", recommendation="Clip gradients"))
    text = report.save_markdown(tmp_path / "report.md").read_text()
    section = text.partition("## Recommendations\n\n")[2].partition("\n\n")[0].splitlines()
    assert section == ["- Clip gradients", "- Use more threads", "- Review the warnings: `slow`"]
    assert report.to_json()["recommendations"][-1] == "Review the warnings: `slow`"


def test_shapes_are_lengths_too() -> None:
    shapes = details(ExportHealthChecker(language_model(), {}, TEXT).run_all_checks(), "shape_validation")["shapes"]
    assert isinstance(shapes, dict)
    assert {shape[0] for shape in shapes.values()} >= {1, 2, 4, 8}
    assert {shape[1] for shape in shapes.values()} >= {1, 12}


class Pooled(nn.Module):
    """Takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.layer(pixel_values.mean((2, 3)))


class Flat(Pooled):
    """Takes images of one size."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.layer(pixel_values.reshape(-1, 3, 8 * 8).mean(2).view(len(pixel_values), 3))


@pytest.mark.parametrize(("kind", "says"), [(Pooled, "12x12 gives logits of shape (2, 4)"), (Flat, "12x12 is refused: ")])
def test_shapes_are_image_sizes_too(kind: type[nn.Module], says: str) -> None:
    task = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 8, 8), num_classes=4)
    report = ExportHealthChecker(kind(), {}, task).run_all_checks()
    assert report.all_passed
    assert str(details(report, "shape_validation")["other_image_size"]).startswith(says)


def test_the_benchmark_says_the_mean(bundle: Path) -> None:
    report = json.loads((bundle / "artifacts" / "health_report.json").read_text())
    message = next(check["message"] for check in report["checks"] if check["check_name"] == "performance_benchmark")
    assert re.search(r"mean \d+\.\d+ ms", message)


def test_the_exporter_takes_a_model(tmp_path: Path) -> None:
    model = Scores().train()
    ONNXExporter(16, True, True).export(model, make_adapter(TABLE), TABLE, tmp_path / "new" / "model.onnx")
    assert opset(tmp_path / "new" / "model.onnx") == 16
    assert model.training
    ONNXExporter(opset_version=18, optimize=True, validate=True).export(model, str(tmp_path / "model.onnx"), TABLE)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    rows = torch.randn(7, 5)
    assert torch.allclose(torch.from_numpy(session.run(None, {"features": rows.numpy()})[0]), model(rows), atol=1e-5)


def test_the_exporter_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="takes a model, its TaskSpec and the path"):
        ONNXExporter().export(Scores(), tmp_path / "model.onnx")


def test_export_model_takes_an_opset(tmp_path: Path) -> None:
    files = export_model(Scores(), None, TABLE, tmp_path, ["onnx"], opset_version=17)
    assert opset(files["onnx"]) == 17
