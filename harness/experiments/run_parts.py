"""What belongs to a run, as rows of tables: configs, artifacts, scores, profiles; and to several: sweeps, comparisons, runs side by side."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, or_, select, update

from harness.documents import flat, plain, to_text
from harness.errors import ExperimentError
from harness.experiments import runs
from harness.experiments.records import ArtifactRecord, ComparisonRecord, RunTable, Scores, Status, SweepRecord, WindowRecord
from harness.experiments.tables import Now, artifacts, comparisons, configs, moment, profiles, put, scores, sweeps, windows
from harness.files import file_hash
from harness.tasks import TaskSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


def sorted_by_kind(config: Any, task_spec: Any, eval_config: Any) -> dict[str, Any]:
    """The configs of a run by kind, as JSON values; a ``SuiteConfig`` also gives its task.

    Raises:
        ExperimentError: Something cannot be stored as JSON.
    """
    if hasattr(config, "task_spec"):  # a SuiteConfig
        given = {"suite": config, "task": task_spec or config.task_spec(), "eval": eval_config}
    else:
        given = {"training": config, "task": task_spec, "eval": eval_config}
    return {kind: plain(content) for kind, content in given.items() if content is not None}


def task_of(given: Mapping[str, Any]) -> str:
    """The task's name; empty where nothing names one."""
    for content in (given.get("task"), given.get("suite"), given.get("training")):
        found = content if isinstance(content, str) else isinstance(content, dict) and content.get("task_name")
        if found:
            return str(found)
    return ""


def name_of(given: Mapping[str, Any], task: str) -> str:
    """The name that the configs give to a run, or the task and the time."""
    for content in given.values():
        if isinstance(content, dict) and content.get("run_name"):
            return str(content["run_name"])
    return f"{task or 'run'}-{datetime.now():%Y%m%d-%H%M%S}"


def write_config(connection: Connection, run_id: int, kind: str, content: Any) -> None:
    """Writes a run's config of one kind, in place of an earlier one."""
    put(connection, configs, run_id=run_id, kind=kind, content=content)


def read_configs(connection: Connection, run_id: int) -> dict[str, Any]:
    """A run's configs by kind."""
    found = connection.execute(select(configs).where(configs.c.run_id == run_id).order_by(configs.c.kind))
    return {row.kind: row.content for row in found}


def task_keys(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a task says beyond the defaults of ``TaskSpec``; a config refuses some keys for some tasks, whatever their value."""
    defaults = {field.name: _default(field) for field in fields(TaskSpec)}
    return {key: value for key, value in stored.items() if key not in defaults or value != defaults[key]}


def _default(field: Field[Any]) -> Any:
    """The default of a field as JSON has it."""
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class FoundFile:
    """A file or folder as it is now: where it is, the sha256 of its content, and its size in bytes."""

    path: Path
    sha256: str
    size: int


def measure(path: str | Path) -> FoundFile:
    """Reads a file, or a folder's files.

    Raises:
        ExperimentError: It is not there or cannot be read.
    """
    path = Path(path).expanduser().resolve()
    try:
        return FoundFile(path, *(_measure_folder(path) if path.is_dir() else _measure_file(path)))
    except OSError as error:
        raise ExperimentError(f"artifact {path}: {error.strerror or error}") from None


def write_artifact(connection: Connection, run_id: int, kind: str, found: FoundFile) -> None:
    """Writes where a run's artifact is, and what it is."""
    row = {"run_id": run_id, "kind": kind, "path": str(found.path), "sha256": found.sha256, "bytes": found.size}
    connection.execute(insert(artifacts).values(**row, created=Now()))


def read_artifacts(connection: Connection, run_id: int) -> list[ArtifactRecord]:
    """A run's artifacts, in the order in which they were logged."""
    found = connection.execute(select(artifacts).where(artifacts.c.run_id == run_id).order_by(artifacts.c.id))
    return [ArtifactRecord(row.kind, row.path, row.sha256, row.bytes, moment(row.created)) for row in found]


def _measure_file(path: Path) -> tuple[str, int]:
    return file_hash(path), path.stat().st_size


def _measure_folder(path: Path) -> tuple[str, int]:
    digest, total = hashlib.sha256(), 0
    for file in sorted(inner for inner in path.rglob("*") if inner.is_file()):
        sha256, size = _measure_file(file)
        digest.update(f"{sha256}  {file.relative_to(path).as_posix()}\n".encode(errors="surrogateescape"))
        total += size
    return digest.hexdigest(), total


_LEVEL = 1  # zlib: higher levels take several times as long for a few percent


def write_scores(connection: Connection, run_id: int, metric: str, values: Any, dataset: str) -> None:
    """Writes a run's scores of a metric, in place of earlier ones.

    Raises:
        ExperimentError: The values are no list of numbers.
    """
    array = score_array(metric, values)
    row = {"dtype": array.dtype.str, "count": array.size, "content": zlib.compress(array.tobytes(), _LEVEL)}
    put(connection, scores, run_id=run_id, metric=metric, dataset=dataset, **row)


def read_scores(connection: Connection, run_id: int, metric: str) -> Scores:
    """A run's scores of a metric.

    Raises:
        ExperimentError: The run has none.
    """
    import numpy as np

    row = connection.execute(select(scores).where(scores.c.run_id == run_id, scores.c.metric == metric)).first()
    if row is None:
        there = ", ".join(read_scored_metrics(connection, run_id)) or "none at all"
        raise ExperimentError(f"run {run_id} has no per-sample scores of {metric!r}; it has: {there}")
    return Scores(metric, np.frombuffer(zlib.decompress(row.content), row.dtype).copy(), row.dataset)


def read_scored_metrics(connection: Connection, run_id: int) -> list[str]:
    """The metrics a run has scores of."""
    return list(connection.execute(select(scores.c.metric).where(scores.c.run_id == run_id).order_by(scores.c.metric)).scalars())


def read_score_datasets(connection: Connection, run_id: int) -> dict[str, str]:
    """What each of a run's scores was measured on, by metric."""
    found = connection.execute(
        select(scores.c.metric, scores.c.dataset).where(scores.c.run_id == run_id).order_by(scores.c.metric)
    )
    return {row.metric: row.dataset for row in found}


def score_array(metric: str, values: Any) -> NDArray[Any]:
    """Scores as they are stored: float32 or float64 ``[N]``.

    Raises:
        ExperimentError: The values are no list of numbers.
    """
    import numpy as np

    if hasattr(values, "detach"):  # a tensor; numpy has no bfloat16
        values = values.detach().cpu()
        values = (values.float() if values.dtype.itemsize < 4 and values.is_floating_point() else values).numpy()
    try:
        array = np.asarray(values)
        small = array.dtype in (np.float32, np.float16, np.bool_)
        array = array.astype("<f4" if small else "<f8")
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"scores of {metric!r}: expected a list of numbers: {error}") from None
    if array.ndim != 1:
        raise ExperimentError(f"scores of {metric!r}: expected one number a sample, got shape {list(array.shape)}")
    return array


