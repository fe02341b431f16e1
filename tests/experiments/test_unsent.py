"""What a run logs while its database is away: kept in a file beside it, also through its end and a kill, and sent later."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from postgresql_server import PostgresqlServer
from sqlalchemy import event

from harness.experiments import ExperimentDB, ExperimentError, Rhythm, Run
from harness.experiments.command import send
from harness.experiments.recorder import send_unsent

QUICK = Rhythm(flush_seconds=0.05, heartbeat_seconds=3600)


class Lock:
    """A SQLite database that is away: whatever begins a transaction is refused, as by a server that is gone."""

    def __init__(self, db: ExperimentDB) -> None:
        self.is_on = False

        @event.listens_for(db.store._engine, "begin", insert=True)
        def _refuse(connection: object) -> None:
            if self.is_on:
                connection.exec_driver_sql("ATTACH '/nowhere/at/all.db' AS gone")  # type: ignore[attr-defined]


@pytest.fixture
def db(tmp_path: Path) -> ExperimentDB:
    return ExperimentDB(tmp_path / "e.db", QUICK)


def begun(db: ExperimentDB, folder: Path) -> Run:
    run = db.start_run("away")
    run.keep_unsent_in(folder)
    for step in range(5):
        run.log_metric("loss", 1 / (1 + step), step=step)
    run.flush()
    return run


def logged(db: ExperimentDB) -> list[tuple[str, int | None]]:
    found = db.get_metrics("away")
    return list(zip(found.name, found.step, strict=True))


ALL = [("loss", step) for step in range(10)]


def test_a_run_that_ends_while_the_server_is_away_is_whole_later(
    postgresql: PostgresqlServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows, scores, an artifact, a profile, facts and the end, through a real server that is stopped and started again."""
    address = postgresql.new_database()
    db = ExperimentDB(address, QUICK)
    with begun(db, tmp_path / "run") as run:
        postgresql.stop()
        try:
            for step in range(5, 10):
                run.log_metric("loss", float("nan"), step=step)
            (tmp_path / "weights").write_text("w")
            run.log_artifact(tmp_path / "weights", "checkpoint")
            run.log_scores("loss", np.array([1.0, float("inf")]), "set")
            run.log_profile(b"MTPROF and more")
            run.add_facts(steps=10)
            run.finish()
        finally:
            postgresql.start()
    assert "modeltiers runs --send" in caplog.text
    db = ExperimentDB(address, Rhythm(grace_seconds=0))
    assert db.get_run("away").status == "killed"  # as far as the database knows
    answer = send(address, tmp_path / "run")
    assert answer.data == {"sent": {"1": 5}, "left": []}
    record = db.get_run("away")
    assert (record.status, record.facts["steps"]) == ("finished", 10)
    assert logged(db) == ALL
    assert db.get_scores("away", "loss").values.tolist() == [1.0, float("inf")]
    assert [artifact.kind for artifact in db.get_artifacts("away")] == ["checkpoint"]
    assert db.get_profile("away") == b"MTPROF and more"
    assert list((tmp_path / "run").iterdir()) == []
    with pytest.raises(ExperimentError, match="nothing waits"):
        send(address, tmp_path / "run")


def test_a_database_that_comes_back_before_the_end_has_all_and_no_file_is_left(db: ExperimentDB, tmp_path: Path) -> None:
    lock = Lock(db)
    with begun(db, tmp_path / "run") as run:
        lock.is_on = True
        run.log_metric("loss", 1.0, step=5)
        run.secure()
        run.add_facts(notes=["one"])
        run.log_metric("loss", 1.0, step=6)
        run.secure()
        (file,) = (tmp_path / "run").iterdir()
        assert file.read_text().count("\n") == 4  # of the run, of each row, of the facts
        lock.is_on = False
        for step in range(7, 10):
            run.log_metric("loss", 1.0, step=step)
    assert logged(db) == ALL
    assert db.get_run("away").facts == {"notes": ["one"]}
    assert list((tmp_path / "run").iterdir()) == []


def test_what_is_secured_outlives_a_kill_and_is_not_written_twice(db: ExperimentDB, tmp_path: Path) -> None:
    lock = Lock(db)
    run = begun(db, tmp_path / "run")
    lock.is_on = True
    for step in range(5, 10):
        run.log_metric("loss", 1.0, step=step)
    run.secure()
    (file,) = (tmp_path / "run").iterdir()
    left = file.read_text()
    lock.is_on = False
    run.finish()  # the rows are in the database, and the process was killed before it deleted the file …
    file.write_text(left + '{"metrics": {"rows": [{"na')  # … in the middle of a line
    assert send_unsent(db.store, tmp_path / "run") == {1: 0}
    assert logged(db) == ALL
    assert not file.exists()


def test_without_a_folder_the_end_raises_as_before(db: ExperimentDB) -> None:
    lock = Lock(db)
    run = db.start_run("away")
    run.log_metric("loss", 1.0)
    lock.is_on = True
    with pytest.raises(ExperimentError, match="1 metric rows of run 1 are not written"):
        run.finish()
    lock.is_on = False
    run.finish()
    assert db.get_run("away").status == "finished"


def test_a_file_of_another_database_or_of_nobody_is_left_alone(db: ExperimentDB, tmp_path: Path) -> None:
    lock = Lock(db)
    run = begun(db, tmp_path / "run")
    lock.is_on = True
    run.finish()
    other = ExperimentDB(tmp_path / "other.db")
    other.start_run("its own").finish()
    assert send_unsent(other.store, tmp_path / "run") == {}
    answer = send(tmp_path / "other.db", tmp_path / "run")
    assert answer.text.endswith(f"unsent-run-1.jsonl: its run is not in {tmp_path / 'other.db'}")
    (tmp_path / "run" / "unsent-run-7.jsonl").write_text(json.dumps({"somebody": "else's"}) + "\n")
    lock.is_on = False
    with pytest.raises(ExperimentError, match=r"unsent-run-7\.jsonl: line 1 is none that a run wrote"):
        send_unsent(db.store, tmp_path / "run")
    assert db.get_run("away").status == "finished"  # the sound file was sent


def test_modeltiers_runs_sends(db: ExperimentDB, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    lock = Lock(db)
    run = begun(db, tmp_path / "run")
    lock.is_on = True
    run.finish()
    lock.is_on = False
    from harness.cli import main

    assert main(["runs", "--db", str(tmp_path / "e.db"), "--send", str(tmp_path / "run")]) == 0
    assert db.get_run("away").status == "finished"
