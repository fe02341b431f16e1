"""When a rerun is the same, close, or another."""

from __future__ import annotations

import json
import math

import pytest

from harness.evidence import Status
from harness.repro import ReproResult
from harness.repro.comparison import (
    Curve,
    MetricRecords,
    MetricRow,
    Tolerance,
    Verdict,
    compare_metrics,
    first_difference,
    is_timing,
)
from harness.repro.manifest import VARIABLES, env_snapshot, environment_changes


def logged(name: str, values: list[float], first: int = 1, spacing: int = 1) -> MetricRecords:
    steps: list[int | None] = [first + spacing * number for number in range(len(values))]
    return MetricRecords({name: values[-1]}, {name: Curve(steps, [None] * len(values), values)})


def verdict(name: str, then: float, now: float, tolerance: Tolerance | None) -> Verdict:
    """Of a metric with one value, at the end of a long training."""
    (row,) = compare_metrics(logged(name, [then], 500), logged(name, [now], 500), tolerance)
    return row.verdict


ELSEWHERE = Tolerance()


@pytest.mark.parametrize(
    ("name", "then", "now", "here", "elsewhere"),
    [
        ("val_loss", 0.5, 0.5, "same", "same"),
        ("val_loss", math.nan, math.nan, "same", "same"),
        ("val_loss", math.inf, math.inf, "same", "same"),
        ("val_loss", 0.5, math.nextafter(0.5, 1), "different", "close"),
        ("val_loss", 0.5, 0.502, "different", "close"),
        ("val_loss", 0.5, 0.504, "different", "different"),
        ("val_loss", 0.5, math.nan, "different", "different"),
        ("val_loss", math.inf, 0.5, "different", "different"),
        ("val_accuracy", 0.90, 0.92, "different", "close"),
        ("val_accuracy", 0.90, 0.94, "different", "different"),
        ("val_roc_auc", 0.90, 0.92, "different", "close"),
        ("val_calibration_error", 0.10, 0.12, "different", "close"),
        ("val_perplexity", math.exp(4), math.exp(4.01), "different", "close"),
        ("val_perplexity", math.exp(4), math.exp(4.1), "different", "different"),
        ("grad_norm", 0.10, 0.12, "different", "not judged"),
        ("examples_per_second", 10.0, 900.0, "not judged", "not judged"),
        ("seconds", 10.0, 900.0, "not judged", "not judged"),
    ],
)
def test_a_last_value(name: str, then: float, now: float, here: str, elsewhere: str) -> None:
    assert verdict(name, then, now, None).value == here
    assert verdict(name, then, now, ELSEWHERE).value == elsewhere


def test_another_start_is_another_run_though_it_ends_as_near() -> None:
    then = logged("train_loss", [4.0, 3.9, 0.5], 5, 5)
    same_start = logged("train_loss", [4.0, 3.90001, 0.501], 5, 5)
    another = logged("train_loss", [4.0, 3.91, 0.501], 5, 5)
    assert [row.verdict for row in compare_metrics(then, same_start, ELSEWHERE)] == [Verdict.CLOSE]
    assert [row.verdict for row in compare_metrics(then, another, ELSEWHERE)] == [Verdict.DIFFERENT]


def test_later_values_may_part_further_than_the_first() -> None:
    then, now = logged("val_loss", [4.0, 2.0, 0.5], 0, 50), logged("val_loss", [4.0, 2.008, 0.501], 0, 50)
    assert [row.verdict for row in compare_metrics(then, now, ELSEWHERE)] == [Verdict.CLOSE]


def test_bfloat16_has_a_rounding_of_the_largest_value_on_top() -> None:
    then, now = logged("val_loss", [4.8, 0.0143], 0, 200), logged("val_loss", [4.8, 0.0155], 0, 200)
    assert [row.verdict for row in compare_metrics(then, now, Tolerance.of({"precision": "bf16-mixed"}))] == [Verdict.CLOSE]
    assert [row.verdict for row in compare_metrics(then, now, Tolerance.of({"use_amp": True}))] == [Verdict.CLOSE]
    assert [row.verdict for row in compare_metrics(then, now, Tolerance.of({}))] == [Verdict.DIFFERENT]


def test_a_metric_of_one_side_alone() -> None:
    then, now = MetricRecords({"val_loss": 1.0, "seconds": 2.0}), MetricRecords({"val_f1": 1.0})
    found = {row.metric: row.verdict.value for row in compare_metrics(then, now, None)}
    assert found == {"val_loss": "missing", "seconds": "not judged", "val_f1": "not judged"}


