"""How many rows a window needs: what is told is right by simulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monitored import rows, write
from numpy.typing import NDArray

from harness.cli import main
from harness.config import load_config
from harness.errors import ConfigError
from harness.evidence import Status
from harness.monitoring.drift import compare_profiles
from harness.monitoring.drift.verdict import Verdict
from harness.monitoring.power import power_config, rows_to_fail, rows_to_fail_a_loss, rows_to_miss
from harness.monitoring.profile_command import profile_config
from harness.monitoring.profiles import profile_columns
from harness.monitoring.thresholds import wilson_interval
from harness.monitoring.verdict import accuracy_with_labels

Array = NDArray[np.float64]
TIMES = 150
NEAR = 0.08
"""Two and a half standard errors of a power of 0.8 in so many windows."""


def drifted(rng: np.random.Generator, n: int, distance: float) -> Array:
    """A normal sample of which values moved across 0, the hardest drift of a distance."""
    values = rng.normal(size=n)
    return np.where(rng.random(n) < 2 * distance, -np.abs(values), values)


def verdicts(m: int, n: int, distance: float, times: int) -> list[Verdict]:
    rng = np.random.default_rng(n)
    found = []
    for _ in range(times):
        reference = profile_columns({"x": rng.normal(size=m)})
        report = compare_profiles(reference, profile_columns({"x": drifted(rng, n, distance)}, reference))
        found.append(next(one for one in report["x"].verdicts if one.difference.aspect == "values"))
    return found


def brackets(power_at: Callable[[int], float], rows_told: int | None) -> bool:
    """Whether a power of 0.8 lies between a tenth fewer rows and a tenth more."""
    assert rows_told is not None
    return power_at(round(0.9 * rows_told)) <= 0.8 + NEAR and power_at(round(1.1 * rows_told)) >= 0.8 - NEAR


def test_drift_at_the_floor_is_significant_in_four_of_five_windows_of_the_size_told() -> None:
    told = verdicts(2000, 50, 0.1, 1)[0].needed
    assert brackets(lambda n: float(np.mean([one.is_significant for one in verdicts(2000, n, 0.1, TIMES)])), told)


def test_twice_the_floor_fails_in_four_of_five_windows_of_the_size_told() -> None:
    told = rows_to_fail(verdicts(2000, 50, 0.2, 1)[0], 0.2, 0.1)
    assert brackets(lambda n: float(np.mean([one.status is Status.FAIL for one in verdicts(2000, n, 0.2, TIMES)])), told)


@pytest.mark.parametrize(
    ("before", "m", "loss", "margin"), [(0.9, 2000, 0.1, 0.05), (0.95, 1000, 0.04, 0.01), (0.7, 5000, 0.1, 0.05)]
)
def test_a_loss_fails_in_four_of_five_windows_of_the_size_told(before: float, m: int, loss: float, margin: float) -> None:
    rng = np.random.default_rng(0)

    def power_at(n: int) -> float:
        pairs = zip(rng.binomial(m, before, 4000), rng.binomial(n, before - loss, 4000), strict=True)
        return float(np.mean([accuracy_with_labels(int(p), m, int(q), n).loss_interval[0] > margin for p, q in pairs]))

    assert brackets(power_at, rows_to_fail_a_loss(before, m, loss, margin))
    assert rows_to_fail_a_loss(0.9, 50, 0.06, 0.05) is None


@pytest.mark.parametrize(("limit", "points"), [(0.85, 0.05), (0.95, 0.02), (0.6, 0.1)])
def test_a_threshold_is_missed_in_four_of_five_windows_of_the_size_told(limit: float, points: float) -> None:
    rng = np.random.default_rng(0)

    def power_at(n: int) -> float:
        return float(np.mean([wilson_interval(q / n, n)[1] < limit for q in rng.binomial(n, limit - points, 4000)]))

    assert brackets(power_at, rows_to_miss(limit, limit - points))


def test_the_command_plans_without_a_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "eval.csv", *rows(500, 2))
    (tmp_path / "model.py").write_text(
        "from torch import nn\n\ndef build_model():\n    return nn.Linear(3, 2)\n", encoding="utf-8"
    )
    keys = {"task_name": "shop", "task_type": "tabular_classification", "num_features": 3, "num_classes": 2}
    config = tmp_path / "plan.json"
    content = {**keys, "model_file": "model.py", "eval": {"path": "eval.csv"}, "db_path": "runs.db"}
    config.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match="nothing to plan for"):
        power_config(load_config(config))
    profile_config(load_config(config), tmp_path / "runs.db", name="production")
    planned = {**content, "reference_profile_id": "production", "thresholds": {"accuracy": 0.9}}
    config.write_text(json.dumps(planned), encoding="utf-8")
    (tmp_path / "eval.csv").unlink()
    assert main(["power", "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rows with which a window finds it, in 80% of windows:"
    assert any(line.split()[:2] == ["drift", "age:"] and "significant" in line for line in lines)
    assert any("accuracy of 85.0% below the threshold 0.9" in line for line in lines)
    assert main(["power", "--config", str(config), "--json"]) == 0
    needs = json.loads(capsys.readouterr().out)["needs"]
    assert {need["check"] for need in needs} == {"drift", "evaluation"}
    assert all(need["power"] == 0.8 for need in needs)
