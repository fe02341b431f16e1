"""The experiment database on both of its backends; PostgreSQL is a real server, started for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_server import PostgresqlServer, why_not

from harness.experiments import ExperimentDB


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    if why_not():
        pytest.skip(why_not())
    server = PostgresqlServer()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database may be made."""
    if request.param == "sqlite":
        return str(tmp_path / "experiments.db")
    return str(request.getfixturevalue("postgresql").new_database())


@pytest.fixture
def db(address: str) -> Iterator[ExperimentDB]:
    with ExperimentDB(address) as database:
        yield database
