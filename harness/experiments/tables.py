"""The tables of an experiment database, as they are in its newest version; its clock; and how an older database is brought up to date.

A change of a table needs a step in ``MIGRATIONS``; ``tests/experiments`` compares what the steps lead to with what is written here.
Times are seconds since 1970, UTC, by the database's own clock, so that writers and readers on several machines agree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
    inspect,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from harness import __version__
from harness.documents import to_text
from harness.errors import ExperimentError
from harness.experiments.store import Store


class Document(TypeDecorator[Any]):
    """JSON text. The databases' own JSON types refuse NaN, which configs and profiles may hold."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        """The text that is stored."""
        return None if value is None else to_text(value)

    def process_result_value(self, value: str | None, dialect: Any) -> Any:
        """The value that was stored."""
        return None if value is None else json.loads(value)


class Measured(TypeDecorator[float]):
    """A float64 that is always there: SQLite stores NaN as NULL."""

    impl = Double
    cache_ok = True

    def process_result_value(self, value: float | None, dialect: Any) -> float:
        """NaN for NULL."""
        return math.nan if value is None else value


Id = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

schema = Table(
    "modeltiers_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("tool", Text, nullable=False),
    Column("applied", Double, nullable=False),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("space", Document, nullable=False),
    Column("status", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("finished", Double),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False, index=True),
    Column("status", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("finished", Double),
    Column("heartbeat", Double, nullable=False),
    Column("git_commit", Text),
    Column("git_dirty", Boolean),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("notes", Text, nullable=False),
    Column("tags", Document, nullable=False),
    Column("sweep_id", ForeignKey("sweeps.id"), index=True),
    Column("sweep_params", Document),
    Column("facts", Document, nullable=False),
    sqlite_autoincrement=True,
)


def _run(name: str = "run_id", **options: Any) -> Column[int]:
    return Column(name, ForeignKey("runs.id"), nullable=False, **options)


configs = Table(
    "configs",
    metadata,
    _run(primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("content", Document, nullable=False),
)

metrics = Table(
    "metrics",
    metadata,
    Column("id", Id, primary_key=True),
    _run(),
    Column("name", Text, nullable=False),
    Column("step", BigInteger),
    Column("epoch", Double),
    Column("value", Measured),
    Column("time", Double, nullable=False),
    # The last value of a metric, which queries ask for most, is the end of a stretch of this index.
    Index("ix_metrics_last", "run_id", "name", "id"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Id, primary_key=True),
    _run(index=True),
    Column("kind", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Double, nullable=False),
)

profiles = Table(
    "profiles",
    metadata,
    Column("id", Id, primary_key=True),
    _run(index=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("document", Document),
    Column("blob", LargeBinary),
    Column("created", Double, nullable=False),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", Id, primary_key=True),
    _run("baseline_id", index=True),
    _run("candidate_id", index=True),
    Column("metric", Text, nullable=False),
    Column("result", Document, nullable=False),
    Column("created", Double, nullable=False),
)

scores = Table(
    "scores",
    metadata,
    _run(primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("dataset", Text, nullable=False),
    Column("dtype", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

windows = Table(
    "windows",
    metadata,
    Column("id", Id, primary_key=True),
    _run("reference_id"),
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("status", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("result", Document, nullable=False),
    Column("profile", LargeBinary),
    Index("ix_windows_time", "reference_id", "time"),
)

names = Table(
    "names",
    metadata,
    Column("name", Text, primary_key=True),
    _run(),
    Column("changed", Double, nullable=False),
)


class Now(FunctionElement[float]):
    """Seconds since 1970, UTC, to a millisecond."""

    type = Double()
    inherit_cache = True


@compiles(Now, "sqlite")
def _sqlite(_element: Now, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "postgresql")
def _postgresql(_element: Now, _compiler: Any, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def moment(seconds: float) -> datetime:
    """A stored time as a date with its zone, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def put(connection: Connection, table: Table, **row: Any) -> None:
    """Writes a row, in place of an earlier one with the same primary key."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(table).values(**row)
    keys = list(table.primary_key.columns.keys())
    rest = {name: statement.excluded[name] for name in row if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest))


Migration = Callable[[Connection], None]


def _add_windows(connection: Connection) -> None:
    windows.create(connection)


MIGRATIONS: tuple[Migration, ...] = (_add_windows,)
"""Step n, counted from 1, brings a database of version n to version n + 1. Append; never change one that was released."""


def bring_up_to_date(store: Store, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Makes the tables of a new database, and migrates those of an older one; in one transaction, by one process.

    Raises:
        ExperimentError: The database is newer than this tool, belongs to another program, or cannot be written.
    """
    store.make_file()
    newest = 1 + len(migrations)
    with store.reading() as connection:
        found = _version(connection)
    if found and found[0] == newest:
        return
    with store.exclusive() as connection:
        found = _version(connection)
        if found is None:
            _create(store, connection, newest)
            return
        _refuse_newer(store, found, newest)
        for number in range(found[0], newest):
            migrations[number - 1](connection)
            _record(connection, number + 1)


def _version(connection: Connection) -> tuple[int, str] | None:
    """The version of the tables, and of the tool that made them so."""
    if not inspect(connection).has_table(schema.name):
        return None
    row = connection.execute(select(schema.c.version, schema.c.tool).order_by(schema.c.version.desc()).limit(1)).first()
    return (row.version, row.tool) if row else None


def _create(store: Store, connection: Connection, newest: int) -> None:
    taken = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
    if taken:
        raise ExperimentError(f"{store.place}: has tables of another program ({', '.join(taken)}); use a separate database")
    metadata.create_all(connection, checkfirst=False)
    _record(connection, newest)


def _record(connection: Connection, number: int) -> None:
    connection.execute(insert(schema).values(version=number, tool=__version__, applied=Now()))


def _refuse_newer(store: Store, found: tuple[int, str] | None, newest: int) -> None:
    if found and found[0] > newest:
        raise ExperimentError(
            f"{store.place}: has tables of version {found[0]}, made by pytest-modeltiers {found[1]}; this is {__version__}, "
            f"which knows version {newest}: pip install 'pytest-modeltiers>={found[1]}'"
        )
