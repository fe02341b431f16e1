"""ExecuTorch: the same logits at every size that memory is planned for, and a plan of a sane size."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from planted_bugs.tier4.exports import make_exports
from planted_bugs.tier4.models import DataBranch, Scores, language_model
from torch import Tensor, nn

from harness.errors import MissingPackageError
from harness.evidence import Status
from harness.export.checks import judge_export
from harness.export.exports import Exports
from harness.export.formats import ExportError
from harness.export.formats import executorch as executorch_exporter
from harness.export.formats.executorch import ExecuTorchExporter
from harness.export.store import Manifest
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

IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(1, 6, 6), num_classes=3)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(64, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(torch.flatten(self.convolution(pixel_values).relu(), 1))


class SmallBatches(Scores):
    """Another scale for small batches, so that the graph of the example holds from three rows on."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * (2 if features.shape[0] < 3 else 3)


class Words(nn.Module):
    """Scores of the next word from the last one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 8)
        self.head = nn.Linear(8, 31)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embed(input_ids))


@pytest.fixture
def installed() -> None:
    pytest.importorskip("executorch", reason="the extra `executorch` is not installed")


def exports_of(model: type[nn.Module], folder: Path, **options: object) -> Exports:
    with seeded(0):
        return make_exports(model(), folder, "executorch", **options)


def manifest_of(exports: Exports) -> Manifest:
    manifest = exports.artifact("executorch").manifest
    assert manifest is not None
    return manifest


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-modeltiers\[executorch\]'"):
        ExecuTorchExporter().check_available()


@pytest.mark.usefixtures("installed")
class TestExecuTorch:
    @pytest.mark.parametrize("check", CHECKS)
    def test_a_sound_model_passes(self, check: str, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path, dynamic_shapes={"batch": [1, 64]})
        evidence = judge_export(check, exports, "executorch")
        assert evidence.status is Status.OK, evidence.message

    @pytest.mark.parametrize("check", ["numerical_consistency", "invalid_input"])
    def test_ids(self, check: str, tmp_path: Path) -> None:
        evidence = judge_export(check, exports_of(Words, tmp_path), "executorch")
        assert evidence.status is Status.OK, evidence.message

    def test_a_batch_without_a_limit_gets_one_and_that_is_said(self, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path)
        evidence = judge_export("dynamic_axes", exports, "executorch")
        assert manifest_of(exports).limits == {"batch": (1, 64)}
        assert evidence.status is Status.FAIL
        assert "batch is valid only from 1 to 64" in evidence.message
        assert '{"batch": [1, 64]}' in evidence.cause

    def test_a_limit_of_the_config_is_kept(self, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path, dynamic_shapes={"batch": [1, 300]})
        assert manifest_of(exports).limits == {"batch": (1, 300)}
        assert exports.runner("executorch")({"features": torch.randn(300, 5)})["logits"].shape == (300, 3)

    def test_a_convolution_does_not_narrow_the_batch(self, tmp_path: Path) -> None:
        exports = exports_of(Images, tmp_path, task=IMAGES)
        assert manifest_of(exports).limits == {"batch": (1, 64)}
        assert judge_export("numerical_consistency", exports, "executorch").status is Status.OK

    def test_what_lowering_narrows_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for backend in (torch.backends.mkldnn, torch.backends.nnpack):
            monkeypatch.setattr(backend, "flags", lambda **_: nullcontext())
        exports = exports_of(Images, tmp_path, task=IMAGES)
        rows = manifest_of(exports).limits["batch"][1]
        assert rows is not None
        run = exports.runner("executorch")
        assert run({"pixel_values": torch.randn(rows, 1, 6, 6)})["logits"].shape == (rows, 3)
        with pytest.raises(ExportError):
            run({"pixel_values": torch.randn(rows + 1, 1, 6, 6)})

    def test_an_axis_that_had_to_be_inferred_gets_its_limit_too(self, tmp_path: Path) -> None:
        exports = exports_of(SmallBatches, tmp_path)
        assert manifest_of(exports).limits == {"batch": (3, 64)}
        assert exports.runner("executorch")({"features": torch.randn(64, 5)})["logits"].shape == (64, 3)
        evidence = judge_export("dynamic_axes", exports, "executorch")
        assert "batch is valid only from 3 to 64" in evidence.message
        assert "test_executorch.py:" in evidence.message

    def test_a_plan_beyond_the_memory_is_made_for_fewer_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        full = manifest_of(exports_of(Scores, tmp_path / "full")).notes["planned_bytes"]
        monkeypatch.setattr(executorch_exporter, "_PLANNED_BYTES", full // 4)
        exported = ExecuTorchExporter().export(exports_of(Scores, tmp_path).program, tmp_path / "model.pte")
        assert exported.limits == {"batch": (1, 16)}
        assert exported.notes["planned_bytes"] < full / 3
        assert [attempt.way for attempt in exported.attempts[-2:]] == ["XNNPACK, batch up to 64", "XNNPACK"]
        assert exported.attempts[-2].error.startswith("its memory plan takes")

    def test_fixed_sizes(self, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path, dynamic_shapes=False)
        assert manifest_of(exports).limits == {}
        assert judge_export("numerical_consistency", exports, "executorch").status is Status.OK

    def test_what_xnnpack_does_not_take_runs_on_portable_kernels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuses() -> NoReturn:
            raise RuntimeError("not this model")

        monkeypatch.setattr(executorch_exporter, "_xnnpack", refuses)
        exports = exports_of(Scores, tmp_path)
        path = tmp_path / "portable.pte"
        exported = ExecuTorchExporter().export(exports.program, path)
        assert [(attempt.way, attempt.error) for attempt in exported.attempts[-2:]] == [
            ("XNNPACK", "RuntimeError: not this model"),
            ("portable kernels", ""),
        ]
        batch = exports.batch(exports.points[0])
        torch.testing.assert_close(ExecuTorchExporter().load(path, exports.program)(batch)[0], exports.eager(batch)["logits"])
        assert ExecuTorchExporter().inspect(path, exports.program).facts["operators"]["aten::addmm"] == 2

    def test_what_no_graph_can_hold_is_refused_once(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError) as caught:
            exports_of(DataBranch, tmp_path).artifact("executorch")
        assert str(caught.value).count("models.py:") == 1

    def test_a_size_beyond_the_plan_is_refused_and_the_next_call_is_right(self, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path)
        run = exports.runner("executorch")
        for features, says in ((torch.randn(65, 5), "no memory is planned for"), (torch.randn(3, 6), "ExecuTorch raised")):
            with pytest.raises(ExportError, match=says):
                run({"features": features})
            batch = exports.batch(exports.points[0])
            torch.testing.assert_close(run(batch), exports.eager(batch))

    def test_logits_of_one_call_survive_the_next(self, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path)
        run, batch = exports.runner("executorch"), exports.batch(exports.points[0])
        first = run(batch)["logits"]
        kept = first.clone()
        run({"features": batch["features"] + 1})
        assert torch.equal(first, kept)

    @pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
    def test_damaged_files_are_refused(self, keep: float, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path)
        path = exports.artifact("executorch").path
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        with pytest.raises(ExportError, match="no ExecuTorch program"):
            ExecuTorchExporter().load(path, exports.program)

    def test_a_file_of_another_model_is_refused(self, tmp_path: Path) -> None:
        exports = exports_of(Scores, tmp_path)
        text = make_exports(language_model(), None, "executorch")
        with pytest.raises(ExportError, match="takes 1 inputs, the model takes input_ids, attention_mask"):
            ExecuTorchExporter().load(exports.artifact("executorch").path, text.program)
