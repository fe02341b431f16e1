"""How long a training step takes, and whether a check has the time for those it needs."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

from torch import nn

from harness.processor_time import processor_seconds
from harness.training.trial import Trial

_measured: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()


def seconds_per_step(trial: Trial) -> float:
    """Seconds of one step on a batch of typical sizes, with what a short training needs around it."""
    model = trial.subject.model
    if model not in _measured:
        batch = trial.subject.batch()
        trial.train([batch], limit=1)  # the first one imports and allocates
        started = processor_seconds()
        trial.train([batch], limit=1)
        _measured[model] = processor_seconds() - started
    return _measured[model]


def too_long(trial: Trial, steps: int) -> str:
    """Why a number of steps is not taken; empty where there is time for it."""
    if math.isinf(trial.seconds):
        return ""
    each = seconds_per_step(trial)
    if each * steps <= trial.seconds:
        return ""
    return (
        f"a step takes {each:.2g} s, so the {steps} steps of this check would take {each * steps:.2g} s, and `time_budget` leaves it "
        f"{trial.seconds:.2g} s"
    )
