"""Metrics: what is kept, what is refused, and which run is best."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.experiments import ExperimentDB, ExperimentError

NAN, INFINITY = math.nan, math.inf


def test_columns_come_back_in_the_order_and_with_the_numbers_logged(db: ExperimentDB) -> None:
    with db.start_run() as run:
        run.log_metrics({"loss": 0.1, "accuracy": 1}, step=0, epoch=0.5)
        run.log_metrics({"loss": 1 / 3}, step=np.int64(2**62))
        run.log_metric("loss", np.float32(0.1))
    columns = db.get_metrics(run)
    assert columns.name == ["loss", "accuracy", "loss", "loss"]
    assert columns.step == [0, 0, 2**62, None]
    assert columns.epoch == [0.5, 0.5, None, None]
    assert columns.value.tolist() == [0.1, 1.0, 1 / 3, float(np.float32(0.1))]
    assert (np.diff(columns.time) >= 0).all()
    assert db.get_metrics(run, "accuracy").value.tolist() == [1.0]
    assert len(db.get_metrics(run, "nothing")) == 0
    assert db.get_metrics(run, "nothing").value.dtype == np.float64


def test_what_is_not_finite_is_kept(db: ExperimentDB) -> None:
    values = [NAN, INFINITY, -INFINITY, 5e-324, -1.7976931348623157e308]
    with db.start_run() as run:
        for value in values:
            run.log_metric("loss", value)
    np.testing.assert_array_equal(db.get_metrics(run).value, values)


def test_tensors_of_one_number_are_numbers(db: ExperimentDB) -> None:
    import torch

    with db.start_run() as run:
        run.log_metrics({"loss": torch.tensor(0.5, requires_grad=True), "half": torch.tensor([2.0], dtype=torch.bfloat16)})
        with pytest.raises(ExperimentError, match="metric 'loss': expected one number, got Tensor"):
            run.log_metric("loss", torch.zeros(3))
    assert db.get_metrics(run).value.tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("values", "step", "epoch", "words"),
    [
        ({"loss": "low"}, 0, None, "metric 'loss': expected one number, got str 'low'"),
        ({"loss": None}, 0, None, "expected one number, got NoneType"),
        ({"": 1.0}, 0, None, "a metric's name is printable text"),
        ({"a\x00b": 1.0}, 0, None, "a metric's name is printable text"),
        ({3: 1.0}, 0, None, "a metric's name is printable text"),
        ({"loss": 1.0}, 0.5, None, "a step is a whole number, not float 0.5"),
        ({"loss": 1.0}, 2**63, None, "a step has at most 64 bits"),
        ({"loss": 1.0}, 0, NAN, "an epoch is a finite number"),
    ],
)
def test_what_is_no_metric_is_refused_whole(
    db: ExperimentDB, values: dict[str, object], step: int, epoch: float | None, words: str
) -> None:
    with db.start_run() as run:
        with pytest.raises(ExperimentError, match=words):
            run.log_metrics({"before": 1.0, **values}, step=step, epoch=epoch)
        run.log_metric("after", 1.0)
    assert db.get_metrics(run).name == ["after"]


def logged(db: ExperimentDB, *values: float, task: str = "", end: str = "finish") -> int:
    run = db.start_run(task_spec={"task_name": task})
    for value in values:
        run.log_metric("loss", value)
    run.finish() if end == "finish" else run.fail("no")
    return run.id


def test_the_best_run_is_judged_by_its_last_value(db: ExperimentDB) -> None:
    assert db.get_best_run("loss") is None
    logged(db, 0.1, 0.9)
    middle = logged(db, 5.0, 0.5)
    logged(db, 0.5)
    highest = logged(db, 2.0)
    assert db.get_best_run("loss").id == middle
    assert db.get_best_run("loss", mode="max").id == highest
    assert db.get_best_run("los") is None
    with pytest.raises(ExperimentError, match="mode is 'min' or 'max', not 'smallest'"):
        db.get_best_run("loss", mode="smallest")  # type: ignore[arg-type]


def test_what_is_not_finite_or_not_finished_is_never_best(db: ExperimentDB) -> None:
    for value in (NAN, INFINITY, -INFINITY):
        logged(db, value)
    logged(db, 0.0, NAN)
    logged(db, -9.0, end="fail")
    logged(db, 9.0, end="fail")
    open_run = db.start_run()
    open_run.log_metric("loss", -10.0)
    open_run.flush()
    assert db.get_best_run("loss", "min") is None
    assert db.get_best_run("loss", "max") is None
    sound = logged(db, 1.0)
    assert db.get_best_run("loss", "min").id == db.get_best_run("loss", "max").id == sound
    open_run.finish()


def test_the_best_run_of_a_task(db: ExperimentDB) -> None:
    logged(db, 0.1, task="vision_tiny")
    text = logged(db, 0.2, task="lm_tiny")
    assert db.get_best_run("loss", task="lm_tiny").id == text
    assert db.get_best_run("loss", task="cls_tiny") is None


def test_last_values_by_run(db: ExperimentDB) -> None:
    first, second = logged(db, 0.3, 0.2), logged(db)
    assert db.get_last_metrics([second, first]) == [{}, {"loss": 0.2}]
    assert db.get_last_metrics([first], "accuracy") == [{}]
