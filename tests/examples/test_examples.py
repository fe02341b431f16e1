"""Every example runs, is green, and says so; the report of the digits example is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
OTHERS = ("lm_tiny_monitoring.json", "digits/modeltiers.json")
"""Examples with their own test."""

LONG = (
    "lm_tiny.json",
    "lm_tiny_ddp.json",
    "lm_tiny_export.json",
    "lm_tiny_train.json",
    "vision_tiny.json",
    "huggingface/bert.toml",
    "huggingface/gpt2.json",
    "lightning/modeltiers.json",
)
"""Examples whose parts other tests run: the first one below, LightningModules in ``tests/plugin/test_tier3.py`` and among the planted bugs."""

CONFIGS = [
    pytest.param(path, marks=[pytest.mark.long] if path in LONG else [], id=path)
    for path in sorted(p.relative_to(EXAMPLES).as_posix() for p in EXAMPLES.rglob("*") if p.suffix in (".json", ".toml"))
    if path not in OTHERS and not path.startswith("exports/")
]


def run(config: str, report: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--model-config",
        str(EXAMPLES / config),
        "--model-report",
        str(report),
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)


def green(done: subprocess.CompletedProcess[str], folder: Path) -> dict[str, Any]:
    """The report of a run that found nothing."""
    assert done.returncode == 0, done.stdout
    report: dict[str, Any] = json.loads((folder / "health_report.json").read_text())
    assert report["summary"]["failed"] == report["summary"]["warnings"] == 0
    assert report["summary"]["total"] >= 20
    return report


@pytest.mark.parametrize("config", CONFIGS)
def test_example_is_green(config: str, tmp_path: Path) -> None:
    assert green(run(config, tmp_path), tmp_path)["coverage"] == ""


def test_the_first_example_is_green_in_all_that_needs_no_other_process(tmp_path: Path) -> None:
    """Exports and what starts or compiles something are most of the time, and the digits example has them too."""
    quick = "not (TestTier4 or compiled or distributed or seeded_repeat or baseline_comparison)"
    assert green(run("lm_tiny.json", tmp_path, "-k", quick), tmp_path)["summary"]["total"] >= 60


def test_digits_example_judges_real_images_in_two_processes(tmp_path: Path) -> None:
    report = green(run("digits/modeltiers.json", tmp_path, "-n", "2"), tmp_path)
    assert report["coverage"] == ""
    assert report["model_name"] == "digits"
    assert report["model_facts"]["model"] == "model.py:build_model"
    assert [layer["name"] for layer in report["layers"]][-1] == "head.bias"
    page = (tmp_path / "health_report.html").read_text()
    assert "digits" in page
    assert "<svg" in page


@pytest.mark.long
@pytest.mark.parametrize(
    "launcher", [(), ("-m", "torch.distributed.run", "--nproc_per_node=2")], ids=["started by us", "torchrun"]
)
def test_the_ddp_example_trains_in_two_processes(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    shutil.copy(EXAMPLES / "lm_tiny_ddp.json", tmp_path)
    command = [sys.executable, *launcher, "-m", "harness", "train", "--config", "lm_tiny_ddp.json", "--json", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert (answer["strategy"], answer["devices"]) == ("ddp", 2)
    assert answer["eval_summary"]["loss"] < answer["initial_eval"]["loss"]
    assert answer["steps"] == 10


def test_monitoring_example_gives_the_documented_object() -> None:
    command = [sys.executable, "-m", "harness", "tiers", "--config", "examples/lm_tiny_monitoring.json", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["status"] == answer["tiers"]["5"]["status"] == "ok"
    assert answer["eval_metrics"]["loss"] == pytest.approx(4.9, abs=0.2)
    assert answer["comparison"] is None
    assert answer["drift"] is None
    assert not (ROOT / "examples" / "experiments.db").exists()
