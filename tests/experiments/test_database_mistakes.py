"""What can be wrong with a database, each said in one line."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_server import PostgresqlServer

from harness.errors import UserError
from harness.experiments import ExperimentDB, ExperimentError, MissingPackageError


def refused(address: str | Path) -> str:
    with pytest.raises(ExperimentError) as error:
        ExperimentDB(address)
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "an empty path: a database is shared between processes, so it must be a file"),
        (":memory:", ":memory:: a database is shared between processes"),
        ("sqlite://", "a database is shared between processes"),
        ("mysql://me@host/db", "mysql://me@host/db: databases are SQLite files and PostgreSQL servers, not mysql"),
        ("postgresql://me@host:port/db", "host:port/db: not a database URL; expected postgresql://user@host:5432/database"),
        ("postgresql://me:secret@127.0.0.1:1/db", "postgresql://me:***@127.0.0.1:1/db: "),
        ("postgres://me@127.0.0.1:1/db", "Connection refused"),
        ("postgresql://me@nowhere.invalid/db", "postgresql://me@nowhere.invalid/db: "),
    ],
)
def test_an_address_that_leads_nowhere(address: str, words: str) -> None:
    message = refused(address)
    assert words in message
    assert "secret" not in message


def test_a_server_that_refuses_the_user_or_the_database(postgresql: PostgresqlServer) -> None:
    host = f"?host={postgresql.folder}"
    assert 'database "gone" does not exist' in refused(f"postgresql://tester@/gone{host}")
    assert 'role "stranger" does not exist' in refused(f"postgresql://stranger@/postgres{host}")


def test_a_missing_driver_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-modeltiers\[postgresql\]'"):
        ExperimentDB("postgresql://me@host/db")


@pytest.mark.parametrize("content", [b"run,loss\n1,0.5\n" * 100, b"x", b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_file_that_is_no_database(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_bytes(content)
    assert f"{file}: is not an SQLite database" in refused(file)
    assert file.read_bytes() == content


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    assert f"{tmp_path}: cannot be opened" in refused(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "e.db: cannot be opened: Not a directory" in refused(tmp_path / "file" / "deeper" / "e.db")
    assert "e.db: its folder cannot be made: " in refused("/proc/none/deeper/e.db")


def test_a_damaged_database(tmp_path: Path) -> None:
    with ExperimentDB(tmp_path / "e.db") as db, db.start_run() as run:
        for step in range(20_000):
            run.log_metric("loss", step)
    content = bytearray((tmp_path / "e.db").read_bytes())
    content[8 * 4096 :] = b"\xa5" * len(content[8 * 4096 :])
    (tmp_path / "e.db").write_bytes(content)
    with pytest.raises(ExperimentError, match=r"is damaged; `sqlite3 FILE .recover` prints what can still be read"):
        ExperimentDB(tmp_path / "e.db").get_metrics(1)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can look into, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="mt-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


ORDINARY = """
import os, pwd, tempfile
from harness.experiments import ExperimentDB
if os.geteuid() == 0:
    with tempfile.TemporaryDirectory() as folder:
        ExperimentDB(folder + "/e.db").list_runs()  # imports what it needs while it still may read it
    os.setgroups([])
    os.setgid(pwd.getpwnam("nobody").pw_gid)
    os.setuid(pwd.getpwnam("nobody").pw_uid)
"""


def as_ordinary_user(code: str, *arguments: object) -> str:
    """What a process prints that has no rights of root, whom no file refuses."""
    command = [sys.executable, "-c", ORDINARY + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


OPEN = """
import sys
from harness.experiments import ExperimentDB, ExperimentError
try:
    db = ExperimentDB(sys.argv[1])
    print([run.name for run in db.list_runs()])
    db.start_run("second")
except ExperimentError as error:
    print("refused", error)
"""


def test_a_folder_that_cannot_be_written(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    said = as_ordinary_user(OPEN, open_folder / "e.db")
    assert said == f"refused {open_folder}/e.db: cannot be written: Permission denied\n"


def test_a_database_that_cannot_be_written_can_be_read_where_its_folder_can(open_folder: Path) -> None:
    file = open_folder / "e.db"
    with ExperimentDB(file) as db, db.start_run("first"):
        pass
    open_folder.chmod(0o777)
    file.chmod(0o444)
    said = as_ordinary_user(OPEN, file)
    assert said == f"['first']\nrefused {file}: cannot be written: the file or its folder is read-only\n"


def test_a_database_on_a_read_only_drive(open_folder: Path) -> None:
    file = open_folder / "e.db"
    with ExperimentDB(file) as db, db.start_run("first"):
        pass
    file.chmod(0o444)
    open_folder.chmod(0o555)
    said = as_ordinary_user(OPEN, file)
    assert said.count("\n") == 1
    assert said.startswith(f"refused {file}: cannot be")


def test_another_program_that_keeps_the_database_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setattr("harness.experiments.store.BUSY_SECONDS", 0.1)
    db = ExperimentDB(tmp_path / "e.db")
    with sqlite3.connect(tmp_path / "e.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ExperimentError, match="was locked by another program"):
            db.start_run()
        other.execute("COMMIT")
    other.close()
