"""The rows of runs: begun, ended, found; and where a run comes from: the machine, the process, the commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, insert, select, update

from harness.errors import ExperimentError, UnknownRunError, did_you_mean
from harness.experiments.records import RunRecord, RunRef, Status
from harness.experiments.tables import Now, moment, names, put, runs

_BIGGEST_ID = 2**63 - 1


def begin(connection: Connection, row: Mapping[str, Any]) -> int:
    """Writes a new run; returns its id."""
    found = connection.execute(insert(runs).values(**row, status="running", created=Now(), heartbeat=Now()).returning(runs.c.id))
    return int(found.scalar_one())


def end(connection: Connection, run_id: int, status: Status, facts: Mapping[str, Any]) -> None:
    """Writes how a run ended, with facts about it."""
    add_facts(connection, run_id, facts)
    connection.execute(update(runs).where(runs.c.id == run_id).values(status=status, finished=Now(), heartbeat=Now()))


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
