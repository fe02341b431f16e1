"""Quantisation: what it costs is measured, and a comparison that shows nothing is never a good one."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from harness.adapters import make_adapter  # noqa: E402  (after the packages it needs)
from harness.batches import Batch, Sizes, make_batch  # noqa: E402
from harness.export.formats import ExportError, QuantisationQuality  # noqa: E402
from harness.export.formats.onnx import ONNXExporter  # noqa: E402
from harness.export.onnx.quantisation import Kind, QuantisationFacts, logits_sqnr, measure_quality, quantise  # noqa: E402  # noqa: E402
from harness.export.program import Program, make_program  # noqa: E402
from harness.models.stubs import build_stub  # noqa: E402
from harness.runtime import seeded  # noqa: E402
from harness.tasks import TaskSpec, TaskType  # noqa: E402

LM = TaskSpec(TaskType.CAUSAL_LM, vocab_size=97, max_seq_len=16)
CNN = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 16, 16), num_classes=10)
REGRESSION = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=8)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, 32)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.head = nn.Linear(32, 97)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(input_ids))[0])


@dataclass(frozen=True)
class Case:
    """An exported model with the batches it is judged on."""

    program: Program
    path: Path
    batches: list[Batch]

    @property
    def expected(self) -> list[Tensor]:
        return [self.program.eager(batch) for batch in self.batches]

    def quantise(self, target: Path, kind: Kind) -> QuantisationFacts:
        return quantise(self.path, target, kind, self.batches, self.program.fields)

    def quality(self, quantised: Path) -> QuantisationQuality:
        expected = [{"logits": logits} for logits in self.expected]
        return measure_quality(self.path, quantised, self.batches, self.program.fields, expected)


def make_case(task: TaskSpec, folder: Path) -> Case:
    with seeded(3):
        model = build_stub(task).eval()
    batches = [make_batch(task, Sizes(3, seq), seed=seq) for seq in (7, 9, 12)]
    program = make_program(model, make_adapter(task), task, batches[0], Sizes(3, 7))
    folder.mkdir(parents=True, exist_ok=True)
    ONNXExporter().export(program, folder / "model.onnx")
    return Case(program, folder / "model.onnx", batches)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantised")


@pytest.fixture(scope="module")
def lm(folder: Path) -> Case:
    return make_case(LM, folder / "lm")


@pytest.fixture(scope="module")
def cnn(folder: Path) -> Case:
    return make_case(CNN, folder / "cnn")


@pytest.fixture(scope="module")
def quantised_lm(lm: Case) -> Path:
    target = lm.path.with_name("int8.onnx")
    lm.quantise(target, "dynamic")
    return target


def test_a_language_model_dynamically(lm: Case, quantised_lm: Path) -> None:
    quality = lm.quality(quantised_lm)
    assert 25 < quality.sqnr_db < 60
    assert quality.argmax_agreement is not None
    assert quality.argmax_agreement > 0.9
    assert quality.operators_quantised == quality.operators_quantisable == 27  # 4 blocks of 6, 2 embeddings, the head
    assert quality.bytes_after < 0.4 * quality.bytes_before
    assert len(quality.worst_tensors) == 3
    assert all(25 < tensor.sqnr_db < 60 for tensor in quality.worst_tensors)


@pytest.mark.parametrize(
    ("kind", "operators"), [("static", 3), ("dynamic", 1)], ids=["static", "dynamic leaves convolutions alone"]
)
def test_a_convolutional_network(kind: Kind, operators: int, cnn: Case, tmp_path: Path) -> None:
    facts = cnn.quantise(tmp_path / "int8.onnx", kind)
    quality = cnn.quality(tmp_path / "int8.onnx")
    assert facts.calibration_batches == (3 if kind == "static" else 0)
    assert facts.per_channel
    assert quality.sqnr_db > 30
    assert quality.argmax_agreement == 1.0
    assert (quality.operators_quantised, quality.operators_quantisable) == (operators, 3)


def test_a_language_model_statically(lm: Case, tmp_path: Path) -> None:
    facts = lm.quantise(tmp_path / "int8.onnx", "static")
    quality = lm.quality(tmp_path / "int8.onnx")
    assert (facts.kind, facts.calibration_batches) == ("static", 3)
    assert 20 < quality.sqnr_db < 60
    assert quality.operators_quantised == 27


def test_a_recurrent_network_from_the_older_exporter(tmp_path: Path) -> None:
    with seeded(0):
        model = Recurrent().eval()
    batches = [make_batch(LM, Sizes(3, seq), seed=seq) for seq in (7, 9)]
    program = make_program(model, make_adapter(LM), LM, batches[0], Sizes(3, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["input_ids"], "output_names": ["logits"], "dynamic_axes": program.axes}
        torch.onnx.export(program.forward, program.arguments, str(tmp_path / "model.onnx"), dynamo=False, **names)
    case = Case(program, tmp_path / "model.onnx", batches)
    case.quantise(tmp_path / "int8.onnx", "dynamic")
    quality = case.quality(tmp_path / "int8.onnx")
    assert 25 < quality.sqnr_db < 60
    assert (quality.operators_quantised, quality.operators_quantisable) == (3, 3)
    assert all(25 < tensor.sqnr_db < 60 for tensor in quality.worst_tensors)
    assert {tensor.module for tensor in quality.worst_tensors} <= {"embed", "lstm", "head"}


def rescaled(path: Path, target: Path, name: str, factor: float) -> None:
    """A copy with the scale of one tensor multiplied."""
    model = onnx.load(str(path))
    scale = next(t for t in model.graph.initializer if t.name in (f"{name}_scale", f"{name}_Transposed_scale"))
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(factor), scale.name))
    onnx.save(model, str(target))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("factor", [10.0, 0.0, math.nan])
def test_a_destroyed_scale_is_seen_and_named(kind: Kind, factor: float, cnn: Case, tmp_path: Path) -> None:
    sound, broken = tmp_path / "sound.onnx", tmp_path / "broken.onnx"
    cnn.quantise(sound, kind)
    rescaled(sound, broken, "model.head.weight", factor)
    assert cnn.quality(sound).worst_tensors[0].sqnr_db > 30
    quality = cnn.quality(broken)
    assert quality.sqnr_db < 20
    assert (quality.worst_tensors[0].name, quality.worst_tensors[0].module) == ("model.head.weight", "head")
    assert quality.worst_tensors[0].sqnr_db < 1
    assert all(tensor.sqnr_db > 30 for tensor in quality.worst_tensors[1:])
    assert len(quality.worst_tensors) == (3 if kind == "static" else 1)


def test_a_folded_weight_is_named_by_its_module(lm: Case, quantised_lm: Path, tmp_path: Path) -> None:
    names = [tensor.name for tensor in onnx.load(str(quantised_lm)).graph.initializer]
    folded = [name.removesuffix("_quantized") for name in names if name.startswith("val_") and name.endswith("_quantized")]
    rescaled(quantised_lm, tmp_path / "broken.onnx", folded[0], 10.0)
    worst = lm.quality(tmp_path / "broken.onnx").worst_tensors[0]
    assert worst.name == folded[0]
    assert worst.module in {name for name, _ in lm.program.forward.model.named_modules()} - {""}


def test_a_destroyed_scale_costs_answers(lm: Case, quantised_lm: Path, tmp_path: Path) -> None:
    names = {tensor.name for tensor in onnx.load(str(quantised_lm)).graph.initializer}
    head = "model.head.weight" if "model.head.weight_scale" in names else "model.embed.tokens.weight"
    rescaled(quantised_lm, tmp_path / "broken.onnx", head, 0.1)
    quality = lm.quality(tmp_path / "broken.onnx")
    assert quality.sqnr_db < 10
    assert quality.argmax_agreement is not None
    assert quality.argmax_agreement < 0.9


def test_a_regression_has_no_classes_to_agree_on(tmp_path: Path) -> None:
    case = make_case(REGRESSION, tmp_path)
    case.quantise(tmp_path / "int8.onnx", "dynamic")
    quality = case.quality(tmp_path / "int8.onnx")
    assert quality.argmax_agreement is None
    assert quality.sqnr_db > 15


LOGITS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def test_the_ratio_is_in_decibels() -> None:
    assert logits_sqnr([LOGITS], [LOGITS * 1.01]) == pytest.approx(40, abs=0.01)
    assert logits_sqnr([LOGITS, LOGITS], [LOGITS, LOGITS * 1.01]) == pytest.approx(40 + 10 * math.log10(2), abs=0.01)
    assert logits_sqnr([LOGITS], [LOGITS]) == math.inf


@pytest.mark.parametrize(
    ("expected", "outputs"),
    [
        ([], []),
        ([LOGITS], []),
        ([LOGITS[:0]], [LOGITS[:0]]),
        ([LOGITS], [LOGITS[:1]]),
        ([LOGITS[:, 0]], [LOGITS[:, :1]]),
        ([torch.full((4, 5), 3.0)], [torch.full((4, 5), 3.0)]),
        ([torch.zeros(4, 5)], [torch.zeros(4, 5)]),
        ([3 + 1e-7 * LOGITS], [3 + 1e-7 * LOGITS]),
        ([LOGITS], [LOGITS.clone().fill_diagonal_(math.nan)]),
        ([LOGITS], [LOGITS.clone().fill_diagonal_(math.inf)]),
        ([LOGITS.clone().fill_diagonal_(math.nan)], [LOGITS]),
        ([LOGITS.clone().fill_diagonal_(math.nan)], [LOGITS.clone().fill_diagonal_(math.nan)]),
    ],
    ids=[
        "no batch",
        "no output",
        "no rows",
        "fewer rows",
        "another axis",
        "constant",
        "zero",
        "constant up to rounding",
        "NaN",
        "infinite",
        "NaN in the model",
        "NaN in both",
    ],
)
def test_a_comparison_that_shows_nothing_fails(expected: list[Tensor], outputs: list[Tensor]) -> None:
    assert logits_sqnr(expected, outputs) == -math.inf


def test_no_batch_is_no_quality(lm: Case, quantised_lm: Path) -> None:
    assert measure_quality(lm.path, quantised_lm, [], lm.program.fields, []).sqnr_db == -math.inf


def test_without_agreement_where_nothing_was_shown(lm: Case, quantised_lm: Path) -> None:
    constant = [{"logits": torch.ones_like(logits)} for logits in lm.expected]
    quality = measure_quality(lm.path, quantised_lm, lm.batches, lm.program.fields, constant)
    assert (quality.sqnr_db, quality.argmax_agreement) == (-math.inf, 0.0)


def test_static_needs_batches(cnn: Case, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs a batch to calibrate on"):
        quantise(cnn.path, tmp_path / "int8.onnx", "static", [], cnn.program.fields)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"no model at all"])
def test_a_damaged_file_is_one_line(damage: Callable[[bytes], bytes], cnn: Case, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(damage(cnn.path.read_bytes()))
    with pytest.raises(ExportError) as raised:
        quantise(tmp_path / "broken.onnx", tmp_path / "int8.onnx", "dynamic", [], cnn.program.fields)
    assert "\n" not in str(raised.value)
    with pytest.raises(ExportError):
        measure_quality(
            cnn.path, tmp_path / "broken.onnx", cnn.batches, cnn.program.fields, [{"logits": logits} for logits in cnn.expected]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]


def test_nothing_is_left_behind_or_said(
    lm: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    before, handlers = sorted(lm.path.parent.iterdir()), list(logging.getLogger().handlers)
    for kind in ("dynamic", "static"):
        lm.quantise(tmp_path / f"{kind}.onnx", kind)
        lm.quality(tmp_path / f"{kind}.onnx")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger().isEnabledFor(logging.WARNING)
    assert sorted(lm.path.parent.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dynamic.onnx", "static.onnx"]