REFERENCE = "reference"
"""The name of the profile that later data is compared with."""

_DOCUMENT_MARK = "pytest-modeltiers profile"
_BYTES_MARK = b"MTPROF"
"""What `harness.monitoring.profiles` writes into each profile. This package must not import it, so the marks are repeated here."""


def check_profile(profile: Any, name: str) -> None:
    """Refuses what monitoring could not read, before it is stored; only the reference of a run must be a profile.

    Raises:
        ExperimentError: It is no profile.
    """
    if name != REFERENCE:
        return
    content = profile.to_json() if hasattr(profile, "to_json") else profile
    if isinstance(content, (bytes, bytearray, memoryview)):
        is_profile = bytes(content[: len(_BYTES_MARK)]) == _BYTES_MARK
    else:
        is_profile = isinstance(content, Mapping) and content.get("kind") == _DOCUMENT_MARK
    if not is_profile:
        raise ExperimentError(
            f"expected a profile, as `modeltiers profile` makes one, got {_described(content)}; "
            "other values can be stored under another name, such as name='means'"
        )


def _described(content: Any) -> str:
    """What somebody gave instead of a profile."""
    if isinstance(content, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, list(content)[:5]))}" if content else "an empty mapping"
    return (
        f"{len(content)} bytes of something else"
        if isinstance(content, (bytes, bytearray, memoryview))
        else type(content).__name__
    )


def write_profile(connection: Connection, run_id: int, name: str, kind: str, profile: Any) -> None:
    """Writes a profile."""
    content = {"blob": bytes(profile)} if isinstance(profile, (bytes, bytearray, memoryview)) else {"document": profile}
    connection.execute(insert(profiles).values(run_id=run_id, name=name, kind=kind, created=Now(), **content))


def read_profile(connection: Connection, run_id: int, name: str) -> Any:
    """The newest profile of that name.

    Raises:
        ExperimentError: The run has none.
    """
    query = select(profiles.c.document, profiles.c.blob).where(profiles.c.run_id == run_id, profiles.c.name == name)
    row = connection.execute(query.order_by(profiles.c.id.desc()).limit(1)).first()
    if row is None:
        there = ", ".join(read_profile_names(connection, run_id)) or "none at all"
        raise ExperimentError(
            f"run {run_id} has no profile {name!r}; it has {there}; `modeltiers profile --run {run_id}` stores one"
        )
    return row.document if row.blob is None else bytes(row.blob)


