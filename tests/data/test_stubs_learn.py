"""The embedded models learn the built-in sets in seconds, to bounds that neither guessing nor counting words reaches."""

from __future__ import annotations

import math

import pytest
import torch
from small_data import preset_task
from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.config import EvalConfig
from harness.data.loader import make_loader
from harness.data.opening import open_dataset
from harness.models.stubs import build_stub
from harness.runtime import seeded
from harness.tasks import TaskSpec

pytestmark = pytest.mark.usefixtures("one_thread")


def validation_loss(model: nn.Module, adapter: Adapter, task: TaskSpec) -> float:
    model.eval()
    loader = make_loader(open_dataset(EvalConfig(split="validation"), task), task, 50)
    with torch.no_grad():
        losses = [float(adapter.loss(adapter.logits(model, batch), batch)) for batch in loader]
    model.train()
    return sum(losses) / len(losses)


def train(task: TaskSpec, steps: int, rate: float) -> tuple[float, float]:
    """Validation losses before and after a plain AdamW loop."""
    model, adapter = build_stub(task), make_adapter(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    loader = make_loader(open_dataset(EvalConfig(), task), task, batch_size=16, shuffle=True)
    start = validation_loss(model, adapter, task)
    for epoch in range(-(-steps // len(loader))):
        loader.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            adapter.loss(adapter.logits(model, batch), batch).backward()
            optimizer.step()
    return start, validation_loss(model, adapter, task)


@pytest.mark.parametrize(
    ("task", "steps", "rate", "bound"),
    [
        (preset_task("lm_tiny"), 50, 2e-3, 1.5),
        (preset_task("lm_tiny", vocab_size=101, max_seq_len=16, task_type="masked_lm"), 150, 3e-3, 2.0),
        (preset_task("cls_tiny"), 100, 3e-3, 0.3),
        (preset_task("seq2seq_tiny"), 150, 3e-3, 1.5),
        (preset_task("vision_tiny", image_size=(3, 16, 16)), 150, 5e-3, 1.0),
    ],
    ids=["causal_lm", "masked_lm", "sequence_classification", "seq2seq_lm", "image_classification"],
)
def test_the_stub_learns_its_set(task: TaskSpec, steps: int, rate: float, bound: float) -> None:
    with seeded(0):
        start, end = train(task, steps, rate)
    assert start == pytest.approx(math.log(task.output_size or 0), rel=0.25)
    assert end < bound
