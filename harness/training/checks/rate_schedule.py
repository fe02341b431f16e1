"""Whether a learning rate schedule fits the run that it is made for: its pace, its end, and that anyone steps it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, CyclicLR

from harness.compat import lightning_of, parts_of_schedule
from harness.evidence import Evidence, Status
from harness.training.optimisation import rate_of
from harness.training.trial import Training, Trial, TrialOptions
from harness.user_code import raised
from harness.wording import counted

_NAME = "learning_rate_schedule"
_SHORT = 64
"""Steps that any run takes, where nothing says how long it is."""

_HALF = 0.5
"""Share of the largest rate below which a rate has fallen."""

_LEFT = 0.25
"""Share of the largest rate that a schedule has still to fall where the run ends before it."""

_RISE = 0.3
"""Share of the largest rate by which a rate rises again, step by step, where its schedule has been passed."""

_JUMP = 0.9
"""Share of such a rise that one step of a restart makes at once, which is on purpose."""

_NOTHING = 0.02
"""Share of the largest rate that trains nothing any more."""

_MOST = 2 / 3
"""Share of a run after which it may be trained with nothing."""

_ROUNDING = 1e-6
"""Share of the largest rate up to which two rates are the same."""

_EPOCHS, _BATCHES = 3, 4
"""Of a training whose rates are set without a schedule."""

_CYCLES = (CosineAnnealingWarmRestarts, CyclicLR)
"""Schedules that rise again on purpose."""


@dataclass(frozen=True)
class Run:
    """How long a training is.

    Attributes:
        epochs: Epochs.
        batches: Batches of an epoch.
        accumulate: Batches an optimizer step, where Lightning accumulates.
    """

    epochs: int
    batches: int
    accumulate: int = 1

    def describe(self) -> str:
        """Such as ``4 epochs of 40 batches``."""
        steps = f", a step every {self.accumulate}" if self.accumulate > 1 else ""
        return f"{counted(self.epochs, 'epoch')} of {counted(self.batches, 'batch')}{steps}"


_USUAL = Run(4, 40)
_PROCESSES = 2


@dataclass(frozen=True)
class _Made:
    """A schedule as the model made it for a run, and as Lightning steps it.

    Attributes:
        schedule: The schedule, after the first step of the run.
        by_steps: Whether Lightning steps it at each optimizer step, and not at each epoch.
        frequency: At every how many of these.
        first: The largest rate of any group at the first optimizer step; ``None`` where its optimizer took none.
    """

    schedule: Any
    by_steps: bool
    frequency: int
    first: float | None

    @property
    def kind(self) -> str:
        """Its class, as code."""
        return f"`{type(self.schedule).__name__}`"


@dataclass(frozen=True)
class _Pace:
    """How often a schedule is stepped: so often an epoch, and so often a batch."""

    by_epoch: float
    by_batch: float

    def steps(self, run: Run) -> int:
        """Its steps in a run."""
        return round(run.epochs * (self.by_epoch + self.by_batch * run.batches / run.accumulate))


@dataclass(frozen=True)
class _Curve:
    """The largest rate of any group after each step of a schedule.

    Attributes:
        rates: The rates; the first is that of the first optimizer step.
        error: What the schedule raised at the end of them; empty where it went on.
        cycles: Whether it rises again on purpose.
    """

    rates: tuple[float, ...]
    error: str
    cycles: bool

    @property
    def end(self) -> int:
        """The step at which the rate is lowest for the first time after its peak; where it falls forever, the last one that was looked at."""
        margin = _ROUNDING * max(self.rates)
        peak = next(step for step, rate in enumerate(self.rates) if rate >= max(self.rates) - margin)
        low = min(self.rates[peak:])
        return next(step for step in range(peak, len(self.rates)) if self.rates[step] <= low + margin)

    @property
    def never_ends(self) -> bool:
        """Whether it is not known to have an end."""
        return not self.error and self.end >= len(self.rates) - 1


def learning_rate_schedule(trial: Trial) -> Evidence:
    """A schedule is stepped, gives rates that can be used, and ends with the run where its length follows from that of the run.

    The schedule that a LightningModule makes for a run of a few epochs is taken through it, without training. Where it is the same for a run
    of twice the epochs or batches, its length is a number that somebody chose, of which only the first steps are judged.
    """
    if not trial.is_own:
        return Evidence.skipped(_NAME, "the schedule is the suite's own, which ends with the run")
    if not any(parameter.requires_grad for parameter in trial.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    first = _schedules(trial, _USUAL)
    if not first:
        return _judge_by_hand(trial)
    paces = _paces(trial, first)
    accumulate = trial.config.accumulate_grad_batches if getattr(trial.subject.model, "automatic_optimization", True) else 1
    usual = replace(_USUAL, accumulate=accumulate)
    told = ""
    for number, pace in enumerate(paces):
        if not pace.by_epoch and not pace.by_batch:
            return _finding(
                f"{first[number].kind} is never stepped: the learning rate is the same at every step",
                "manual optimisation, where Lightning steps no schedule: call self.lr_schedulers().step()",
                "schedule_not_stepped",
            )
        curves = _curves(trial, number, usual)
        found = (
            _judge_count(first[number])
            or _judge(curves, pace, usual, first[number].kind)
            or _judge_processes(trial, number, curves[usual], pace, usual)
        )
        if found is not None:
            return found
        told = told or f"{first[number].kind}: {_told(curves[usual], pace.steps(usual))}"
    return Evidence.ok(_NAME, told, counterexample=usual.describe())


def _judge_by_hand(trial: Trial) -> Evidence:
    """Rates that the model sets itself, without a schedule: a warm-up must not begin again in each epoch."""
    if len(set(_rates_by_hand(trial, 1, 2))) < 2:
        return Evidence.skipped(_NAME, "the model has no learning rate schedule that follows the steps")
    rates = _rates_by_hand(trial, _EPOCHS, _BATCHES)
    size = len(rates) // _EPOCHS
    begin, *later = [rates[size * number : size * (number + 1)] for number in range(_EPOCHS)]
    told = f"the learning rate, set without a schedule, goes from {rates[0]:.3g} to {rates[-1]:.3g}"
    at = Run(_EPOCHS, _BATCHES).describe()
    if not begin or begin != sorted(begin) or begin[0] >= begin[-1] or any(each != begin for each in later):
        return Evidence.ok(_NAME, told, counterexample=at)
    return _finding(
        f"the learning rate, set without a schedule, rises from {begin[0]:.3g} to {begin[-1]:.3g} in each of {_EPOCHS} epochs: its warm-up "
        "begins again with every epoch",
        "a warm-up that counts the batches of the epoch (batch_idx): count the steps of the run (self.trainer.global_step)",
        "warms_up_each_epoch",
    )


def _rates_by_hand(trial: Trial, epochs: int, batches: int) -> list[float]:
    """The largest rate of any group at each optimizer step of a short training."""
    rates: list[float] = []
    every = max(1, trial.batches_per_step)
    trial.train(
        [trial.subject.batch()] * (batches * every),
        TrialOptions(epochs=epochs),
        on_gradients=lambda _model, optimizers: rates.append(max(map(_rate, optimizers))),
    )
    return rates


def _judge_processes(trial: Trial, number: int, alone: _Curve, pace: _Pace, usual: Run) -> Evidence | None:
    """A finding where a schedule is longer, or is stepped more often, in each of several processes that have as many batches as one has."""
    with _in_processes(trial.subject.model):
        made = _schedules(trial, usual)[number]
        paces = _paces(trial, [made]) if not getattr(trial.subject.model, "automatic_optimization", True) else [pace]
    told = f"{made.kind} counts processes: in each of {_PROCESSES}"
    cause = "a number of steps that is multiplied by `world_size`, or a step of the schedule for each process: Lightning steps it once a step"
    if paces[0].by_batch > 1.5 * pace.by_batch > 0:
        return _finding(f"{told} it is stepped {paces[0].by_batch / pace.by_batch:.3g} times as often", cause, "counts_processes")
    among = _curve(made, len(alone.rates) - 1)
    if alone.never_ends or among.end < 1.5 * alone.end or alone.end < 2:
        return None
    return _finding(f"{told} it ends after {among.end} steps, and after {alone.end} in a single one", cause, "counts_processes")


@contextmanager
def _in_processes(model: nn.Module) -> Iterator[None]:
    """A block in which trainers say that they are one of several processes."""
    with patch.object(lightning_of(model).Trainer, "world_size", property(lambda _self: _PROCESSES)):
        yield


def _told(curve: _Curve, steps: int) -> str:
    seen = curve.rates[: max(1, steps)]
    return f"the learning rate goes from {seen[0]:.3g} over {max(seen):.3g} to {seen[-1]:.3g}"


def _schedules(trial: Trial, run: Run) -> list[_Made]:
    """The schedules that the model makes for a run, after its first step."""
    batches = [trial.subject.batch()] * run.batches
    first: dict[int, float] = {}

    def look(_model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        first.update({id(each): _rate(each) for each in optimizers if id(each) not in first})

    options = TrialOptions(epochs=run.epochs, limit=1, accumulate=run.accumulate)
    training = trial.train(batches, options, on_gradients=look)
    made = [(each, first.get(id(each.scheduler.optimizer))) for each in _judged(training)]
    return [_Made(each.scheduler, each.interval == "step", each.frequency, rate) for each, rate in made]


def _judged(training: Training) -> list[Any]:
    """The schedules that count as PyTorch's do and wait for no metric (with patience), of optimizers that do not find their own rate."""
    made = [s for s in training.schedules if hasattr(s.scheduler, "last_epoch") and not hasattr(s.scheduler, "patience")]
    return [each for each in made if all(group.get("lr") is not None for group in each.scheduler.optimizer.param_groups)]


