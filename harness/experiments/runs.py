"""The rows of runs and of their metrics: begun, ended, found, ranked; and where a run comes from: the machine, the process, the commit."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, func, insert, literal, select, update

from harness.errors import ExperimentError, UnknownRunError, did_you_mean
from harness.experiments.records import MetricColumns, Mode, RunRecord, RunRef, Status
from harness.experiments.tables import Now, metrics, moment, names, put, runs

_BIGGEST_ID = 2**63 - 1


def begin(connection: Connection, row: Mapping[str, Any]) -> tuple[int, float]:
    """Writes a new run; returns its id, and when it began by the database's clock."""
    new = insert(runs).values(**row, status="running", created=Now(), heartbeat=Now()).returning(runs.c.id, runs.c.created)
    found = connection.execute(new).one()
    return int(found.id), float(found.created)


def end(connection: Connection, run_id: int, status: Status, facts: Mapping[str, Any], time: float | None = None) -> None:
    """Writes how a run ended, with facts about it; ``time`` is when, in seconds since 1970, where that was earlier."""
    add_facts(connection, run_id, facts)
    at = Now() if time is None else time
    connection.execute(update(runs).where(runs.c.id == run_id).values(status=status, finished=at, heartbeat=at))


def beat(connection: Connection, run_id: int) -> None:
    """Writes that a run is alive."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(heartbeat=Now()))


def add_facts(connection: Connection, run_id: int, facts: Mapping[str, Any]) -> None:
    """Adds facts to those a run has; one of the same name is replaced."""
    before = connection.execute(select(runs.c.facts).where(runs.c.id == run_id).with_for_update()).scalar_one()
    connection.execute(update(runs).where(runs.c.id == run_id).values(facts={**before, **facts}))


def status_now(grace: float) -> ColumnElement[str]:
    """The status of a run, which is ``killed`` when it has not been heard of for ``grace`` seconds."""
    silent = and_(runs.c.status == "running", runs.c.heartbeat < Now() - grace)
    return case((silent, "killed"), else_=runs.c.status)


def read(connection: Connection, run_id: int, grace: float) -> RunRecord:
    """A run by its id."""
    status = status_now(grace).label("status_now")
    return record_of(connection.execute(select(runs, status).where(runs.c.id == run_id)).one())


def read_many(connection: Connection, grace: float, limit: int | None, **wanted: Any) -> list[RunRecord]:
    """Runs, newest first.

    Args:
        connection: A transaction.
        grace: Seconds of silence after which a run is killed.
        limit: How many at most.
        wanted: Columns, and what they must hold; ``None`` asks nothing.
    """
    status = status_now(grace)
    query = select(runs, status.label("status_now")).order_by(runs.c.id.desc()).limit(limit)
    for column, value in wanted.items():
        if value is not None:
            query = query.where((status if column == "status" else runs.c[column]) == value)
    return [record_of(row) for row in connection.execute(query)]


def record_of(row: Row[Any]) -> RunRecord:
    """A row of ``select(runs, status_now(...).label("status_now"))`` as a record."""
    values = dict(row._mapping)
    return RunRecord(
        **{key: values[key] for key in ("id", "name", "task", "git_commit", "git_dirty", "host", "pid", "notes")},
        status=values["status_now"],
        created=moment(values["created"]),
        finished=None if values["finished"] is None else moment(values["finished"]),
        heartbeat=moment(values["heartbeat"]),
        tags=tuple(values["tags"]),
        sweep_id=values["sweep_id"],
        sweep_params=values["sweep_params"],
        facts=values["facts"],
    )


def set_name(connection: Connection, name: str, run_id: int) -> None:
    """Makes a name refer to a run, in place of the one it referred to.

    Raises:
        ExperimentError: The name could be taken for an id.
    """
    if not name.strip() or _as_id(name) is not None:
        raise ExperimentError(f"{name!r} cannot name a run: it is {'a number, as ids are' if name.strip() else 'empty'}")
    put(connection, names, name=name, run_id=run_id, changed=Now())


def read_names(connection: Connection) -> dict[str, int]:
    """The named references, and the ids of their runs."""
    return {row.name: row.run_id for row in connection.execute(select(names.c.name, names.c.run_id).order_by(names.c.name))}


def resolve(connection: Connection, ref: RunRef) -> int:
    """The id of a run.

    Args:
        connection: A transaction.
        ref: An id, a named reference, or a run's name, tried in this order; of several runs of one name, the newest.

    Raises:
        UnknownRunError: There is no such run.
    """
    if not isinstance(ref, (int, str)):
        ref = ref.id
    number = _as_id(ref)
    if number is not None and connection.execute(select(runs.c.id).where(runs.c.id == number)).first():
        return number
    if isinstance(ref, str):
        named = connection.execute(select(names.c.run_id).where(names.c.name == ref)).scalar()
        if named is None:
            named = connection.execute(select(runs.c.id).where(runs.c.name == ref).order_by(runs.c.id.desc()).limit(1)).scalar()
        if named is not None:
            return int(named)
    raise UnknownRunError(_unknown(connection, ref))


def _as_id(ref: int | str) -> int | None:
    if isinstance(ref, bool) or (isinstance(ref, str) and not (ref.isascii() and ref.isdigit())):
        return None
    number = int(ref)
    return number if 0 <= number <= _BIGGEST_ID else None


def _unknown(connection: Connection, ref: int | str) -> str:
    recent = list(connection.execute(select(runs.c.id, runs.c.name).order_by(runs.c.id.desc()).limit(200)))
    if not recent:
        return f"no run {ref!r}: the database has no runs"
    hint = did_you_mean(ref, [*read_names(connection), *(row.name for row in recent)]) if isinstance(ref, str) else ""
    return f"no run {ref!r}.{hint} The newest is {recent[0].id} ({recent[0].name})"


_BIGGEST_STEP = 2**63 - 1


def metric_rows(values: Mapping[str, Any], step: int | None, epoch: float | None, time: float) -> list[dict[str, Any]]:
    """Values as rows, or nothing where one of them is wrong.

    Args:
        values: Numbers, or arrays and tensors of one number, by name.
        step: The step they belong to.
        epoch: The epoch they belong to.
        time: Seconds since 1970.

    Raises:
        ExperimentError: A name is no printable text, a value is no number, or a step or epoch is impossible.
    """
    step = None if step is None else _step(step)
    epoch = None if epoch is None else _epoch(epoch)
    return [
        {"name": _name(name), "step": step, "epoch": epoch, "value": _value(name, value), "time": time}
        for name, value in values.items()
    ]


def write_metrics(connection: Connection, run_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows made by ``metric_rows``."""
    connection.execute(insert(metrics), [{"run_id": run_id, **row} for row in rows])


