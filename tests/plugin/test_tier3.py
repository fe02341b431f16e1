"""Tier 3 as tests: selection, the user's own loss and training step, what cannot be trained, and the user's own tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from projects import Project, load_tiers
from small_models import GOOD, output

load_tiers(3)

SUMMING = """\
import torch.nn.functional as F
from harness.adapters import Adapter

class Summing(Adapter):
    def loss(self, logits, batch):
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
"""

LIGHTNING = """\
import lightning
import torch
from torch import nn
from torch.nn import functional as F

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.GELU())
        self.head = nn.Linear(32, 3)

    def forward(self, features):
        return self.head(self.body(features))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["features"]), batch["labels"])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

build_model = Module
"""

RAISES = GOOD.replace("        x = self.embed", "        assert not self.training, 'no training here'\n        x = self.embed")
NOT_A_NUMBER = GOOD.replace("return self.head(x + self.before(x))", "return self.head(x + self.before(x)) * float('nan')")


@pytest.fixture
def config(project: Project) -> Path:
    return project.config(only=None, tier="3", learning_rate=1e-2, max_seq_len=12)


def test_cases_are_parameters(project: Project, config: Path) -> None:
    ids = project.ids("--model-config", config)
    assert "cfg.json::TestTier3::test_training_loss[targets]" in ids
    assert "cfg.json::TestTier3::test_training_loss[ignored_labels]" in ids
    assert "cfg.json::TestTier3::test_overfits_one_batch" in ids


def test_what_makes_no_sense_is_not_generated(project: Project) -> None:
    keys = {"task_name": None, "task_type": "tabular_regression", "num_features": 5, "vocab_size": None, "max_seq_len": None}
    ids = project.ids("--model-config", project.config(only=None, tier="3", model=None, **keys))
    assert "cfg.json::TestTier3::test_training_loss[targets]" in ids
    assert not any("initial_loss" in name or "ignored_labels" in name for name in ids)


def test_a_sound_model_is_green_and_says_what_was_found(project: Project, config: Path) -> None:
    own = "initial_loss or overfits_one_batch or step_updates or optimizer_coverage or training_loss or accumulation"
    result = project.run("--model-config", config, "-m", "tier3", "-k", own, "--model-report", "out")
    assert result.parseoutcomes().keys() == {"passed", "skipped", "deselected"}
    checks = {check["check_name"]: check for check in project.json("out/health_report.json")["checks"]}
    assert "overfits" in checks["tier3::overfits_one_batch"]["message"]
    assert checks["tier3::overfits_one_batch"]["details"]["facts"]["losses"][0] > 3
    assert checks["tier3::training_loss[reduction]"]["status"] == "passed"


def test_the_users_own_loss_is_what_is_judged(project: Project) -> None:
    project.write("loss.py", SUMMING)
    config = project.config(only=None, tier="3", adapter="loss.py:Summing", max_seq_len=12)
    result = project.run("--model-config", config, "-k", "reduction or initial_loss or accumulation")
    result.assert_outcomes(failed=1, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "*`Summing.loss` is not averaged over the labels: with each row in the batch twice, the loss doubles*",
            "*reduction=*sum*",
        ]
    )


def test_a_finding_is_made_by_itself_where_its_owner_does_not_run(project: Project) -> None:
    project.write("loss.py", SUMMING)
    config = project.config(only=None, tier="3", adapter="loss.py:Summing", max_seq_len=12)
    result = project.run("--model-config", config, "-k", "initial_loss")
    result.assert_outcomes(failed=1)
    assert "it is the sum over the labels" in output(result)


@pytest.mark.parametrize(("model", "says"), [(RAISES, "no training here"), (NOT_A_NUMBER, "became NaN or infinite at step 1")])
def test_what_cannot_be_trained_is_said_once(project: Project, model: str, says: str) -> None:
    config = project.config(only=None, tier="3", model=model)
    chosen = "overfits_one_batch or step_updates or optimizer_coverage or training_loss"
    result = project.run("--model-config", config, "-k", chosen, "-rs")
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"failed", "skipped", "deselected"}
    assert outcomes["failed"] == 1
    assert says in output(result)
    assert "(see overfits_one_batch)" in output(result)


def test_a_lightning_module_is_trained_by_its_own_step(project: Project) -> None:
    keys = {"task_name": None, "task_type": "tabular_classification", "num_features": 6, "num_classes": 3}
    keys |= {"only": ("optimizer_coverage", "overfits_one_batch"), "tier": "3", "vocab_size": None, "max_seq_len": None}
    forgets = LIGHTNING.replace("self.parameters(), lr", "self.head.parameters(), lr")
    configs = [project.config("forgets.json", model=forgets, **keys), project.config("sound.json", model=LIGHTNING, **keys)]
    result = project.run_apart(*(word for config in configs for word in ("--model-config", str(config))))
    result.assert_outcomes(failed=1, passed=3)
    result.stdout.fnmatch_lines(["*`body.0.weight` (and 1 other parameter) has a gradient and is in no optimizer*"])


@pytest.mark.long
def test_two_processes_find_the_same(project: Project, config: Path) -> None:
    result = project.run_apart("--model-config", str(config), "-n", "2", "-k", "targets or step_updates or overfits_one_batch")
    result.assert_outcomes(passed=3)


def test_own_tests_train(project: Project, config: Path) -> None:
    project.write("conftest.py", TRAINING_CONFIG)
    project.write(
        "test_own.py",
        """
def test_own(trial, batch):
    assert trial.config.learning_rate == 0.05
    losses = trial.train([batch] * 20).losses
    assert losses[-1] < losses[0] / 2
""",
    )
    result = project.run("--model-config", config, "test_own.py", "-k", "test_own")
    result.assert_outcomes(passed=1)


TRAINING_CONFIG = """
import pytest

@pytest.fixture(scope="class")
def training_config(training_config):
    return training_config.model_copy(update={"learning_rate": 0.05})
"""


def test_the_json_of_the_command_line(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.cli import main

    config = project.config(only=("initial_loss", "step_updates"), tier="3")
    assert main(["tiers", "--config", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "ok"
    assert {name: test["status"] for name, test in found["tiers"]["3"]["tests"].items()} == {
        "initial_loss": "ok",
        "step_updates": "ok",
    }
