"""An artifact whose runtime does not survive an input ends its own process, not this one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from planted_bugs.tier4.exports import make_exports
from torch import Tensor, nn

from harness.evidence import Status
from harness.export.checks import judge_export
from harness.export.clean_process import Answer, ExportedFile
from harness.export.exports import Exports
from harness.export.formats.onnx import ONNXExporter
from harness.tasks import TaskSpec, TaskType

TAGS = TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=31, max_seq_len=12, pad_token_id=0, num_classes=4)


class Tagger(nn.Module):
    """Its LSTM is given the lengths of its rows; ONNX Runtime's kernel does not look whether there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        lengths = attention_mask.sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(input_ids), lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=input_ids.shape[1])
        return self.head(states)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return make_exports(Tagger(), tmp_path_factory.mktemp("tagger"), "onnx", task=TAGS)


@pytest.fixture(scope="module")
def given(exports: Exports) -> list[Answer]:
    good = exports.batch(exports.points[0])
    negative = {**good, "input_ids": torch.full_like(good["input_ids"], -1)}
    none = {name: tensor[:0] for name, tensor in good.items()}
    found = ExportedFile(ONNXExporter, exports.artifact("onnx").path, exports.program.fields).answers(
        [good, negative, none, good]
    )
    if not found[2].is_fatal:
        pytest.skip(f"this ONNX Runtime survives an empty batch: {found[2]}")
    return found


def test_each_batch_has_its_answer_behind_a_fatal_one_too(exports: Exports, given: list[Answer]) -> None:
    good = exports.eager(exports.batch(exports.points[0]))["logits"]
    assert [answer.is_fatal for answer in given] == [False, False, True, False]
    for answer in (given[0], given[3]):
        assert answer.outputs is not None
        assert torch.allclose(answer.outputs["logits"], good, atol=1e-5)
    assert given[1].outputs is None
    assert "out of data bounds" in given[1].refusal.lower() or "indices" in given[1].refusal.lower()
    assert "was killed by SIG" in given[2].refusal


def test_it_is_a_warning_with_the_input_that_does_it(exports: Exports, given: list[Answer]) -> None:
    evidence = judge_export("invalid_input", exports, "onnx")
    assert evidence.status is Status.WARN
    assert "crashes on an empty batch in `input_ids`: was killed by SIG" in evidence.message


def test_a_file_that_cannot_be_loaded_refuses_every_batch(exports: Exports, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no file of ONNX")
    batch = exports.batch(exports.points[0])
    found = ExportedFile(ONNXExporter, path, exports.program.fields).answers([batch, batch])
    assert [answer.is_fatal for answer in found] == [True, True]
    assert "no answer" in found[0].refusal
