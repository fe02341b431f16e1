"""The jobs of a sweep: a config a trial, with a name of its own, for one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.config import SuiteConfig
from harness.errors import ConfigError
from harness.sweeps.grid import Combination
from harness.sweeps.job import Job
from harness.sweeps.trial import Trial, train_trial


def make_jobs(
    combinations: Sequence[Combination],
    configs: Sequence[SuiteConfig],
    trial: Trial | None,
    sweep_id: int,
    db_path: str,
    progress: bool,
) -> list[Job]:
    """A job a combination.

    Args:
        combinations: The combinations.
        configs: Their configs.
        trial: What is done for each; by default a training.
        sweep_id: The sweep.
        db_path: The experiment database, absolute.
        progress: Whether trials may show progress of their own.
    """
    return [
        Job(combination, _own(config, combination, sweep_id), trial or train_trial, sweep_id, db_path, progress)
        for combination, config in zip(combinations, configs, strict=True)
    ]


def check_processes(configs: Sequence[SuiteConfig], environment: Mapping[str, str]) -> None:
    """Checks that the sweep is one process, and that each of its trainings will be.

    A training in several processes starts each of them by running the command of the first again, which here would be the whole sweep.

    Raises:
        ConfigError: It is not so.
    """
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a sweep is one process, which starts others by itself: run it without torchrun")
    for config in configs:
        devices = len(config.devices) if isinstance(config.devices, list) else config.devices
        many = devices != "auto" and devices > 1
        if many or config.num_nodes > 1:
            asked = f"`devices` {config.devices}" if many else f"`num_nodes` {config.num_nodes}"
            raise ConfigError(f"{asked}: each trial of a sweep trains in one process; use 1, and several workers")


def _own(config: SuiteConfig, combination: Combination, sweep_id: int) -> SuiteConfig:
    """The config under a name of its own, and for one device, as `auto` would take all that the trials share."""
    own: dict[str, Any] = {}
    if "run_name" not in combination.params:
        own["run_name"] = f"sweep-{sweep_id}-{combination.number:03d}"
    if config.devices == "auto":
        own["devices"] = 1
    return config.model_copy(update=own)
