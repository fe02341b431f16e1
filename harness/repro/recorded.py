"""What a database holds of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.data_reference import DataReference
from harness.experiments import ArtifactRecord, ExperimentDB, ExperimentError, MetricColumns, RunRecord, RunRef
from harness.experiments.store import address_of, file_of

DEFAULT_DB = "experiments.db"


@dataclass(frozen=True)
class RecordedRun:
    """What a database holds of a run.

    Attributes:
        record: The run.
        configs: Its configs by kind.
        last: The last value of each metric.
        history: All values of all metrics.
        artifacts: The files it made.
    """

    record: RunRecord
    configs: dict[str, Any]
    last: dict[str, float]
    history: MetricColumns
    artifacts: list[ArtifactRecord]

    @property
    def title(self) -> str:
        """``run 3 (cli-run-01)``."""
        return f"run {self.record.id} ({self.record.name})"

    @property
    def config_folder(self) -> Path:
        """The folder that the paths of its config are relative to; the current one where the run does not say."""
        path = self.record.facts.get("config_path")
        if isinstance(path, str) and path:
            return Path(path).parent
        data = DataReference.from_json(self.record.facts.get("data"))
        return Path.cwd() if data is None else data.folder


def read_run(run: RunRef, db: ExperimentDB | str | Path | None) -> RecordedRun:
    """Reads a run.

    Raises:
        ExperimentError: There is no such run or database, or it cannot be read.
    """
    with _opened(db) as opened:
        record = opened.get_run(run)
        (last,) = opened.get_last_metrics([record])
        return RecordedRun(record, opened.get_configs(record), last, opened.get_metrics(record), opened.get_artifacts(record))


def read_newest(path: Path) -> RecordedRun | None:
    """The newest run of a database; ``None`` where there is no database, or no run in it."""
    if not path.is_file():
        return None
    with ExperimentDB(path) as db:
        newest = next(iter(db.list_runs(limit=1)), None)
        return None if newest is None else read_run(newest, db)


@contextmanager
def _opened(db: ExperimentDB | str | Path | None) -> Iterator[ExperimentDB]:
    if isinstance(db, ExperimentDB):
        yield db
        return
    address = DEFAULT_DB if db is None else db
    file = file_of(address_of(address))
    if file is not None and not file.exists():  # opening it would make it
        raise ExperimentError(f"{file}: no such database; give the one that the run was logged to")
    with ExperimentDB(address) as opened:
        yield opened
