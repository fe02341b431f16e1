"""What ``modeltiers runs`` answers: as data for ``--json``, and as text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.experiments.database import ExperimentDB
from harness.experiments.documents import flat, plain
from harness.experiments.errors import ExperimentError
from harness.experiments.records import RunRecord, RunRef
from harness.experiments.store import address_of, file_of
from harness.wording import aligned, duration, six_digits

_LIMIT = 50


@dataclass(frozen=True)
class Answer:
    """An answer of the command line.

    Attributes:
        data: One JSON object; NaN and infinities are text in it.
        text: The same for people.
    """

    data: dict[str, Any]
    text: str


def answer(db_path: str | Path, run: str | None = None, name: str | None = None, metric: str | None = None) -> Answer:
    """The runs of a database, or the details of one.

    Args:
        db_path: The database, which must be there.
        run: A run, by its id, a named reference or its name.
        name: Only runs of this name.
        metric: A metric to show of each.

    Raises:
        ExperimentError: There is no such database or no such run, or it cannot be read.
    """
    with _existing(db_path) as db:
        return runs_table(db, name, metric) if run is None else run_details(db, run)


def copy_to_mlflow(db_path: str | Path, run: str | None, tracking_uri: str) -> Answer:
    """Copies a run to MLflow.

    Raises:
        ExperimentError: There is no such database or no such run, or MLflow refuses it.
        MissingPackageError: MLflow is not installed.
    """
    from harness.experiments.mlflow_export import export_to_mlflow

    if run is None:
        raise ExperimentError("--to-mlflow copies one run: name it, as in `modeltiers runs 3 --to-mlflow http://localhost:5000`")
    with _existing(db_path) as db:
        run_id = db.resolve(run)
        copied = export_to_mlflow(db, run_id, tracking_uri)
    return Answer(
        {"run_id": run_id, "mlflow_run_id": copied, "tracking_uri": tracking_uri},
        f"run {run_id} was copied to MLflow at {tracking_uri} as run {copied}",
    )


def _existing(db_path: str | Path) -> ExperimentDB:
    """Opens a database that is there.

    Raises:
        ExperimentError: It is not.
    """
    file = file_of(address_of(db_path))
    if file is not None and not file.exists():
        raise ExperimentError(
            f"{file}: no such database; a config with `log_to_db` makes one beside it: `modeltiers runs --config FILE`, or give its path by --db"
        )
    return ExperimentDB(db_path)


def runs_table(db: ExperimentDB, name: str | None = None, metric: str | None = None, limit: int = _LIMIT) -> Answer:
    """The newest runs, a line each."""
    found = db.list_runs(name=name, limit=limit + 1)
    more, found = len(found) > limit, found[:limit]
    last = db.get_last_metrics(found, metric) if metric else [{} for _ in found]
    data = [{**run.to_json(), **({"metrics": values} if metric else {})} for run, values in zip(found, last, strict=True)]
    rows = [["ID", "NAME", "STATUS", "TASK", "STARTED", "TOOK", *([metric] if metric else [])]]
    for run, values in zip(found, last, strict=True):
        rows.append([*_line(run), *([six_digits(values.get(metric))] if metric else [])])
    text = aligned(rows) if found else "no runs"
    return Answer({"runs": _strict(data)}, f"{text}\n… older runs are not shown" if more else text)


def run_details(db: ExperimentDB, run: RunRef) -> Answer:
    """Everything about one run, but for the history of its metrics."""
    record = db.get_run(run)
    (last,) = db.get_last_metrics([record])
    configs, artifacts = db.get_configs(record), db.get_artifacts(record)
    compared = db.get_comparisons(record)
    names = sorted(name for name, run_id in db.get_names().items() if run_id == record.id)
    data = {
        **record.to_json(),
        "names": names,
        "configs": configs,
        "metrics": last,
        "artifacts": [asdict(artifact) for artifact in artifacts],
        "comparisons": [asdict(comparison) for comparison in compared],
    }
    parts = {
        "": _facts(record, names),
        "configs": {key: _shown(value) for key, value in flat(configs).items() if value is not None} if configs else {},
        "metrics (last values)": {name: six_digits(value) for name, value in last.items()},
        "artifacts": {artifact.path: f"{artifact.kind}, {artifact.bytes} bytes" for artifact in artifacts},
        "comparisons": {f"{c.metric}: {c.candidate_id} against {c.baseline_id}": _shown(c.result, 100) for c in compared},
    }
    return Answer({"run": _strict(plain(data))}, "\n\n".join(_part(title, rows) for title, rows in parts.items() if rows))


def _line(run: RunRecord) -> list[str]:
    return [str(run.id), run.name, run.status, run.task, _date(run.created), duration(run.seconds)]


def _facts(run: RunRecord, names: list[str]) -> dict[str, str]:
    commit = f"{run.git_commit}{' with changes' if run.git_dirty else ''}" if run.git_commit else ""
    sweep = "" if run.sweep_id is None else f"{run.sweep_id} {_shown(run.sweep_params)}"
    rows = {
        "run": f"{run.id} {run.name}",
        "known as": ", ".join(names),
        "status": run.status,
        "task": run.task,
        "started": _date(run.created),
        "took": duration(run.seconds),
        "machine": f"{run.host}, process {run.pid}",
        "commit": commit,
        "sweep": sweep,
        "tags": ", ".join(run.tags),
        "notes": run.notes,
        **{key: _shown(value) for key, value in run.facts.items()},
    }
    return {key: value for key, value in rows.items() if value}


def _part(title: str, rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    lines = [f"{key:<{width}}  {value}".rstrip() for key, value in rows.items()]
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)] if title else lines)


def _shown(value: Any, longest: int = 200) -> str:
    text = value if isinstance(value, str) else str(plain(value))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _date(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _strict(value: Any) -> Any:
    """JSON values with text for NaN and infinities, which strict JSON does not have."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_strict(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
