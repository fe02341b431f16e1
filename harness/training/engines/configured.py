"""What ``configure_optimizers`` of a LightningModule returned, checked before Lightning reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from harness.errors import TrainingError

_WHAT = "`configure_optimizers` returns"


@contextmanager
def checking_configuration(module: Any) -> Iterator[None]:
    """A block in which a mistake in what a module configures is told in one line, where Lightning would raise from inside."""
    configure, before = module.configure_optimizers, vars(module).get("configure_optimizers")

    def configure_optimizers() -> Any:
        returned = configure()
        check_configuration(returned, module.automatic_optimization)
        return returned

    module.configure_optimizers = configure_optimizers
    try:
        yield
    finally:
        del module.configure_optimizers
        if before is not None:
            module.configure_optimizers = before


def check_configuration(returned: Any, is_automatic: bool) -> None:
    """Checks that there is an optimizer, and that every schedule has one of those that are there.

    Args:
        returned: What ``configure_optimizers`` returned.
        is_automatic: Whether Lightning takes the steps; manual optimisation needs no optimizer here.

    Raises:
        TrainingError: There is none, or a schedule cannot be used.
    """
    if returned is None:
        if is_automatic:
            raise TrainingError(f"{_WHAT} None, so nothing is trained: return an optimizer")
        return
    optimizers, schedules = list[Any](), list[Any]()
    parts = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    for part in (inner for each in parts for inner in (each if isinstance(each, (list, tuple)) else [each])):
        if isinstance(part, Mapping) and "scheduler" in part:
            schedules.append(part["scheduler"])
        elif isinstance(part, Mapping):
            if "optimizer" not in part:
                raise TrainingError(f'{_WHAT} a dict with {sorted(map(str, part))} and without "optimizer": add the optimizer')
            optimizers.append(part["optimizer"])
            given = part.get("lr_scheduler")
            schedules += (
                [] if given is None else [given["scheduler"] if isinstance(given, Mapping) and "scheduler" in given else given]
            )
        elif isinstance(part, Optimizer):
            optimizers.append(part)
        elif part is not None and not isinstance(part, int):
            schedules.append(part)
    for schedule in schedules:
        _check_schedule(schedule, optimizers)


def _check_schedule(schedule: Any, optimizers: list[Any]) -> None:
    name = type(schedule).__name__
    if not optimizers:
        raise TrainingError(f"{_WHAT} {name} and no optimizer: return the optimizer beside its schedule")
    if not callable(getattr(schedule, "step", None)):
        raise TrainingError(
            f"{_WHAT} {name} as a learning rate schedule, which has no step(): return one of torch.optim.lr_scheduler"
        )
    own = getattr(schedule, "optimizer", None)
    if isinstance(schedule, (LRScheduler, ReduceLROnPlateau)) and not any(own is each for each in optimizers):
        raise TrainingError(
            f"{_WHAT} {name} of another optimizer than those it returns: make it from the optimizer that is returned"
        )
