"""The versions of the tables: how a database is made, brought up to date, and refused when it is newer than this tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from sqlalchemy import Connection, insert, inspect, select

from harness.experiments.errors import ExperimentError
from harness.experiments.store import Store
from harness.experiments.tables import Now, metadata, schema

Migration = Callable[[Connection], None]

MIGRATIONS: tuple[Migration, ...] = ()
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
    with store.alone() as connection:
        found = _version(connection)
        if found is None:
            _create(store, connection, newest)
            return
        _refuse_newer(store, found, newest)
        for number in range(found[0], newest):
            migrations[number - 1](connection)
            _record(connection, number + 1)


def tool_version() -> str:
    """The version of this package."""
    try:
        return version("pytest-modeltiers")
    except PackageNotFoundError:  # run from a source folder that is not installed
        return "0"


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
    connection.execute(insert(schema).values(version=number, tool=tool_version(), applied=Now()))


def _refuse_newer(store: Store, found: tuple[int, str] | None, newest: int) -> None:
    if found and found[0] > newest:
        raise ExperimentError(
            f"{store.place}: has tables of version {found[0]}, made by pytest-modeltiers {found[1]}; this is {tool_version()}, "
            f"which knows version {newest}: pip install 'pytest-modeltiers>={found[1]}'"
        )
