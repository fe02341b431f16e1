"""The executors by name."""

from __future__ import annotations

from typing import Literal, get_args

from harness.errors import ConfigError, did_you_mean
from harness.sweeps.executors.executor import Executor

ExecutorName = Literal["inline", "processes", "ray"]


def make_executor(name: str, workers: int | None = None) -> Executor:
    """An executor by its name.

    Args:
        name: ``inline``, ``processes`` or ``ray``.
        workers: How many trials run at once; ``None`` for what suits the machine.

    Raises:
        ConfigError: There is no such executor, or it cannot have that many workers.
        MissingPackageError: It needs a package that is not installed.
    """
    names = get_args(ExecutorName)
    if name not in names:
        raise ConfigError(f"no executor {name!r}.{did_you_mean(name, names)} Executors: {', '.join(names)}")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ConfigError(f"workers: got {workers!r}, expected a number from 1")
    if name == "processes":
        from harness.sweeps.executors.processes import ProcessExecutor

        return ProcessExecutor(workers)
    if name == "ray":
        from harness.sweeps.executors.ray_tasks import RayExecutor

        return RayExecutor(workers)
    if workers not in (None, 1):
        raise ConfigError(f"{workers} workers need the executor 'processes' or 'ray': 'inline' does one trial after another")
    from harness.sweeps.executors.inline import InlineExecutor

    return InlineExecutor()
