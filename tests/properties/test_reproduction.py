"""Scripts that show a failure without this package: of a broken model each fails, and of its correction it does not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from harness.adapters import make_adapter
from harness.evidence import Evidence
from harness.models.loading import source_of_file
from harness.properties.reproduction import Building, script_of
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType

TASK = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=9, max_seq_len=16, num_classes=4)

MODEL = """
import torch
from torch import nn

class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.extra, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.scale, self.calls = torch.ones(8), 0

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        x = x + self.extra(x)
        weights = attention_mask.unsqueeze(-1).to(x.dtype)
        x = (x * weights).sum(1) / weights.sum(1)
        return self.head(x * self.scale)
"""

LAST, METHOD = "self.head(x * self.scale)", "    def forward"
SWITCHED = "    def train(self, on=True):\n        self.scale = self.scale + on\n        return super().train(on)\n\n"


BUGS: list[tuple[str, dict[str, Any], str, str]] = [
    ("shape_contract", {"code": "wrong_shape"}, LAST, f"{LAST}.T"),
    ("shape_contract", {"code": "wrong_dtype"}, LAST, f"{LAST}.round().long()"),
    ("shape_contract", {"code": "raises"}, LAST, "self.head(x.T)"),
    ("eval_deterministic", {}, LAST, f"nn.functional.dropout({LAST})"),
    ("finite_output", {}, LAST, f"{LAST} / 0"),
    ("batch_independence", {}, LAST, "self.head(x - x.mean(0))"),
    ("padding_ignored", {}, "attention_mask.unsqueeze", "torch.ones_like(attention_mask).unsqueeze"),
    ("input_dependence", {}, "self.embed(input_ids)", "self.embed(0 * input_ids)"),
    ("gradient_flow", {"details": {"unreached": ["extra.weight"]}}, "self.extra(x)", "self.extra(x).detach()"),
    ("gradient_flow", {"code": "gradient_not_finite"}, LAST, f"{LAST} + (0 * x[:, :4]).sqrt()"),
    ("logit_range", {"says": "ends in a softmax"}, LAST, f"{LAST}.softmax(-1)"),
    ("logit_range", {}, LAST, f"{LAST}.relu()"),
    ("mode_round_trip", {}, METHOD, f"{SWITCHED}{METHOD}"),
    ("stateless", {}, f"return {LAST}", f"self.scale = self.scale + 1\n        return {LAST}"),
    ("rng_untouched", {}, LAST, f"{LAST} + 0 * torch.rand(())"),
    ("inputs_unchanged", {}, "self.embed(input_ids)", "self.embed(input_ids.fill_(1))"),
    ("memory_layout", {"code": "raises_on_layout"}, "self.embed(input_ids)", "self.embed(input_ids.view(-1)).view(*input_ids.shape, 8)"),
    ("dtype_move", {}, LAST, "self.head((x * self.scale).float())"),
    ("dtype_move", {"code": "raises"}, LAST, "self.head((x * self.scale).float())"),
    ("dtype_move", {}, LAST, f"{LAST} * (float('inf') if x.dtype is torch.float64 else 1)"),
    ("gradient_flow", {"code": "backward_raises"}, LAST, f"{LAST}.exp().mul_(2)"),
    ("initialisation", {}, LAST, "self.head(1e-9 * x * self.scale)"),
    ("input_dependence", {}, "self.embed(input_ids)", "self.embed(input_ids * (torch.arange(input_ids.shape[1]) != 1))"),
    ("finite_output", {"at": "content=first_id"}, LAST, f"{LAST} / input_ids.sum()"),
    ("serialisation", {}, "torch.ones(8)", "torch.rand(8)"),
]  # fmt: skip
"""The property, its finding, and the code without the bug and with it."""


@pytest.mark.parametrize(("name", "facts", "right", "wrong"), BUGS, ids=[f"{bug[0]}-{at}" for at, bug in enumerate(BUGS)])
def test_a_script_fails_with_the_bug_and_passes_without(
    name: str, facts: dict[str, Any], right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "pooled.py"
    file.write_text(MODEL.replace(right, wrong))
    source = source_of_file(file, "model_file", "Pooled")
    building = Building.of(source)
    assert building is not None
    told = {key: facts[key] for key in ("code", "details") if key in facts}
    evidence = Evidence.failed(name, facts.get("says", "it fails"), counterexample=facts.get("at", ""), **told)
    subject = Subject(source.build(0), make_adapter(TASK), TASK)

    text = script_of(evidence, subject, {"dtype": "float64"}, building)

    assert text
    assert len(text.splitlines()) < 20
    (tmp_path / "corrected.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    exec(text.replace("from pooled ", "from corrected "), {})
    monkeypatch.delitem(sys.modules, "corrected")
