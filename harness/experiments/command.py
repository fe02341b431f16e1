"""What ``modeltiers runs`` answers, as data for ``--json`` and as text; and a run copied to MLflow."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import Any

from harness.documents import flat, plain, strict_json
from harness.errors import ExperimentError, MissingPackageError
from harness.experiments.database import ExperimentDB, existing_database
from harness.experiments.recorder import UNSENT, send_unsent
from harness.experiments.records import (
    ACCURACY,
    ESTIMATED,
    MetricColumns,
    RunRecord,
    RunRef,
    Series,
    WindowRecord,
    date_text,
    series_of,
)
from harness.files import write_whole
from harness.wording import Answer, aligned, counted, duration, figure, listed, six_digits

_LIMIT = 50
_NO_DATABASE = "; a config with `log_to_db` makes one beside it: `modeltiers runs --config FILE`, or give its path by --db"


def answer(
    db_path: str | Path, run: str | None = None, name: str | None = None, metric: str | None = None, svg: Path | None = None
) -> Answer:
    """The runs of a database, or the details of one.

    Args:
        db_path: The database.
        run: One of its runs; ``None`` for all.
        name: Only runs of this name.
        metric: A metric of each run, or a series of the windows that were compared with ``run``.
        svg: Where that series is drawn, if anywhere.

    Raises:
        ExperimentError: There is no such database, run or series, or it cannot be read.
    """
    with existing_database(db_path, _NO_DATABASE) as db:
        known = {} if run is None else series_of(db.get_windows(run))
        series = known.get(metric or "")
        if svg is not None:
            _draw(series, known, run, svg)
        if run is None:
            return runs_table(db, name, metric)
        return run_details(db, run) if series is None else series_answer(series)


def _draw(series: Series | None, known: Iterable[str], run: str | None, svg: Path) -> None:
    """Writes a series as a picture."""
    if series is None:
        of_run = (
            f" of {run}: {listed(list(known))}" if known and run else ", as in `modeltiers runs production --metric accuracy`"
        )
        raise ExperimentError(f"--svg draws one series of the windows of a run: name it by --metric{of_run}")
    from harness.charts import LineChart
    from harness.charts.drawing import svg_text
    from harness.charts.pictures import distributions_of

    found = distributions_of({"plots": [series.plot()]})
    if not found or not isinstance(found[0].chart, LineChart):
        raise ExperimentError(f"--svg: {series.name} has one window so far, and a line needs two")
    write_whole(svg, svg_text(found[0].chart))


def copy_to_mlflow(db_path: str | Path, run: str | None, tracking_uri: str) -> Answer:
    """Copies a run to MLflow.

    Raises:
        ExperimentError: There is no such database or no such run, or MLflow refuses it.
        MissingPackageError: MLflow is not installed.
    """
    if run is None:
        raise ExperimentError("--to-mlflow copies one run: name it, as in `modeltiers runs 3 --to-mlflow http://localhost:5000`")
    with existing_database(db_path, _NO_DATABASE) as db:
        run_id = db.resolve(run)
        copied = export_to_mlflow(db, run_id, tracking_uri)
    return Answer(
        {"run_id": run_id, "mlflow_run_id": copied, "tracking_uri": tracking_uri},
        f"run {run_id} was copied to MLflow at {tracking_uri} as run {copied}",
    )


def send(db_path: str | Path, folder: Path) -> Answer:
    """What ``modeltiers runs --send FOLDER`` does and says.

    Raises:
        ExperimentError: The database cannot be written, a file is none that a run wrote, or there is nothing to send.
    """
    waiting = sorted(folder.glob(UNSENT)) if folder.is_dir() else []
    if not waiting:
        raise ExperimentError(f"--send {folder}: no {UNSENT} there, so nothing waits; give the folder of a run's checkpoints")
    with existing_database(db_path, _NO_DATABASE) as db:
        sent, place = send_unsent(db.store, folder), db.store.place
    left = [file for file in waiting if file.exists()]
    lines = [f"run {run_id}: {counted(rows, 'metric row')} sent to {place}" for run_id, rows in sent.items()]
    lines += [f"{file}: its run is not in {place}" for file in left]
    return Answer(
        {"sent": {str(run_id): rows for run_id, rows in sent.items()}, "left": [str(file) for file in left]}, "\n".join(lines)
    )


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
    return Answer({"runs": strict_json(data)}, f"{text}\n… older runs are not shown" if more else text)


def run_details(db: ExperimentDB, run: RunRef) -> Answer:
    """Everything about one run, but for the history of its metrics."""
    record = db.get_run(run)
    (last,) = db.get_last_metrics([record])
    configs, artifacts = db.get_configs(record), db.get_artifacts(record)
    compared, windows = db.get_comparisons(record), db.get_windows(record)
    names = sorted(name for name, run_id in db.get_names().items() if run_id == record.id)
    data = {
        **record.to_json(),
        "names": names,
        "configs": configs,
        "metrics": last,
        "artifacts": [asdict(artifact) for artifact in artifacts],
        "comparisons": [asdict(comparison) for comparison in compared],
        **windows_json(windows),
    }
    parts = {
        "": _facts(record, names),
        "configs": {key: _shown(value) for key, value in flat(configs).items() if value is not None} if configs else {},
        "metrics (last values)": {name: six_digits(value) for name, value in last.items()},
        "artifacts": {artifact.path: f"{artifact.kind}, {artifact.bytes} bytes" for artifact in artifacts},
        _compared_title(len(compared)): {
            f"{c.metric}: {c.candidate_id} against {c.baseline_id}": _said(c.result) for c in compared[-_COMPARED:]
        },
    }
    shown = [_part(title, rows) for title, rows in parts.items() if rows]
    shown += [f"windows:\n{indent(windows_text(windows), '  ')}"] if windows else []
    return Answer({"run": strict_json(plain(data))}, "\n\n".join(shown))


_COMPARED = 6


def _compared_title(count: int) -> str:
    return "comparisons" if count <= _COMPARED else f"comparisons (the last {_COMPARED} of {count:,}; --json has all)"


def _said(result: Any) -> str:
    """What a comparison came to, in its own words where it has some."""
    return str(result["message"]) if isinstance(result, dict) and "message" in result else _shown(result, 100)


def _line(run: RunRecord) -> list[str]:
    return [str(run.id), run.name, run.status, run.task, date_text(run.created), duration(run.seconds)]


def _facts(run: RunRecord, names: list[str]) -> dict[str, str]:
    commit = f"{run.git_commit}{' with changes' if run.git_dirty else ''}" if run.git_commit else ""
    sweep = "" if run.sweep_id is None else f"{run.sweep_id} {_shown(run.sweep_params)}"
    rows = {
        "run": f"{run.id} {run.name}",
        "known as": ", ".join(names),
        "status": run.status,
        "task": run.task,
        "started": date_text(run.created),
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


_SHOWN = 20
"""Windows and series that are printed."""

_MARKS = {"ok": "ok", "warn": "warn", "fail": "FAIL"}
_BARS = "▁▂▃▄▅▆▇█"


def windows_json(windows: Sequence[WindowRecord]) -> dict[str, Any]:
    """The windows of a run and the verdicts on their series, JSON-ready."""
    return {
        "windows": [
            {"time": one.time.isoformat(), "name": one.name, "status": one.status, "rows": one.rows, **one.result}
            for one in windows
        ],
        "series": {
            one.name: {"measure": one.measure, "is_outside": one.left_at is not None, "message": one.message}
            for one in series_of(windows).values()
        },
    }


def windows_text(windows: Sequence[WindowRecord]) -> str:
    """The last windows, a line each, and the series that were ever beyond their limit."""
    rows = [["TIME", "NAME", "STATUS", "ROWS", "ACCURACY", "BEYOND ITS LIMIT"], *map(_window_line, windows[-_SHOWN:])]
    beyond = [one for one in series_of(windows).values() if any(point.is_outside for point in one.points)]
    shown = [[one.name, _sparkline(one), one.message] for one in beyond[:_SHOWN]]
    more = [f"… {len(windows) - _SHOWN} earlier windows, which --json lists"] if len(windows) > _SHOWN else []
    return "\n".join([*more, aligned(rows), *(["", aligned(shown)] if shown else [])])


def _window_line(window: WindowRecord) -> list[str]:
    series = window.result.get("series", {})
    accuracy = series.get(ACCURACY)
    outside = [name for name, one in series.items() if one["is_outside"] and name != ACCURACY]
    said = ", ".join(outside[:3]) + (f" and {counted(len(outside) - 3, 'other')}" if len(outside) > 3 else "")
    is_estimated = bool(accuracy) and str(accuracy["measure"]).startswith(ESTIMATED)
    right = f"{accuracy['value']:.1%}{' estimated' if is_estimated else ''}" if accuracy else ""
    return [date_text(window.time), window.name, _MARKS.get(window.status, window.status), f"{window.rows:,}", right, said]


def _sparkline(series: Series) -> str:
    values = [point.value for point in series.points[-_SHOWN:]]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[min(int((value - low) / span * len(_BARS)), len(_BARS) - 1)] for value in values)


def series_answer(series: Series) -> Answer:
    """One series, value by value."""
    rows = [["TIME", series.measure.upper(), "LIMIT", ""]]
    for point in series.points:
        said = [*(["beyond"] if point.is_outside else []), *([ESTIMATED] if point.is_estimated else [])]
        rows.append([date_text(point.time), figure(point.value), figure(point.limit), ", ".join(said)])
    values = [
        {
            "time": one.time.isoformat(),
            "value": one.value,
            "limit": one.limit,
            "is_outside": one.is_outside,
            "measure": one.measure,
        }
        for one in series.points
    ]
    text = f"{series.name}: {series.message}\n\n{aligned(rows)}"
    return Answer({"series": series.name, "measure": series.measure, "message": series.message, "values": values}, text)


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
