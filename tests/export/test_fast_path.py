"""PyTorch's own encoder is exported as it computes without its fast path, whose nested tensors exporters do not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from planted_bugs.tier4.exports import make_exports
from torch import Tensor, nn

from harness.evidence import Status
from harness.export.checks import judge_export
from harness.tasks import TaskSpec, TaskType

TAGS = TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=31, max_seq_len=12, pad_token_id=0, num_classes=4)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        missing = input_ids.shape[1] - hidden.shape[1]  # the fast path cuts off what no row needs
        return self.head(nn.functional.pad(hidden, (0, 0, 0, missing)))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_trace_holds_no_nested_tensors(tmp_path: Path) -> None:
    exports = make_exports(Tagger(), tmp_path, "torchscript", task=TAGS)
    for check in ("exports", "numerical_consistency", "dynamic_axes"):
        evidence = judge_export(check, exports, "torchscript")
        assert evidence.status is Status.OK, evidence.explain()
    traced = torch.jit.load(str(exports.artifact("torchscript").path))
    assert "nested" not in str(traced.inlined_graph)
    assert torch.backends.mha.get_fastpath_enabled()
