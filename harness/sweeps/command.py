"""What ``modeltiers sweep`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.config import load_config
from harness.experiments.command import Answer
from harness.sweeps.files import FILES
from harness.sweeps.grid import grid_from_options
from harness.sweeps.result import SweepResult
from harness.sweeps.run import sweep_grid
from harness.sweeps.sweep import SweepOptions


def sweep_config(
    path: str | Path, grid_options: Sequence[str], options: SweepOptions, db_path: str | Path | None = None
) -> Answer:
    """Trains a config file once for every combination of some of its values.

    Args:
        path: The config file.
        grid_options: ``key=value,value`` each, or JSON files.
        options: How the grid is swept.
        db_path: The experiment database; by default the config's.

    Returns:
        ``data`` with ``status`` (``ok``; ``warn`` where some trials failed; ``fail`` where none has a finite metric), the ``trials``, the
        ``best`` and the ``files``; and the same for people.

    Raises:
        UserError: What keeps it from being run, in one line.
    """
    config = load_config(path)
    result = sweep_grid(path, grid_from_options(grid_options), replace(options, db=db_path or config.database or options.db))
    return _answer(result)


def _answer(result: SweepResult) -> Answer:
    files = [str(result.folder / name) for name in FILES if (result.folder / name).is_file()]
    return Answer({**result.to_json(), "files": files}, "\n".join([result.table(), "", *files]))
