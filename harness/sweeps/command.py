"""What ``modeltiers sweep`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.config import load_config
from harness.experiments.command import Answer
from harness.experiments.records import Mode
from harness.sweeps.executors.table import ExecutorName
from harness.sweeps.files import FILES
from harness.sweeps.grid_options import grid_from_options
from harness.sweeps.result import SweepResult
from harness.sweeps.run import run_grid_sweep


def sweep_config(
    path: str | Path,
    grid_options: Sequence[str],
    *,
    metric: str = "val_loss",
    mode: Mode = "min",
    executor: ExecutorName = "inline",
    workers: int | None = None,
    db_path: str | Path | None = None,
    name: str | None = None,
    resume: int | None = None,
    output_dir: str | Path | None = None,
    progress: bool = True,
) -> Answer:
    """Trains a config file once for every combination of some of its values.

    Args:
        path: The config file.
        grid_options: ``key=value,value`` each, or JSON files.
        metric: What the trials are ordered by.
        mode: ``min`` where smaller is better, ``max`` where greater is.
        executor: ``inline``, ``processes`` or ``ray``.
        workers: How many trials run at once.
        db_path: The experiment database; by default the config's.
        name: The sweep's name.
        resume: The id of the sweep to go on with.
        output_dir: Where its files go.
        progress: Whether a line a trial is printed on stderr.

    Returns:
        ``data`` with ``status`` (``ok``; ``warn`` where some trials failed; ``fail`` where none has a finite metric), the ``trials``, the
        ``best`` and the ``files``; and the same for people.

    Raises:
        UserError: What keeps it from being run, in one line.
    """
    config = load_config(path)
    result = run_grid_sweep(
        path,
        grid_from_options(grid_options),
        metric=metric,
        mode=mode,
        executor=executor,
        workers=workers,
        db_path=db_path or config.database,
        name=name,
        resume=resume,
        output_dir=output_dir,
        progress=progress,
    )
    return _answer(result)


def _answer(result: SweepResult) -> Answer:
    files = [str(result.folder / name) for name in FILES if (result.folder / name).is_file()]
    return Answer({**result.to_json(), "files": files}, "\n".join([result.table(), "", *files]))