def read_profile_names(connection: Connection, run_id: int) -> list[str]:
    """The names of a run's profiles."""
    query = select(profiles.c.name).where(profiles.c.run_id == run_id).distinct().order_by(profiles.c.name)
    return list(connection.execute(query).scalars())


def begin_sweep(connection: Connection, name: str, space: Any) -> int:
    """Writes a new sweep; returns its id."""
    row = insert(sweeps).values(name=name, space=space, status="running", created=Now())
    return int(connection.execute(row.returning(sweeps.c.id)).scalar_one())


def end_sweep(connection: Connection, sweep_id: int, status: Status) -> None:
    """Writes how a sweep ended.

    Raises:
        ExperimentError: There is no such sweep.
    """
    read_sweep(connection, sweep_id)
    connection.execute(update(sweeps).where(sweeps.c.id == sweep_id).values(status=status, finished=Now()))


def read_sweep(connection: Connection, sweep_id: int) -> SweepRecord:
    """A sweep by its id.

    Raises:
        ExperimentError: There is no such sweep.
    """
    row = connection.execute(select(sweeps).where(sweeps.c.id == sweep_id)).first()
    if row is None:
        raise ExperimentError(f"no sweep {sweep_id}")
    finished = None if row.finished is None else moment(row.finished)
    return SweepRecord(row.id, row.name, row.space, row.status, moment(row.created), finished)


def write_comparison(connection: Connection, baseline_id: int, candidate_id: int, metric: str, result: Any) -> None:
    """Writes the result of a comparison."""
    row = {"baseline_id": baseline_id, "candidate_id": candidate_id, "metric": metric, "result": result}
    connection.execute(insert(comparisons).values(**row, created=Now()))


def read_comparisons(connection: Connection, run_id: int) -> list[ComparisonRecord]:
    """The comparisons a run is part of, on either side, oldest first."""
    mine = or_(comparisons.c.baseline_id == run_id, comparisons.c.candidate_id == run_id)
    found = connection.execute(select(comparisons).where(mine).order_by(comparisons.c.id))
    return [ComparisonRecord(row.baseline_id, row.candidate_id, row.metric, row.result, moment(row.created)) for row in found]


def write_window(connection: Connection, reference_id: int, row: Mapping[str, Any], time: float | None) -> None:
    """Writes a window of data, in place of an earlier one of the same rows, whose time it keeps where none is given.

    Data of the same name and time takes its place too: they are the same rows, whose labels have come since.
    """
    of_run = select(windows.c.id, windows.c.key, windows.c.result).where(
        windows.c.reference_id == reference_id, windows.c.name == row["name"]
    )
    known = connection.execute(of_run.where(windows.c.key == row["key"])).scalar()
    if known is None and time is not None:
        there = connection.execute(of_run.where(windows.c.time == time))
        known = next((one.id for one in there if one.result.get("data") == row["result"].get("data", one)), None)
    at: dict[str, Any] = {} if time is None else {"time": time}
    if known is not None:
        connection.execute(update(windows).where(windows.c.id == known).values(**row, **at, created=Now()))
    else:
        connection.execute(insert(windows).values(reference_id=reference_id, **row, **(at or {"time": Now()}), created=Now()))


def read_windows(
    connection: Connection, reference_id: int, name: str | None, limit: int | None, *, profiles: bool
) -> list[WindowRecord]:
    """The windows compared with a run's profile, by time; of more than ``limit`` the last."""
    columns = [column for column in windows.c if profiles or column.name != "profile"]
    query = select(*columns).where(windows.c.reference_id == reference_id)
    query = query if name is None else query.where(windows.c.name == name)
    found = connection.execute(query.order_by(windows.c.time.desc(), windows.c.id.desc()).limit(limit))
    records = [
        WindowRecord(
            **{key: row._mapping[key] for key in ("reference_id", "name", "key", "status", "rows", "result")},
            time=moment(row.time),
            created=moment(row.created),
            profile=row.profile if profiles else None,
        )
        for row in found
    ]
    return records[::-1]


def side_by_side(connection: Connection, run_ids: Sequence[int], grace: float) -> RunTable:
    """What differs between the configs of runs, and their last metrics."""
    settings = [flat(read_configs(connection, run_id)) for run_id in run_ids]
    last = runs.read_last_metrics(connection, run_ids)
    names = sorted({name for found in last.values() for name in found})
    return RunTable(
        runs=tuple(runs.read(connection, run_id, grace) for run_id in run_ids),
        configs={key: row for key, row in _rows(settings).items() if len(set(map(to_text, row))) > 1},
        metrics={name: tuple(last[run_id].get(name) for run_id in run_ids) for name in names},
    )


def _rows(settings: Sequence[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    keys = sorted({key for setting in settings for key in setting})
    return {key: tuple(setting.get(key) for setting in settings) for key in keys}
