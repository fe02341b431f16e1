"""Every example runs, is green, and says so; the report of the digits example is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
CONFIGS = sorted(
    p.relative_to(EXAMPLES)
    for p in EXAMPLES.rglob("*")
    if p.suffix in (".json", ".toml") and "exports" not in p.parts and p.stem != "lm_tiny_monitoring"
)


def run(config: Path, report: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--model-config",
        str(config),
        "--model-report",
        str(report),
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.as_posix())
def test_example_is_green(config: Path, tmp_path: Path) -> None:
    done = run(EXAMPLES / config, tmp_path)
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "health_report.json").read_text())
    assert report["summary"]["failed"] == report["summary"]["warnings"] == 0
    assert report["summary"]["total"] >= 20
    assert report["coverage"] == ""


def test_digits_example_judges_real_images_in_two_processes(tmp_path: Path) -> None:
    done = run(EXAMPLES / "digits" / "modeltiers.json", tmp_path, "-n", "2")
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "health_report.json").read_text())
    assert report["model_name"] == "digits"
    assert report["model_facts"]["model"] == "model.py:build_model"
    assert [layer["name"] for layer in report["layers"]][-1] == "head.bias"
    page = (tmp_path / "health_report.html").read_text()
    assert "digits" in page
    assert "<svg" in page


def test_monitoring_example_gives_the_documented_object() -> None:
    command = [sys.executable, "-m", "harness", "tiers", "--config", "examples/lm_tiny_monitoring.json", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["status"] == answer["tiers"]["5"]["status"] == "ok"
    assert answer["eval_metrics"]["loss"] == pytest.approx(4.9, abs=0.2)
    assert answer["comparison"] is None
    assert answer["drift"] is None
    assert not (ROOT / "examples" / "experiments.db").exists()
