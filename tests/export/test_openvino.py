"""OpenVINO: the same logits at every declared size, and an error instead of logits at every other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from planted_bugs.tier4.exports import make_exports
from planted_bugs.tier4.models import TABLE, DataBranch, RowLoop, Scores, language_model, with_nan
from torch import Tensor, nn

from harness.errors import MissingPackageError
from harness.evidence import Status
from harness.export.checks import judge_export
from harness.export.exports import Exports
from harness.export.formats import ExportError
from harness.export.formats.openvino import OpenVINOExporter
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType

CHECKS = (
    "exports",
    "validation",
    "fresh_process",
    "numerical_consistency",
    "dynamic_axes",
    "inference_mode",
    "invalid_input",
)

IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(1, 8, 8), num_classes=3)


class Pooled(nn.Module):
    """Its pooling refuses an empty batch inside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(64, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(torch.flatten(nn.functional.max_pool2d(self.convolution(pixel_values), 2), 1))


@pytest.fixture
def installed() -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")


def exports_of(model: type[nn.Module], folder: Path, **options: object) -> Exports:
    with seeded(0):
        return make_exports(model(), folder, "openvino", **options)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-modeltiers\[openvino\]'"):
        OpenVINOExporter().check_available()


@pytest.mark.usefixtures("installed")
class TestOpenVINO:
    @pytest.mark.parametrize("check", CHECKS)
    def test_a_sound_model_passes(self, check: str, tmp_path: Path) -> None:
        evidence = judge_export(check, exports_of(Scores, tmp_path), "openvino")
        assert evidence.status is Status.OK, evidence.message

    def test_a_language_model_passes_at_all_lengths(self, tmp_path: Path) -> None:
        exports = make_exports(language_model(), tmp_path, "openvino")
        for check in ("numerical_consistency", "dynamic_axes"):
            evidence = judge_export(check, exports, "openvino")
            assert evidence.status is Status.OK, evidence.message

    def test_inputs_have_their_names_and_limits(self, tmp_path: Path) -> None:
        exports = make_exports(language_model(), tmp_path, "openvino")
        facts = OpenVINOExporter().inspect(exports.artifact("openvino").path, exports.program).facts
        assert facts["inputs"] == dict.fromkeys(("input_ids", "attention_mask"), "[1..65536,1..12]")
        assert list(facts["outputs"]) == ["logits"]
        assert facts["operators"]["Gather"] >= 2

    def test_the_weights_belong_to_the_artifact_and_keep_their_precision(self, tmp_path: Path) -> None:
        artifact = exports_of(Scores, tmp_path).artifact("openvino")
        assert artifact.manifest is not None
        assert set(artifact.manifest.files) == {"model.xml", "model.bin"}
        (tmp_path / "model.bin").write_bytes(b"\0" * (tmp_path / "model.bin").stat().st_size)
        assert not exports_of(Scores, tmp_path).artifact("openvino").ours

    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_size_beyond_the_limits_is_refused_and_the_next_call_is_right(self, threads: int, tmp_path: Path) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            exports = exports_of(Scores, tmp_path)
            run = exports.runner("openvino")
            for features in (torch.randn(0, 5), torch.randn(3, 6), torch.randn(3)):
                with pytest.raises(ExportError, match="OpenVINO refuses it"):
                    run({"features": features})
                batch = exports.batch(exports.points[0])
                torch.testing.assert_close(run(batch), exports.eager(batch))
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_an_error_inside_the_graph_is_raised_and_the_next_call_is_right(self, threads: int, tmp_path: Path) -> None:
        import openvino

        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            exports = make_exports(Pooled(), tmp_path, "openvino", task=IMAGES)
            model = openvino.Core().read_model(exports.artifact("openvino").path)
            model.reshape({"pixel_values": openvino.PartialShape([-1, -1, -1, -1])})
            openvino.save_model(model, tmp_path / "open.xml", compress_to_fp16=False)
            run = OpenVINOExporter().load(tmp_path / "open.xml", exports.program)
            for pixels in (torch.randn(0, 1, 8, 8), torch.randn(3, 2, 8, 8)):
                with pytest.raises(ExportError, match="OpenVINO raised"):
                    run({"pixel_values": pixels})
                batch = exports.batch(exports.points[0])
                torch.testing.assert_close(run(batch), exports.eager(batch))
        finally:
            torch.set_num_threads(before)

    def test_logits_of_one_call_survive_the_next(self, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path)
        run, batch = exports.runner("openvino"), exports.batch(exports.points[0])
        first = run(batch)["logits"]
        kept = first.clone()
        run({"features": batch["features"] + 1})
        assert torch.equal(first, kept)

    def test_ids_beyond_the_vocabulary_are_looked_up(self, tmp_path: Path) -> None:
        evidence = judge_export("invalid_input", make_exports(language_model(), tmp_path, "openvino"), "openvino")
        assert evidence.status is Status.FAIL
        assert "returns logits where the model raises" in evidence.message

    def test_what_torch_export_cannot_hold_comes_by_way_of_onnx_and_says_so(self, tmp_path: Path) -> None:
        exports = exports_of(DataBranch, tmp_path)
        evidence = judge_export("exports", exports, "openvino")
        assert evidence.status is Status.WARN
        assert "only by the TorchScript-based exporter, by way of ONNX" in evidence.message
        # The branch that was frozen on the way is looked for as in the ONNX file itself.
        assert judge_export("numerical_consistency", exports, "openvino").status is Status.FAIL

    def test_an_axis_that_the_model_fixes_is_named(self, tmp_path: Path) -> None:
        evidence = judge_export("dynamic_axes", exports_of(RowLoop, tmp_path), "openvino")
        assert evidence.status is Status.FAIL
        assert "batch is always 3 (models.py:" in evidence.message

    def test_fixed_sizes(self, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path, dynamic_shapes=False)
        inspection = OpenVINOExporter().inspect(exports.artifact("openvino").path, exports.program)
        assert inspection.facts["inputs"] == {"features": "[1,5]"}

    def test_bfloat16_models_take_and_give_float32(self, tmp_path: Path) -> None:
        with seeded(0):
            exports = make_exports(Scores().bfloat16(), tmp_path, "openvino", task=TABLE)
        batch = exports.batch(exports.points[0])
        logits = exports.runner("openvino")(batch)["logits"]
        assert logits.dtype is torch.float32
        torch.testing.assert_close(logits, exports.eager(batch)["logits"].float(), rtol=0.02, atol=0.02)

    def test_nan_among_the_weights(self, tmp_path: Path) -> None:
        evidence = judge_export("validation", make_exports(with_nan(), tmp_path, "openvino"), "openvino", ["validation"])
        assert evidence.status is Status.FAIL
        assert "weights that hold NaN" in evidence.message

    @pytest.mark.parametrize(
        ("name", "keep", "says"),
        [
            ("model.xml", 0.5, "no OpenVINO file"),
            ("model.xml", 0.0, "no OpenVINO file"),
            ("model.bin", 0.5, "Incorrect weights"),
            ("model.bin", None, "bin file cannot be found"),
        ],
    )
    def test_damaged_files_are_refused(self, name: str, keep: float | None, says: str, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path)
        path = exports.artifact("openvino").path
        content = (tmp_path / name).read_bytes()
        if keep is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(ExportError, match=says):
            OpenVINOExporter().load(path, exports.program)
