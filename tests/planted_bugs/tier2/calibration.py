"""Trained classifiers whose confidence is wrong, and their twins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.analysis import Study
from harness.data.loader import make_loader
from harness.evidence import Status
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType

from ..register import PlantedBug, register
from ..tasks import CLASSES, FEATURES, TABLE
from .analysed import Analysed

TOLERANT = replace(TABLE, tolerances={"calibration": 0.3})
STRICT = replace(TABLE, tolerances={"calibration": 0.02})
TAGS = TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=23, max_seq_len=8, pad_token_id=0, num_classes=CLASSES)


class Scores(nn.Module):
    """Linear scores, which are those that the labels are drawn from but for a temperature."""

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)
        with seeded(1), torch.no_grad():
            self.head.weight.normal_()
            self.head.bias.zero_()  # the rows are drawn from another instance
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features) / self.temperature


class Tagger(nn.Module):
    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.scores = nn.Embedding(23, CLASSES)
        with seeded(1), torch.no_grad():
            self.scores.weight.normal_(std=1.5)
        self.temperature = temperature

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.scores(input_ids) / self.temperature


class Drawn:
    """Rows whose labels are drawn as likely as a model at temperature 1 says.

    Args:
        model: Says how likely.
        task: What the rows are for.
        count: How many.
        seed: Of the rows and their labels.
    """

    def __init__(self, model: nn.Module, task: TaskSpec, count: int, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        if task.is_text:
            ids = torch.randint(1, 23, (count, 8), generator=rng)
            self.fields = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        else:
            self.fields = {"features": torch.randn(count, FEATURES, generator=rng)}
        with torch.no_grad():
            likely = model(**self.fields).softmax(-1)
        labels = torch.multinomial(likely.flatten(0, -2), 1, generator=rng).view(likely.shape[:-1])
        self.fields["labels"] = labels

    def __len__(self) -> int:
        return len(self.fields["labels"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: values[row] for name, values in self.fields.items()}


@dataclass(frozen=True)
class Trained(Analysed):
    """A model that counts as trained, with rows whose labels are drawn as likely as its twin says.

    Attributes:
        count: How many rows.
        draw: The seed of the rows.
    """

    count: int = 600
    draw: int = 0

    def study(self) -> Study:
        study = super().study()
        study.subject = replace(study.subject, fresh_weights=False)
        source = Tagger() if self.task.is_text else Scores()
        rows: Any = Drawn(source, self.task, self.count, self.draw)
        study.labelled = make_loader(rows, self.task, 64)
        return study


def _plant(name: str, task: TaskSpec, temperature: float, code: str, sound: type[nn.Module] = Scores) -> None:
    register(
        PlantedBug(
            name,
            "calibration",
            Trained(task, partial(sound, temperature), count=1500),
            Trained(task, sound),
            code=code,
            status=Status.WARN,
        )
    )


_plant("sharpened", TABLE, 0.2, "overconfident")
_plant("flattened", TABLE, 20.0, "underconfident")
_plant("sharpened_tags", TAGS, 0.2, "overconfident", Tagger)
_plant("beyond_the_tolerance", STRICT, 0.6, "overconfident")
