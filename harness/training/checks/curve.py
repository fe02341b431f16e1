"""The shape of a loss curve, in words."""

from __future__ import annotations

from harness.training.checks.memorising import Attempt, Goal

_FLAT = 0.02


def describe(attempt: Attempt, goal: Goal) -> str:
    """What the loss of an attempt did: rose, stayed, got stuck, was still falling, or became NaN."""
    if attempt.diverged is not None:
        return "the loss became NaN or infinite"
    losses = list(attempt.losses.values())
    start, end = losses[0], losses[-1]
    floor = f" (the batch allows {goal.floor:.3g})" if goal.floor > _FLAT * goal.guess else ""
    if end > start + _FLAT * goal.reducible:
        return f"the loss rises from {start:.3g} to {end:.3g}"
    if start - end < _FLAT * goal.reducible:
        return f"the loss is flat, {start:.3g} before and {end:.3g} after"
    if is_falling(attempt, goal):
        return f"the loss is still falling, from {start:.3g} to {end:.3g}{floor}"
    return f"the loss is stuck at {attempt.best:.3g}, from {start:.3g}{floor}"


def is_falling(attempt: Attempt, goal: Goal) -> bool:
    """Whether the last third of an attempt still got somewhere."""
    then = [loss for step, loss in attempt.losses.items() if step <= attempt.steps * 2 / 3]
    return bool(then) and attempt.diverged is None and min(then) - attempt.best >= _FLAT * goal.reducible
