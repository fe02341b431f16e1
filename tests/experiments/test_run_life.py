"""A run: begun, logged to, ended, and what becomes of it when its process does not end well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from postgresql_server import PostgresqlServer
from sqlalchemy import event, text

from harness.experiments import ExperimentDB, ExperimentError, Rhythm, Run

SLOW = Rhythm(flush_rows=10**9, flush_seconds=3600, heartbeat_seconds=3600)
QUICK = Rhythm(flush_seconds=0.05, heartbeat_seconds=0.05, grace_seconds=0.5)
HERE = Path(__file__).parent


def script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=HERE, timeout=60
    )


def train(run: Run) -> None:
    with run:
        for step in range(10):
            run.log_metric("loss", 1 / (9 - step), step=step)


def wait_until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def test_a_block_that_ends_well_is_a_finished_run(db: ExperimentDB) -> None:
    with db.start_run("first", tags=["fast"], notes="a try", facts={"sha256": "ab"}) as run:
        assert db.get_run(run).status == "running"
    record = db.get_run(run)
    assert (record.name, record.status, record.tags, record.notes) == ("first", "finished", ("fast",), "a try")
    assert record.facts == {"sha256": "ab"}
    assert record.pid == os.getpid()
    assert record.finished is not None
    assert abs(record.created.timestamp() - time.time()) < 60
    assert 0 <= record.seconds < 60


def test_a_block_that_raises_is_a_failed_run_that_lost_nothing(address: str) -> None:
    db = ExperimentDB(address, SLOW)
    run = db.start_run()
    with pytest.raises(ZeroDivisionError):
        train(run)
    assert db.get_run(run).status == "failed"
    assert db.get_run(run).facts["error"] == "ZeroDivisionError: division by zero"
    assert db.get_metrics(run).step == list(range(9))


@pytest.mark.parametrize(
    ("raised", "status"), [(KeyboardInterrupt(), "killed"), (SystemExit(0), "finished"), (SystemExit(3), "failed")]
)
def test_how_a_block_is_left_says_how_the_run_ended(raised: BaseException, status: str, tmp_path: Path) -> None:
    db = ExperimentDB(tmp_path / "e.db")
    with pytest.raises(type(raised)), db.start_run() as run:
        raise raised
    assert db.get_run(run).status == status


def test_an_ended_run_takes_no_more(db: ExperimentDB) -> None:
    run = db.start_run("done")
    run.fail("the loss is NaN")
    assert db.get_run(run).facts == {"error": "the loss is NaN"}
    with pytest.raises(ExperimentError, match=r"run 1 \(done\) has ended: it is failed"):
        run.log_metric("loss", 1.0)
    with pytest.raises(ExperimentError, match="has ended"):
        run.finish()


def test_metrics_are_written_by_count_and_by_time(address: str) -> None:
    db = ExperimentDB(address, Rhythm(flush_rows=100, flush_seconds=3600))
    with db.start_run() as by_count:
        for step in range(99):
            by_count.log_metric("loss", step)
        time.sleep(0.1)
        assert len(db.get_metrics(by_count)) == 0
        by_count.log_metric("loss", 99)
        wait_until(lambda: len(db.get_metrics(by_count)) == 100)
    db = ExperimentDB(address, QUICK)
    with db.start_run() as by_time:
        by_time.log_metric("loss", 1.0)
        wait_until(lambda: len(db.get_metrics(by_time)) == 1)


def test_what_waits_is_written_when_the_interpreter_exits(address: str) -> None:
    code = """
import sys
from harness.experiments import ExperimentDB
from test_run_life import SLOW
run = ExperimentDB(sys.argv[1], SLOW).start_run("left")
for step in range(50): run.log_metric("loss", step, step=step)
sys.exit("an error nobody caught")
"""
    done = script(code, address)
    assert done.returncode == 1, done.stderr
    db = ExperimentDB(address, Rhythm(grace_seconds=0))
    assert len(db.get_metrics("left")) == 50
    assert db.get_run("left").status == "killed"


def test_a_forked_child_logs_too_and_writes_nothing_twice(address: str) -> None:
    code = """