def test_where_two_runs_part() -> None:
    then, now = logged("train_loss", [3.0, 2.0, 1.0]), logged("train_loss", [3.0, 2.5, 1.0])
    assert str(first_difference(then, now)) == "train_loss at step 2: 2.0 then, 2.5 now"
    assert first_difference(then, then) is None


def test_a_run_that_was_resumed_is_compared_from_where_it_was() -> None:
    resumed, whole = logged("train_loss", [2.0, 1.0], first=3), logged("train_loss", [4.0, 3.0, 2.0, 1.0])
    assert first_difference(resumed, whole) is None
    assert [row.verdict for row in compare_metrics(resumed, whole, None)] == [Verdict.SAME]


@pytest.mark.parametrize(
    "name",
    ["seconds", "epoch_seconds", "step_time", "throughput", "examples_per_second", "tokens/sec", "latency_ms", "peak_memory"],
)
def test_what_measures_the_machine(name: str) -> None:
    assert is_timing(name)


@pytest.mark.parametrize("name", ["val_loss", "timestep_loss", "bits_per_byte", "perplexity"])
def test_what_measures_the_model(name: str) -> None:
    assert not is_timing(name)


def test_metrics_come_back_to_the_last_bit() -> None:
    values = [0.1 + 0.2, 1e-320, math.nan, -math.inf, 5.0]
    stored = json.loads(json.dumps(logged("a", values).to_json(), allow_nan=False))
    found = MetricRecords.from_json(stored)
    assert [value.hex() for value in found.history["a"].values] == [value.hex() for value in values]
    assert found.history["a"].steps == [1, 2, 3, 4, 5]


def test_numbers_of_a_summary() -> None:
    results = {"eval_summary": {"loss": 1, "by_class": {"a": 0.5}, "name": "x", "none": None, "rows": [1, 2]}}
    assert MetricRecords.of_results(results).last == {"loss": 1.0, "by_class.a": 0.5}
    assert MetricRecords.of_results({}).last == {}


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ("same", Status.OK),
        ("same,not judged", Status.OK),
        ("same,close", Status.WARN),
        ("same,close,different", Status.FAIL),
        ("same,missing", Status.FAIL),
        ("not judged", Status.FAIL),
        ("", Status.FAIL),
    ],
)
def test_the_status_is_that_of_the_worst_metric(verdicts: str, status: Status, tmp_path: object) -> None:
    rows = tuple(MetricRow(f"m{n}", 1.0, 1.0, Verdict(found)) for n, found in enumerate(verdicts.split(",")) if found)
    result = ReproResult("run 1 (x)", rows=rows, folder=tmp_path)  # type: ignore[arg-type]
    assert result.status is status
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["status"] == status.value


# The environment


def test_the_same_environment_has_no_changes() -> None:
    snapshot = env_snapshot()
    assert environment_changes(json.loads(json.dumps(snapshot)), env_snapshot(), snapshot["packages"]) == ()


def test_what_changes_numbers_is_listed_and_nothing_else() -> None:
    then, now = env_snapshot(), env_snapshot()
    now["torch"]["version"], now["packages"]["numpy"], now["packages"]["pytest"] = "0.1", "0.2", "0.3"
    now["git"]["commit"], now["platform"]["release"], now["cpu"]["count"] = "another", "another", 1000
    now["gpus"] = [{"name": "GPU A", "bytes": 1}, {"name": "GPU B", "bytes": 1}]
    now["variables"]["OMP_NUM_THREADS"] = "77"
    found = {change.name: change.now for change in environment_changes(then, now, ["numpy"])}
    assert found == {
        "torch.version": "0.1",
        "packages.numpy": "0.2",
        "gpus": "GPU A, GPU B",
        "variables.OMP_NUM_THREADS": "77",
    }


def test_what_was_not_noted_counts_as_another() -> None:
    assert {"python.version", "variables", "packages.numpy"} <= {
        change.name for change in environment_changes({}, env_snapshot(), ["numpy"])
    }


def test_a_snapshot_holds_no_secret_and_nothing_of_the_machine_s_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    snapshot = env_snapshot()
    assert "hunter2" not in json.dumps(snapshot, allow_nan=False)
    assert snapshot["variables"]["OMP_NUM_THREADS"] == "3"
    assert {*snapshot["variables"]} <= {*VARIABLES}
