"""The files that a sweep leaves: ``sweep.csv``, ``sweep.json`` and ``sweep.png``."""

from __future__ import annotations

import csv
import io
import json
from importlib.util import find_spec
from typing import Any

from harness.experiments.errors import ExperimentError
from harness.files import write_whole
from harness.sweeps.picture import to_png
from harness.sweeps.result import SweepResult

FILES = ("sweep.csv", "sweep.json", "sweep.png")


def write_files(result: SweepResult) -> None:
    """Writes a sweep's table, data and picture into its folder; the picture only where matplotlib is installed.

    Raises:
        ExperimentError: They cannot be written.
    """
    table, data = to_csv(result).encode(), json.dumps(result.to_json(), indent=2).encode()
    picture = to_png(result) if find_spec("matplotlib") else None
    try:
        for name, content in zip(FILES, (table, data, picture), strict=True):
            if content is not None:
                write_whole(result.folder / name, content)
    except OSError as error:
        raise ExperimentError(f"{result.folder}: the sweep's files cannot be written: {error.strerror or error}") from None


def to_csv(result: SweepResult) -> str:
    """A row a trial, in the order of the table: the values, the metrics, and what became of it."""
    metrics = dict.fromkeys([result.metric, *(name for trial in result.trials for name in trial.metrics)])
    taken = {"number", "run_id", "status", "seconds", "error", *result.grid.values}
    names = [f"{name} (metric)" if name in taken else name for name in metrics]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["number", *result.grid.values, *names, "run_id", "status", "seconds", "error"])
    for trial in result.trials:
        params = [_cell(value) for value in trial.params.values()]
        found = [trial.metrics.get(name, "") for name in metrics]
        end = [trial.run_id, trial.status, f"{trial.seconds:.3f}", trial.error or ""]
        writer.writerow([trial.combination.number, *params, *found, *end])
    return file.getvalue()


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
