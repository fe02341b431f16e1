"""Trained classifiers whose confidence is wrong, and their twins."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.analysis.study import Study, judge_analysis
from harness.data.loader import make_loader
from harness.evidence import Evidence, Status
from harness.randomness import seeded
from harness.tasks import TaskSpec, TaskType

from .pairs import CLASSES, FEATURES, TABLE, Factory, Pair, study_of

FAMILY = ("calibration",)

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


def trained(factory: Factory, task: TaskSpec, count: int = 600, seed: int = 0) -> Study:
    """A model with labelled rows, that counts as trained."""
    study = study_of(factory, task)
    study.subject = replace(study.subject, fresh_weights=False)
    source = Tagger() if task.is_text else Scores()
    rows: Any = Drawn(source, task, count, seed)
    study.labelled = make_loader(rows, task, 64)
    return study


def judge(study: Study) -> Evidence:
    return judge_analysis("calibration", study)


PAIRS: list[Pair] = [
    Pair("sharpened", TABLE, partial(Scores, 0.2), Scores, "calibration", "overconfident", status=Status.WARN),
    Pair("flattened", TABLE, partial(Scores, 20.0), Scores, "calibration", "underconfident", status=Status.WARN),
    Pair("sharpened_tags", TAGS, partial(Tagger, 0.2), Tagger, "calibration", "overconfident", status=Status.WARN),
    Pair("beyond_the_tolerance", STRICT, partial(Scores, 0.6), Scores, "calibration", "overconfident", status=Status.WARN),
]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_bug_is_found(pair: Pair) -> None:
    evidence = judge(trained(pair.buggy, pair.task, 1500))
    assert evidence.status is pair.status, evidence.explain()
    assert pair.says in evidence.message
    assert evidence.cause


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_twin_passes(pair: Pair, seed: int) -> None:
    evidence = judge(trained(pair.sound, pair.task, seed=seed))
    assert evidence.status is Status.OK, evidence.explain()


def test_a_tolerance_is_kept_to() -> None:
    assert judge(trained(partial(Scores, 0.5), TOLERANT)).status is Status.OK


@pytest.mark.parametrize("count", [40, 120])
def test_few_rows_raise_no_alarm(count: int) -> None:
    assert judge(trained(Scores, TABLE, count)).status in (Status.OK, Status.SKIPPED)


def test_fresh_weights_are_not_judged() -> None:
    study = trained(Scores, TABLE)
    study.subject = replace(study.subject, fresh_weights=True)
    assert "freshly initialised" in judge(study).message


def test_without_labels_there_is_nothing_to_judge() -> None:
    study = trained(Scores, TABLE)
    study.labelled = None
    assert judge(study).status is Status.SKIPPED


class Sure(nn.Module):
    """Always right.

    Args:
        scale: How sure it is of it.
    """

    def __init__(self, scale: float = 50.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.one_hot((features[:, 0] > 0).long(), CLASSES).float() + 0 * features[:, :1]


@pytest.mark.parametrize("scale", [3.0, 5.0, 50.0])
@pytest.mark.parametrize("count", [100, 1000])
def test_a_model_that_is_always_right_may_be_a_little_modest(scale: float, count: int) -> None:
    study = study_of(partial(Sure, scale), TABLE)
    study.subject = replace(study.subject, fresh_weights=False)
    rows: Any = Drawn(Sure(), TABLE, count)
    study.labelled = make_loader(rows, TABLE, 64)
    evidence = judge(study)
    assert evidence.status is Status.OK, evidence.explain()