def metric_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key that no other row of its run has."""
    return row["name"], row["step"], row["epoch"], row["time"]


def metric_keys(connection: Connection, run_id: int, since: float) -> set[tuple[Any, ...]]:
    """``metric_key`` of each row that a run logged from some moment on, in seconds since 1970."""
    query = select(metrics.c.name, metrics.c.step, metrics.c.epoch, metrics.c.time)
    found = connection.execute(query.where(metrics.c.run_id == run_id, metrics.c.time >= since))
    return {metric_key(dict(row._mapping)) for row in found}


def copy_metrics(connection: Connection, source: int, created: float, run_id: int, until: int, but: str) -> bool:
    """Copies the rows up to a step from a run that is resumed; ``False`` where the database has no such run.

    Args:
        connection: A transaction.
        source: Id of the run that is resumed.
        created: When that began; another database may have a run of that id.
        run_id: The run to copy them to.
        until: The last step that is copied.
        but: Names that begin so are left out.
    """
    if connection.execute(select(runs.c.created).where(runs.c.id == source)).scalar() != created:
        return False
    columns = [column for column in metrics.c if column.name not in ("id", "run_id")]
    mine = (metrics.c.run_id == source, metrics.c.step <= until, ~metrics.c.name.startswith(but, autoescape=True))
    rows = select(literal(run_id), *columns).where(*mine).order_by(metrics.c.id)
    connection.execute(insert(metrics).from_select(["run_id", *(column.name for column in columns)], rows))
    return True


def read_metrics(connection: Connection, run_id: int, name: str | None) -> MetricColumns:
    """A run's rows, of one metric or of all."""
    import numpy as np

    columns = (metrics.c.name, metrics.c.step, metrics.c.epoch, metrics.c.value, metrics.c.time)
    query = select(*columns).where(metrics.c.run_id == run_id).order_by(metrics.c.id)
    if name is not None:
        query = query.where(metrics.c.name == name)
    found = connection.execute(query).all()
    names, steps, epochs, values, times = map(list, zip(*found, strict=True)) if found else ([], [], [], [], [])
    return MetricColumns(names, steps, epochs, np.array(values, np.float64), np.array(times, np.float64))


def read_last_metrics(connection: Connection, run_ids: Sequence[int], name: str | None = None) -> dict[int, dict[str, float]]:
    """The last value of every metric, or of one, by run."""
    newest = select(func.max(metrics.c.id)).where(metrics.c.run_id.in_(run_ids)).group_by(metrics.c.run_id, metrics.c.name)
    if name is not None:
        newest = newest.where(metrics.c.name == name)
    query = select(metrics.c.run_id, metrics.c.name, metrics.c.value).where(metrics.c.id.in_(newest)).order_by(metrics.c.name)
    found: dict[int, dict[str, float]] = {run_id: {} for run_id in run_ids}
    for row in connection.execute(query):
        found[row.run_id][row.name] = row.value
    return found


def best_run(connection: Connection, metric: str, mode: Mode, task: str | None, grace: float) -> RunRecord | None:
    """The finished run whose last value of a metric is best; the older one of two equals."""
    newest = (
        select(func.max(metrics.c.id)).where(metrics.c.run_id == runs.c.id, metrics.c.name == metric).correlate(runs)
    ).scalar_subquery()
    biggest = sys.float_info.max
    query = (
        select(runs, status_now(grace).label("status_now"))
        .join(metrics, metrics.c.id == newest)
        .where(runs.c.status == "finished", metrics.c.value.between(-biggest, biggest))  # NaN and infinities are never best
        .order_by(metrics.c.value.asc() if mode == "min" else metrics.c.value.desc(), runs.c.id)
        .limit(1)
    )
    if task is not None:
        query = query.where(runs.c.task == task)
    found = connection.execute(query).first()
    return record_of(found) if found else None


def _name(name: object) -> str:
    if not (isinstance(name, str) and name.strip() and name.isprintable()):
        raise ExperimentError(f"a metric's name is printable text, not {name!r}")
    return name


def _value(name: str, value: Any) -> float:
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # torch raises RuntimeError for several elements
        raise ExperimentError(f"metric {name!r}: expected one number, got {_short(value)}") from error


def _step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        raise ExperimentError(f"a step is a whole number, not {_short(step)}") from None
    if abs(number) > _BIGGEST_STEP:
        raise ExperimentError(f"a step has at most 64 bits, {_short(step)} has more")
    return number


def _epoch(epoch: Any) -> float:
    number = _value("epoch", epoch)
    if not math.isfinite(number):
        raise ExperimentError(f"an epoch is a finite number, not {_short(epoch)}")
    return number


def _short(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}".replace("\n", " ")
