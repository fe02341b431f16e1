"""Tier 2 as tests: selection, what is left to other tests, and the user's own tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import Project, load_tiers
from small_models import GOOD, output

load_tiers(2)

CUT = """\
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.skip, self.side, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, features):
        x = self.skip(features)
        with torch.no_grad():
            skipped = 1.0 * x
        return self.head(skipped + self.side(x).tanh())

build_model = Model
"""

TABLE = {"task_name": None, "task_type": "tabular_classification", "num_features": 6, "num_classes": 3}
NO_TEXT = {"vocab_size": None, "max_seq_len": None}


@pytest.fixture
def config(project: Project) -> Path:
    return project.config(only=None, tier="2")


def test_cases_are_parameters(project: Project, config: Path) -> None:
    ids = project.ids("--model-config", config)
    assert "cfg.json::TestTier2::test_attention_patterns[causal]" in ids
    assert "cfg.json::TestTier2::test_robustness[noise]" in ids
    assert "cfg.json::TestTier2::test_attribution" in ids


def test_what_makes_no_sense_is_not_generated(project: Project) -> None:
    ids = project.ids("--model-config", project.config(only=None, tier="2", model=None, **TABLE, **NO_TEXT))
    assert "cfg.json::TestTier2::test_robustness[masking]" in ids
    assert not any("[causal]" in name or "adversarial" in name for name in ids)


def test_a_sound_model_is_green_and_says_what_was_found(project: Project, config: Path) -> None:
    own = "attention_patterns or attribution or robustness"
    result = project.run("--model-config", config, "-m", "tier2", "-k", own, "--model-report", "out")
    outcomes = result.parseoutcomes()
    assert "failed" not in outcomes
    assert "warnings" not in outcomes
    checks = {check["check_name"]: check for check in project.json("out/health_report.json")["checks"]}
    assert "the gradients match the output" in checks["tier2::attribution"]["message"]
    assert len(checks["tier2::attribution"]["details"]["facts"]["shares"]["input_ids"]) > 1


def test_a_finding_is_made_by_itself_where_its_owner_does_not_run(project: Project) -> None:
    config = project.config(only=None, tier="2", model=CUT, **TABLE, **NO_TEXT)
    count = len(project.ids("--model-config", config))
    both = project.run("--model-config", config, "-k", "attribution or gradcheck", "-rs")
    both.assert_outcomes(failed=1, skipped=1, deselected=count - 2)
    assert "(see gradcheck)" in output(both)
    alone = project.run("--model-config", config, "-k", "attribution")
    alone.assert_outcomes(failed=1, deselected=count - 1)
    assert "the gradients at the input do not add up to the change of the output" in output(alone)


def test_a_model_in_trouble_is_left_to_tier_1(project: Project) -> None:
    model = GOOD.replace("return self.head(x + self.before(x))", "return self.head(x + self.before(x)) / 0")
    config = project.config(only=("attribution", "robustness", "finite_output"), tier=["1", "2"], model=model)
    whole = project.run("--model-config", config, "-rs", "-k", "attribution or robustness or typical")
    whole.assert_outcomes(failed=1, skipped=4, deselected=2)
    assert "(see finite_output[typical])" in output(whole)
    alone = project.run("--model-config", config, "-m", "tier2")
    alone.assert_outcomes(failed=1, skipped=3, deselected=3)
    assert "logits are not finite at batch=3, seq=11, seed=0 (see finite_output[typical])" in output(alone)
    assert "counterexample: batch=1, seq=1" in output(alone)


def test_own_tests_look_into_the_model(project: Project, config: Path) -> None:
    project.write("test_own.py", "def test_own(study):\n    assert study.labelled is None\n    assert study.seconds > 1\n")
    result = project.run("--model-config", config, "test_own.py", "-k", "test_own")
    result.assert_outcomes(passed=1, deselected=len(project.ids("--model-config", config)))
