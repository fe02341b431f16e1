"""Many processes at one database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy import text
from writers import together, write_a_run

from harness.experiments import ExperimentDB


def test_eight_processes_make_the_tables_and_write_at_once(address: str) -> None:
    """None of them finds the database there; all of them make it, and none fails or loses a row."""
    steps = 625
    assert together(8, write_a_run, address, steps) == []
    db = ExperimentDB(address)
    runs = db.list_runs()
    assert sorted(run.name for run in runs) == [f"writer-{index}" for index in range(8)]
    assert {run.status for run in runs} == {"finished"}
    for run in runs:
        assert db.get_metrics(run, "loss").step == list(range(steps))
        assert len(db.get_metrics(run)) == 2 * steps
        assert len(run.facts) == 7
    assert db.resolve("newest") in {run.id for run in runs}


def test_a_sqlite_file_is_in_wal_mode_so_that_readers_do_not_wait(tmp_path: Path) -> None:
    db = ExperimentDB(tmp_path / "e.db")
    with db.start_run() as run, db.store.writing() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert db.get_run(run).status == "running"


COMES_AND_GOES = """
import sys
from harness.experiments import ExperimentDB
with ExperimentDB(sys.argv[1]) as db, db.start_run("child") as run:
    run.log_metric("loss", 1.0)
"""


def test_a_second_database_object_does_not_drop_the_locks_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with ExperimentDB(path) as first:
        first.start_sweep("begun", {})
        with ExperimentDB(path) as second:
            second.list_runs()
            for _ in range(2):
                subprocess.run([sys.executable, "-c", COMES_AND_GOES, str(path)], check=True)
                with first.start_run("parent"):
                    pass
            expected = ["parent", "child", "parent", "child"]
            assert [run.name for run in first.list_runs()] == [run.name for run in second.list_runs()] == expected
