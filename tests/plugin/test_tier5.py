"""Tier 5 as tests: selection, what needs a run to compare with, and the verdicts of the gate."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torchmetrics  # noqa: F401  # in-process runs forget what they import, and some of it loads once
from projects import Project, load_tiers

from harness.config import load_config
from harness.monitoring.profile_command import profile_config

load_tiers(5)

DATA = {"dataset_id": "lm_tiny_v1", "split": "validation", "max_eval_examples": 60}


def project_config(project: Project, **keys: Any) -> Path:
    return project.config(only=None, model=None, vocab_size=101, eval=DATA, tier="5", **keys)


def test_ids(project: Project) -> None:
    assert [name.partition("TestTier5::")[2] for name in project.ids("--model-config", project_config(project))] == [
        "test_evaluation",
        "test_baseline_regression",
        "test_drift[inputs]",
        "test_drift[outputs]",
        "test_drift[scores]",
    ]


def test_a_config_that_names_nothing_to_monitor_has_no_such_tests(project: Project) -> None:
    config = project.config(only=None, model=None)
    content = json.loads(config.read_text())
    del content["tier"]
    config.write_text(json.dumps(content))
    assert not any("Tier5" in name for name in project.ids("--model-config", config))
    config.write_text(json.dumps({**content, "eval": DATA}))
    assert any("Tier5" in name for name in project.ids("--model-config", config))


def test_what_cannot_be_compared_is_skipped_and_says_how_it_could(project: Project) -> None:
    result = project.run("--model-config", project_config(project), "-m", "tier5", "-rs", "--model-report", "out")
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines(["*name a run with `baseline_run_id`*"])
    result.stdout.fnmatch_lines(["*name one with `reference_profile_id`*"])
    result.stdout.fnmatch_lines(["  *loss *, *accuracy *"])
    (check,) = project.json("out/health_report.json")["checks"]
    assert check["details"]["facts"]["eval_metrics"]["loss"] > 4
    assert not (project.path / "experiments.db").exists()


def rows(longest: int) -> str:
    """600 texts of 2 tokens up to so many."""
    draw = random.Random(0)
    return "".join(f'{{"input_ids": {draw.choices(range(3, 100), k=draw.randint(2, longest))}}}\n' for _ in range(600))


def test_it_is_green_on_data_as_it_was_and_red_on_shorter_texts(project: Project) -> None:
    project.write("known.jsonl", rows(longest=14))
    project.write("short.jsonl", rows(longest=6))
    configs = {
        name: project.config(
            f"{name}.json", only=None, tier="5", reference_profile_id="production", eval={"path": f"{name}.jsonl"}
        )
        for name in ("known", "short")
    }
    for config in configs.values():
        config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": 101, "model_file": None}))
    profile_config(load_config(configs["known"]), project.path / "experiments.db", name="production")
    project.run("--model-config", configs["known"], "-m", "tier5", "-k", "inputs").assert_outcomes(passed=1, deselected=4)
    result = project.run("--model-config", configs["short"], "-m", "tier5", "-k", "inputs", "--model-report", "out")
    result.assert_outcomes(failed=1, deselected=4)
    result.stdout.fnmatch_lines(["*`length` has drifted: *KS D = *"])
    assert "length" in (project.path / "out" / "health_report.html").read_text()


def test_too_few_rows_to_tell_are_a_warning_where_power_is_asked_for(project: Project) -> None:
    config = project_config(project, reference_profile_id="production", min_power=0.5)
    profile_config(load_config(config), project.path / "experiments.db", name="production")
    config.write_text(json.dumps({**json.loads(config.read_text()), "eval": {**DATA, "split": "train"}}))
    result = project.run("--model-config", config, "-k", "inputs")
    assert result.parseoutcomes()["warn"] == 1
    result.stdout.fnmatch_lines(["*cannot tell about * features*the reference is too small*"])


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"reference_profile_id": "nobody", "db_path": "gone.db"}, "gone.db: no such database"),
        ({"thresholds": {"accurac": 0.5}}, "no metric 'accurac'. Did you mean 'accuracy'"),
        ({"thresholds": {"loss": 0.5}}, "loss is 4.*, above the threshold 0.5 (95% interval *), on 60 rows of lm_tiny_v1"),
    ],
)
def test_what_is_wrong_is_one_red_line(project: Project, keys: dict[str, Any], says: str) -> None:
    result = project.run("--model-config", project_config(project, **keys), "-k", "evaluation or inputs")
    assert len([line for line in result.outlines if line.startswith("  FAIL")]) == 1
    result.stdout.fnmatch_lines([f"*{says}*"])
    assert "Traceback" not in "\n".join(result.outlines)


def test_data_that_is_not_there_is_said_once(project: Project) -> None:
    config = project_config(project)
    config.write_text(json.dumps({**json.loads(config.read_text()), "eval": {"path": "gone.jsonl"}}))
    result = project.run("--model-config", config)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no such file*gone.jsonl*"])
