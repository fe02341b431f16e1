"""Modules called inside ``torch.func.vmap`` are judged as any others are: what is noted there leaves the transform without its wrapper."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from harness.evidence import Status
from harness.properties.tracing import recording
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)
TEXT = TaskSpec(TaskType.CAUSAL_LM, vocab_size=20, max_seq_len=8)


class ByRow(nn.Module):
    """Calls a part once for all rows."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.part = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(vmap(self.part)(features * self.scale) / self.scale)


class Loud(ByRow):
    def __init__(self) -> None:
        super().__init__(1e6)


class Mixed(ByRow):
    """Reads the mean of the batch inside the transform."""

    def forward(self, features: Tensor) -> Tensor:
        return self.head(vmap(lambda row: self.part(row + features.mean(0)))(features))


class Attention(nn.Module):
    """Attends within a row."""

    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.qkv = nn.Linear(8, 24)

    def forward(self, row: Tensor) -> Tensor:
        q, k, v = self.qkv(row).chunk(3, -1)
        scores = q @ k.mT / 8**0.5
        if self.is_causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        return row + scores.softmax(-1) @ v


class Decoder(nn.Module):
    def __init__(self, is_causal: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.attention = Attention(is_causal)
        self.head = nn.Linear(8, 20)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(vmap(self.attention)(self.embed(input_ids)))


class Seeing(Decoder):
    def __init__(self) -> None:
        super().__init__(is_causal=False)


def test_what_is_recorded_in_a_transform_has_values_and_its_rows_first() -> None:
    linear = nn.Linear(4, 1)
    x = torch.randn(5, 4)
    with recording(linear) as calls:
        vmap(linear)(x)
        vmap(linear, in_dims=1)(x.T)
        vmap(grad(lambda row: linear(row).sum()))(x)
    for call in calls:
        assert torch.equal(call.inputs[0], x)
        assert torch.allclose(call.outputs[0], linear(x))


def test_a_sound_model_with_a_transform_is_green() -> None:
    found = judge_model(ByRow, TABLE, only=("initialisation", "batch_independence"), share=0.5)
    assert {name: e.explain() for name, e in found.items() if e.status in (Status.FAIL, Status.WARN)} == {}


def test_a_signal_that_is_too_large_is_found_inside_a_transform() -> None:
    evidence = judge_model(Loud, TABLE, only=("initialisation",), share=0.5)["initialisation[scale]"]
    assert evidence.status is Status.WARN
    assert evidence.module.startswith("part")


def test_rows_that_mix_inside_a_transform_are_found() -> None:
    found = judge_model(Mixed, TABLE, only=("batch_independence",), share=0.5)
    assert found["batch_independence[forward]"].status is Status.FAIL


def test_attention_inside_a_transform_is_judged() -> None:
    sound = judge_model(Decoder, TEXT, only=("attention_patterns",), tiers=(2,), share=0.5)
    broken = judge_model(Seeing, TEXT, only=("attention_patterns",), tiers=(2,), share=0.5)
    assert [e.explain() for e in sound.values() if e.status is Status.FAIL] == []
    assert broken["attention_patterns[causal]"].status is Status.FAIL
    assert broken["attention_patterns[causal]"].module == "attention"
