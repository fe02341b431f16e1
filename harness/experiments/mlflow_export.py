"""A run copied to MLflow."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import MissingPackageError
from harness.experiments.database import ExperimentDB
from harness.experiments.documents import flat
from harness.experiments.errors import ExperimentError
from harness.experiments.records import MetricColumns, RunRecord, RunRef

_STATUSES = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_METRICS_A_CALL, _PARAMS_A_CALL = 1000, 100  # MLflow refuses more
_LONGEST_PARAM, _LONGEST_TAG = 6000, 5000


def export_to_mlflow(db: ExperimentDB, run: RunRef, tracking_uri: str) -> str:
    """Copies a run to MLflow: configs as parameters, metrics with their history, facts as tags, artifacts that are still there.

    The experiment is the run's task. A metric without steps gets 0, 1, 2 …; characters that MLflow refuses in names become ``_``.

    Returns:
        The run's id in MLflow.

    Raises:
        MissingPackageError: MLflow is not installed.
        ExperimentError: There is no such run, or MLflow refuses it.
    """
    try:
        mlflow = importlib.import_module("mlflow")
    except ImportError:
        raise MissingPackageError(
            "the export to MLflow needs mlflow, not installed here: pip install 'pytest-modeltiers[mlflow]'"
        ) from None
    record = db.get_run(run)
    try:
        return _copy(mlflow, db, record, mlflow.MlflowClient(tracking_uri=tracking_uri))
    except (mlflow.exceptions.MlflowException, ImportError, OSError) as error:
        raise ExperimentError(f"MLflow at {tracking_uri}: {str(error).strip().splitlines()[0]}") from error


def _copy(mlflow: Any, db: ExperimentDB, record: RunRecord, client: Any) -> str:
    experiment = record.task or "modeltiers"
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    made = client.create_run(experiment_id, start_time=_milliseconds(record.created.timestamp()), run_name=record.name)
    run_id = str(made.info.run_id)
    entities = mlflow.entities
    params = [
        entities.Param(_name(key), str(value)[:_LONGEST_PARAM]) for key, value in flat(db.get_configs(record)).items() if key
    ]
    tags = [entities.RunTag(_name(key), str(value)[:_LONGEST_TAG]) for key, value in _tags(db, record).items()]
    metrics = [entities.Metric(*row) for row in _metrics(db.get_metrics(record))]
    for batch in _batches(params, _PARAMS_A_CALL):
        client.log_batch(run_id, params=batch)
    for batch in _batches(tags, _PARAMS_A_CALL):
        client.log_batch(run_id, tags=batch)
    for batch in _batches(metrics, _METRICS_A_CALL):
        client.log_batch(run_id, metrics=batch)
    for artifact in db.get_artifacts(record):
        if Path(artifact.path).exists():
            client.log_artifact(run_id, artifact.path)
    ended = None if record.finished is None else _milliseconds(record.finished.timestamp())
    client.set_terminated(run_id, _STATUSES[record.status], ended)
    return run_id


def _tags(db: ExperimentDB, record: RunRecord) -> dict[str, Any]:
    found = {
        "modeltiers.run_id": record.id,
        "modeltiers.db": db.store.place,
        "mlflow.note.content": record.notes,
        "mlflow.source.git.commit": record.git_commit,
        **{f"tag.{tag}": "true" for tag in record.tags},
        **flat(record.facts, "fact"),
    }
    return {key: value for key, value in found.items() if value not in (None, "", {})}


def _metrics(columns: MetricColumns) -> list[tuple[str, float, int, int]]:
    """Name, value, milliseconds and step of each row."""
    seen: dict[str, int] = {}
    rows = []
    for name, step, value, time in zip(columns.name, columns.step, columns.value, columns.time, strict=True):
        count = seen[name] = seen.get(name, -1) + 1
        rows.append((_name(name), float(value), _milliseconds(float(time)), count if step is None else step))
    return rows


def _batches(items: list[Any], size: int) -> Sequence[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _name(name: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
