"""Robustness leaves unusual models alone, and reads real rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planted_bugs.setups import Factory
from planted_bugs.tasks import CLASSES, FEATURES, TABLE, TEXT, VOCAB
from planted_bugs.tester import SEEDS, red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.parts import WIDTH
from planted_bugs.tier2.robustness import LIKE, MASKING, table
from torch import Tensor, nn

from harness.batches import Batch, Sizes, make_batch
from harness.tasks import TaskSpec

FAMILY = ("robustness",)


class Binned(nn.Module):
    """Half of the features as what is learnt for the bins they fall into."""

    def __init__(self) -> None:
        super().__init__()
        self.bins = nn.Embedding(8, WIDTH)
        self.head = nn.Linear(2 * WIDTH, CLASSES)
        self.rest = nn.Linear(FEATURES - 3, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        numbers = torch.bucketize(features[:, :3].contiguous(), torch.linspace(-1.5, 1.5, 7).to(features))
        return self.head(torch.cat((self.bins(numbers).mean(1), self.rest(features[:, 3:])), -1))


class Gated(nn.Module):
    """Reads the first token, and the others through a gate that starts at zero (Bachlechner et al. 2021, ReZero)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.gate = nn.Parameter(torch.zeros(()))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        real = attention_mask[..., None].to(x.dtype)
        return self.head(x[:, 0] + self.gate * (x * real).sum(1) / real.sum(1).clamp(min=1))


@pytest.mark.parametrize(("sound", "task"), [(Binned, TABLE), (Gated, TEXT)])
@pytest.mark.parametrize("seed", SEEDS)
def test_unusual_but_sound(sound: Factory, task: TaskSpec, seed: int) -> None:
    assert red(judge_all(study_of(sound, task, seed), FAMILY)) == {}


def test_real_rows_show_a_feature_of_another_scale() -> None:
    def income(task: TaskSpec, sizes: Sizes, seed: int) -> Batch:
        batch = make_batch(task, sizes, seed)
        return {**batch, "features": batch["features"] * torch.tensor([1, 1, 1, 1, 4e4, 1])}

    study = study_of(table(*LIKE), TABLE)
    study.subject = replace(study.subject, make=income)
    assert "hangs on feature 4" in judge_all(study, FAMILY)[MASKING].message