def _paces(trial: Trial, schedules: Sequence[_Made]) -> list[_Pace]:
    """How often each schedule is stepped: as Lightning says, or counted where the training step does it."""
    if getattr(trial.subject.model, "automatic_optimization", True):
        return [_Pace(0.0, 1 / each.frequency) if each.by_steps else _Pace(1 / each.frequency, 0.0) for each in schedules]
    every = max(1, trial.batches_per_step)
    counts = []
    for batches in (2 * every, 4 * every):
        training = trial.train([trial.subject.batch()] * batches, TrialOptions(epochs=2))
        counts.append([each.scheduler.last_epoch / 2 for each in _judged(training)])
    return [_Pace(max(0.0, 2 * few - many), (many - few) / (2 * every)) for few, many in zip(*counts, strict=True)]


def _curves(trial: Trial, number: int, usual: Run) -> dict[Run, _Curve]:
    """The rates of a schedule in the usual run, in one of twice the epochs, and in one of twice the batches."""
    runs = (usual, replace(usual, epochs=2 * usual.epochs), replace(usual, batches=2 * usual.batches))
    return {run: _curve(_schedules(trial, run)[number], 2 * run.epochs * run.batches) for run in runs}


def _curve(made: _Made, steps: int) -> _Curve:
    """Takes a schedule further, without training."""
    schedule, optimizer, error = made.schedule, made.schedule.optimizer, ""
    before = [made.first] if schedule.last_epoch > 0 and made.first is not None else []
    rates = [*before, _rate(optimizer)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step came between
        for _ in range(steps):
            try:
                schedule.step()
            except Exception as caught:  # OneCycleLR raises beyond its end
                error = raised(caught)
                break
            rates.append(_rate(optimizer))
    parts = [schedule, *parts_of_schedule(schedule)]
    return _Curve(tuple(rates), error, any(isinstance(part, _CYCLES) for part in parts))


def _rate(optimizer: Optimizer) -> float:
    return max(map(rate_of, optimizer.param_groups))


def _judge_count(made: _Made) -> Evidence | None:
    """A failure where the rate is to change at a number of steps that is not whole, which no count of steps ever is."""
    counts: list[Any] = [getattr(made.schedule, "step_size", 0), *getattr(made.schedule, "milestones", ())]
    if not (odd := next((each for each in counts if each % 1), 0)):
        return None
    message = f"{made.kind} is to change the learning rate after {odd:g} steps, which is not a whole number, so it does not"
    cause = "another argument in place of `step_size` or a milestone, or a share that is not rounded"
    return _finding(message, cause, "length_not_whole", Status.FAIL)


def _judge(curves: dict[Run, _Curve], pace: _Pace, usual: Run, kind: str) -> Evidence | None:
    short = curves[usual]
    known = _follows_run(curves, pace, usual)
    steps = pace.steps(usual) if known else min(_SHORT, pace.steps(usual) if pace.by_batch else 0)
    seen = short.rates[:steps]
    where = f"in a run of {usual.describe()}" if known else f"within {_SHORT} steps"
    bad = next((rate for rate in seen if not math.isfinite(rate) or rate < 0), None)
    if bad is not None:
        return _finding(
            f"{kind} gives learning rate {bad:.3g} {where}",
            "a formula that is not limited beyond its last step: clamp its progress to 1",
            "unusable_rate",
            Status.FAIL,
        )
    if short.error and len(short.rates) < steps and known:
        return _finding(
            f"{kind} raises {short.error} after {len(short.rates)} of {steps} steps {where}",
            "total_steps counted in epochs, or in the steps of one epoch: take self.trainer.estimated_stepping_batches",
            "schedule_raises",
            Status.FAIL,
        )
    if len(seen) < 2 or short.cycles:
        return None
    return _judge_shape(short, seen, steps, kind, where, known, pace)


def _judge_shape(
    curve: _Curve, seen: Sequence[float], steps: int, kind: str, where: str, known: bool, pace: _Pace
) -> Evidence | None:
    peak = max(curve.rates)
    again = _rises_again(seen, peak)
    unit = "batches" if pace.by_batch else "epochs"
    if again:
        return _finding(
            f"{kind} lets the learning rate fall for {again} steps and rise again {where}",
            f"T_max, or another length, that does not count what steps the schedule: it is stepped by {unit}",
            "rises_again",
        )
    if not known:
        return None
    last, left = seen[-1], seen[-1] - curve.rates[curve.end]
    if not curve.never_ends and curve.end >= steps and left > _LEFT * peak:
        return _finding(
            f"{kind} ends after {curve.end} steps, and is stepped {counted(steps, 'time')} {where}, so the run ends at {last / peak:.0%} of the "
            "largest learning rate",
            f"a length counted in batches of a schedule that is stepped by {'optimizer steps' if pace.by_batch else 'epochs'}",
            "schedule_unfinished",
        )
    over = next((step for step, rate in enumerate(seen) if step >= curve.end and rate <= _NOTHING * peak), steps)
    if all(rate <= _NOTHING * peak for rate in seen[over:]) and over < _MOST * steps:
        return _finding(
            f"{kind} reaches its end after {over} of {steps} steps {where}, and the rest is trained with learning rate {seen[-1]:.2g}",
            "a length that counts epochs, or the batches of one epoch: take self.trainer.estimated_stepping_batches",
            "schedule_ends_early",
        )
    return None


def _rises_again(seen: Sequence[float], peak: float) -> int:
    """The step at which rates that had fallen begin to rise again, step by step; 0 where they do not, or jump."""
    top = max(range(len(seen)), key=lambda step: seen[step])
    low = min(range(top, len(seen)), key=lambda step: seen[step])
    if seen[low] > _HALF * peak or low == top:
        return 0
    high = max(range(low, len(seen)), key=lambda step: seen[step])
    rise = seen[high] - seen[low]
    jumps = any(after - before > _JUMP * rise for before, after in zip(seen[low:high], seen[low + 1 : high + 1], strict=True))
    return low if rise >= _RISE * peak and not jumps else 0


def _follows_run(curves: dict[Run, _Curve], pace: _Pace, usual: Run) -> bool:
    """Whether the length of a schedule follows from that of the run, so that it must end with it.

    A number of epochs or of batches that somebody wrote down is not known to be wrong; one that is stepped by epochs and follows from the
    batches is, and so is one that is stepped by batches and is as long as the run has epochs, or an epoch has batches.
    """
    short, more_epochs, more_batches = curves.values()
    by_epochs, by_batches = not _is_same(short, more_epochs), not _is_same(short, more_batches)
    if not pace.by_batch:
        return by_epochs or by_batches
    if by_epochs and by_batches:
        return True
    return (by_epochs and abs(short.end - usual.epochs) <= 1) or (by_batches and abs(short.end - usual.batches) <= 1)


def _is_same(one: _Curve, other: _Curve) -> bool:
    peak = max(one.rates)
    shared = zip(one.rates, other.rates, strict=False)
    return (not one.error or len(one.rates) == len(other.rates)) and all(abs(a - b) <= _ROUNDING * peak for a, b in shared)


def _finding(message: str, cause: str, code: str, status: Status = Status.WARN) -> Evidence:
    return Evidence(_NAME, status, message, cause=cause, code=code)
