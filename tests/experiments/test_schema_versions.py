"""The versions of the tables."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text

from harness.experiments import ExperimentDB, ExperimentError
from harness.experiments.store import Store, address_of
from harness.experiments.tables import MIGRATIONS, bring_up_to_date

HERE = Path(__file__).parent


def made_by_hand(address: str) -> Store:
    """A database as version 1 of the tables made it, with a run in it."""
    store = Store(address_of(address))
    backend = store.url.get_backend_name()
    store.make_file()
    with store.writing() as connection:
        for statement in (HERE / f"tables_v1.{backend}.sql").read_text().split(";"):
            if statement.strip():
                connection.execute(text(statement))
        connection.execute(text("INSERT INTO modeltiers_schema VALUES (1, '0.1.0', 0)"))
        connection.execute(
            text(
                "INSERT INTO runs (id, name, status, task, created, heartbeat, host, pid, notes, tags, facts) "
                "VALUES (1, 'old', 'finished', '', 0, 0, 'h', 1, '', '[]', '{}')"
            )
        )
        if backend == "postgresql":
            connection.execute(text("SELECT setval(pg_get_serial_sequence('runs', 'id'), 1)"))
    return store


def tables_of(store: Store) -> dict[str, Any]:
    with store.reading() as connection:
        look = inspect(connection)
        return {
            name: {
                "columns": sorted((c["name"], str(c["type"]), c["nullable"]) for c in look.get_columns(name)),
                "primary": look.get_pk_constraint(name)["constrained_columns"],
                "foreign": sorted((f["constrained_columns"], f["referred_table"]) for f in look.get_foreign_keys(name)),
                "indexes": sorted((i["name"], i["column_names"]) for i in look.get_indexes(name)),
            }
            for name in look.get_table_names()
        }


def add_owner(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE runs ADD COLUMN owner TEXT NOT NULL DEFAULT 'nobody'"))


def add_teams(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE teams (name TEXT PRIMARY KEY)"))
    connection.execute(text("INSERT INTO teams SELECT DISTINCT owner FROM runs"))


def test_the_steps_lead_from_version_1_to_the_tables_of_a_new_database(address: str, tmp_path: Path) -> None:
    """Red where `tables.py` was changed without a step in `migrations.py`."""
    old = made_by_hand(address)
    bring_up_to_date(old, MIGRATIONS)
    migrated = tables_of(old)
    with old.writing() as connection:
        for name in (
            "windows",
            "names",
            "scores",
            "comparisons",
            "profiles",
            "artifacts",
            "metrics",
            "configs",
            "runs",
            "sweeps",
        ):
            connection.execute(text(f"DROP TABLE {name}"))
        connection.execute(text("DROP TABLE modeltiers_schema"))
    bring_up_to_date(old, MIGRATIONS)
    assert migrated == tables_of(old)


def test_an_old_database_opens_and_takes_new_runs(address: str) -> None:
    made_by_hand(address).close()
    with ExperimentDB(address) as db:
        assert db.get_run(1).name == "old"
        with db.start_run("new") as run:
            run.log_metric("loss", 1.0)
        assert [run.name for run in db.list_runs()] == ["new", "old"]


def test_an_older_database_goes_through_every_step_in_order_once(address: str) -> None:
    store = made_by_hand(address)
    for _ in range(2):
        bring_up_to_date(store, [add_owner, add_teams])
    with store.reading() as connection:
        assert connection.execute(text("SELECT name, owner FROM runs")).all() == [("old", "nobody")]
        assert connection.execute(text("SELECT name FROM teams")).all() == [("nobody",)]
        assert connection.execute(text("SELECT version FROM modeltiers_schema ORDER BY 1")).scalars().all() == [1, 2, 3]


def test_a_step_that_fails_leaves_the_database_as_it_was(address: str) -> None:
    store = made_by_hand(address)
    before = tables_of(store)

    def broken(connection: Connection) -> None:
        add_teams(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bring_up_to_date(store, [add_owner, broken])
    assert tables_of(store) == before
    bring_up_to_date(store, [add_owner, add_teams])


def test_a_newer_database_is_refused_with_the_version_that_is_needed(address: str) -> None:
    store = made_by_hand(address)
    with store.writing() as connection:
        connection.execute(text("INSERT INTO modeltiers_schema VALUES (9, '7.5.0', 0)"))
    with pytest.raises(ExperimentError, match=r"pip install 'pytest-modeltiers>=7\.5\.0'") as error:
        ExperimentDB(address)
    assert "has tables of version 9, made by pytest-modeltiers 7.5.0" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_tables_of_another_program_are_left_alone(address: str, tmp_path: Path) -> None:
    store = Store(address_of(address))
    store.make_file()
    with store.writing() as connection:
        connection.execute(text("CREATE TABLE metrics (run_uuid TEXT)"))
    with pytest.raises(ExperimentError, match=r"has tables of another program \(metrics\); use a separate database"):
        ExperimentDB(address)
    assert list(tables_of(store)) == ["metrics"]


def test_a_file_made_by_version_1_is_plain_sqlite(tmp_path: Path) -> None:
    ExperimentDB(tmp_path / "e.db").close()
    with sqlite3.connect(tmp_path / "e.db") as connection:
        assert connection.execute("SELECT max(version) FROM modeltiers_schema").fetchone() == (1 + len(MIGRATIONS),)