import os, sys, warnings
from harness.experiments import ExperimentDB
from test_run_life import SLOW
warnings.simplefilter("ignore")
db = ExperimentDB(sys.argv[1], SLOW)
run = db.start_run("family")
for step in range(50): run.log_metric("parent", step)
with run._recorder._write_lock:  # as if the thread were writing
    child = os.fork()
    if child == 0:
        for step in range(100): run.log_metric("child", step)
        sys.exit(0)  # handlers of atexit run here, unlike in a worker of multiprocessing
for step in range(50):
    run.log_metric("parent", step)
    run.flush()
_, status = os.waitpid(child, 0)
run.finish()
sys.exit(status)
"""
    done = script(code, address)
    assert done.returncode == 0, done.stderr
    db = ExperimentDB(address)
    assert sorted(db.get_metrics("family").name) == ["child"] * 100 + ["parent"] * 100


def test_a_killed_run_loses_no_more_than_the_last_interval_and_is_shown_as_killed(address: str) -> None:
    db = ExperimentDB(address, QUICK)
    code = "import sys; from writers import log_until_killed; log_until_killed(sys.argv[1], 0.1)"
    with subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE, cwd=HERE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        time.sleep(1.5)
        assert db.get_run("doomed").status == "running"
        child.send_signal(signal.SIGKILL)
        killed = time.time()
    columns = db.get_metrics("doomed")
    assert columns.step == list(range(len(columns)))
    assert columns.time[-1] > killed - 1.0  # 0.1 s, and what busy cores add
    wait_until(lambda: db.get_run("doomed").status == "killed")
    assert [run.name for run in db.list_runs(status="killed")] == ["doomed"]
    assert db.list_runs(status="running") == []
    if not address.startswith("postgresql"):
        with db.store.reading() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"


def test_a_living_run_is_not_shown_as_killed(address: str) -> None:
    db = ExperimentDB(address, QUICK)
    with db.start_run() as run:
        time.sleep(3 * QUICK.grace_seconds)
        assert db.get_run(run).status == "running"


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite's own limit on a file's pages stands in for the disk: it raises the same error."""
    db = ExperimentDB(tmp_path / "e.db", Rhythm(flush_seconds=0.05))
    pages = {"limit": 40}

    @event.listens_for(db.store._engine, "begin")
    def _limit(connection: object) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages['limit']}")  # type: ignore[attr-defined]

    run = db.start_run("full")
    for step in range(20_000):
        run.log_metric("loss", step, step=step)
    wait_until(lambda: "metrics wait in memory" in caplog.text)
    assert caplog.text.count("disk is full") == 1
    with pytest.raises(ExperimentError, match=r"metric rows of run 1 are not written: .*e\.db: .*the disk is full"):
        run.finish()
    assert db.get_run(run).status == "running"
    pages["limit"] = 10**6
    run.finish()
    assert db.get_metrics(run).step == list(range(20_000))


def test_the_error_of_a_block_is_not_hidden_by_that_of_the_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    db = ExperimentDB(tmp_path / "e.db", SLOW)
    run = db.start_run()
    with db.store.writing() as connection:
        connection.execute(text("ALTER TABLE metrics RENAME TO hidden"))
    with pytest.raises(ZeroDivisionError):
        train(run)
    assert "9 metric rows of run 1 are not written" in caplog.text
    with db.store.writing() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO metrics"))
    run.fail("again")
    assert len(db.get_metrics(run)) == 9


def test_a_server_that_restarts_loses_nothing(postgresql: PostgresqlServer) -> None:
    address = postgresql.new_database()
    db, reader = ExperimentDB(address, QUICK), ExperimentDB(address)
    with db.start_run("patient") as run:
        run.log_metric("loss", 0.0, step=0)
        run.flush()
        postgresql.stop()
        try:
            run.log_metric("loss", 1.0, step=1)
            time.sleep(0.2)
        finally:
            postgresql.start()
        assert reader.get_run("patient").id == run.id
        run.log_metric("loss", 2.0, step=2)
    assert db.get_metrics(run).step == [0, 1, 2]
    assert db.get_run(run).status == "finished"
