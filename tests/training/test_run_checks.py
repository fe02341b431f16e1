"""What checks of whole runs need: another process with the same model, enough time, the head, and a test of signs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from planted_bugs.tier3.run_models import WIDTH, Net
from planted_bugs.tier3.runs import run_of
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.config import load_config
from harness.models.loading import model_source
from harness.properties.subject import Subject
from harness.training.checks.distributed import distributed
from harness.training.checks.fine_tuning import find_head, fine_tuning
from harness.training.checks.hyperparameter_sensitivity import hyperparameter_sensitivity
from harness.training.checks.resume import resume
from harness.training.checks.seeded_repeat import seeded_repeat
from harness.training.trial import Trial

pytestmark = pytest.mark.usefixtures("one_thread")


MODEL = """
import argparse
import torch
from torch import nn

args = argparse.ArgumentParser().parse_args()  # of a command line that is not the file's

class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        {attribute}

    def forward(self, features):
        return self.head(self.hidden(features).tanh())

def build_model():
    return Scores()
"""


def trial_of_file(folder: Path, attribute: str = "pass", sourced: bool = True) -> Trial:
    """A model of a user's file, with or without the config that it can be rebuilt from."""
    (folder / "model.py").write_text(MODEL.format(attribute=attribute))
    keys = {"task_type": "tabular_classification", "num_features": 6, "num_classes": 4, "model_file": "model.py"}
    (folder / "cfg.json").write_text(json.dumps(keys))
    config = load_config(folder / "cfg.json")
    source, task = model_source(config), config.task_spec()
    subject = Subject(source.build(), make_adapter(task), task, rebuild=source.build if sourced else None)
    return Trial(subject, config.training_config(), source=config if sourced else None)


def test_another_process_builds_the_model_of_a_config_where_it_cannot_be_pickled(tmp_path: Path) -> None:
    trial = trial_of_file(tmp_path, "self.activation = lambda x: x")
    shared, repeated = distributed(trial), seeded_repeat(trial)
    assert shared.status.value == "ok", shared.explain()
    assert repeated.status.value == "ok", repeated.explain()
    assert repeated.message.endswith("in this process and in another")


@pytest.mark.long
def test_another_process_unpickles_the_model_of_a_file(tmp_path: Path) -> None:
    evidence = seeded_repeat(trial_of_file(tmp_path, sourced=False))
    assert evidence.status.value == "ok"
    assert evidence.message.endswith("in this process and in another")


def test_a_model_that_no_process_can_be_given_is_skipped_with_the_reason(tmp_path: Path) -> None:
    evidence = distributed(trial_of_file(tmp_path, "self.activation = lambda x: x", sourced=False))
    assert evidence.status.value == "skipped"
    assert "cannot be pickled for another process" in evidence.message


def test_too_little_time_is_said(tmp_path: Path) -> None:
    trial = trial_of_file(tmp_path)
    trial.seconds = 2.0
    assert "too little time to start two processes" in distributed(trial).message
    assert "too little time to start another process" in seeded_repeat(trial).message
    trial.seconds = 1e-4
    assert "would take longer than the 0.0001 s" in hyperparameter_sensitivity(trial).message
    for check in (seeded_repeat, resume, distributed, fine_tuning):
        assert "`time_budget` leaves 0.0001 s" in check(trial).message


class Scaled(Net):
    """The root has parameters of its own, on the way to the logits and elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.scale = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * super().forward(features + self.shift)


class TwoHeads(Net):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(WIDTH, 4)

    def forward(self, features: Tensor) -> Tensor:
        x = self.body(features)
        return (self.head(x) + self.other(x)).softmax(-1).log()


@pytest.mark.parametrize(
    ("build", "modules", "parameters"),
    [
        (Net, {"head"}, {"head.weight", "head.bias"}),
        (Scaled, {"head"}, {"head.weight", "head.bias", "scale"}),
        (TwoHeads, {"head", "other"}, {"head.weight", "head.bias", "other.weight", "other.bias"}),
    ],
)
def test_the_head_is_what_lies_last_on_every_way_to_the_logits(
    build: Callable[[], nn.Module], modules: set[str], parameters: set[str], tmp_path: Path
) -> None:
    head = find_head(run_of(build).trial(tmp_path))
    assert head is not None
    assert set(head.modules) == modules
    assert head.parameters == parameters
