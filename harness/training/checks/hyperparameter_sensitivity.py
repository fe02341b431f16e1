"""Whether the configured learning rate is one at which the model learns, with room on both sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.batches import Batch, to_device
from harness.errors import DataError, DivergedError, TrainingError
from harness.evidence import Evidence, Status
from harness.properties.noise import FACTOR
from harness.runtime import processor_seconds
from harness.training.engines import steps_of_epoch
from harness.training.optimisation import RateScale
from harness.training.trial import Training, Trial, TrialOptions

_NAME = "hyperparameter_sensitivity"
_FACTORS = (0.1, 1 / 3, 1.0, 3.0, 10.0)
_FAR_BELOW, _FAR_ABOVE = (1e-2, 1e-3, 1e-4), (1e2, 1e4, 1e6)
"""Tried one by one where the ones before do not show a rate that learns."""

_BATCHES = 4
_PASSES, _FEWEST = 5, 2
"""How often the batches are gone through."""

_SHARE = 0.8
"""Of the time there is, what the trainings may take."""

_FAR_LESS = 3.0
_NEAR = 2
"""Times as many steps as were taken, up to which the pace is taken to last."""

_NOTHING = 0.01
"""Share of the first loss below which a whole training has learnt nothing to speak of."""

Curves = dict[float, "_Curve"]


def hyperparameter_sensitivity(trial: Trial) -> Evidence:
    """Short trainings at a tenth to ten times the rate: the configured one learns, and is neither at a cliff nor far too small.

    All begin with the same weights and go through the same few batches under the same seeds, so that each loss is compared with that of the
    same batch and the same dropout in a training that goes nowhere. A rate learns when the last pass over the batches has a lower loss than
    that, and diverges when it rises by as much as it falls at another rate, or is not finite.
    """
    batches = _batches(trial)
    passes = _affordable(trial, batches)
    if passes < _FEWEST:
        reason = f"{len(_FACTORS) + 1} trainings of {_FEWEST * len(batches)} steps would take longer than the {trial.seconds:.2g} s available"
        return Evidence.skipped(_NAME, reason)
    runs = _Runs(trial, batches, passes)
    try:
        runs.stand_still()
        curves = {factor: runs.at(factor) for factor in _FACTORS}
        if runs.is_blind:
            return Evidence.skipped(
                _NAME, "the training step takes no optimizer step whose learning rate could be scaled, or returns no loss"
            )
        for factor in _FAR_BELOW if curves[1.0].gain < 0 else _FAR_ABOVE:
            if any(curve.learns for curve in curves.values()):
                break
            curves[factor] = runs.at(factor)
    except DivergedError as error:
        return Evidence.skipped(_NAME, f"the loss is not finite at any learning rate: {error}")
    except TrainingError as error:
        return Evidence.skipped(_NAME, f"the learning rate cannot be changed: {error}")
    return _Table(trial, curves, runs.first, passes * len(batches), runs.is_warming_up).judge()


@dataclass(frozen=True)
class _Curve:
    """A training at some rate.

    Attributes:
        factor: The rate, as a multiple of the configured one.
        gain: How much lower the mean loss of the last pass is than without training; negative infinity after it became infinite.
        end: That mean loss; NaN likewise.
        noise: The rounding of a loss.
    """

    factor: float
    gain: float
    end: float
    noise: float

    @property
    def learns(self) -> bool:
        """Whether the loss is lower than without training."""
        return self.gain > self.noise


@dataclass
class _Runs:
    """Trainings at several rates.

    Attributes:
        trial: The model.
        batches: What it learns.
        passes: How often it goes through them.
        first: The mean loss before training: that of the last pass of a training that goes nowhere. Where the training step returns none, the
            task's loss in eval mode, here and afterwards.
        is_told: Whether the training step returns its loss.
        is_blind: Whether no step could be scaled.
        is_warming_up: Whether the rate still rises in the end.
    """

    trial: Trial
    batches: Sequence[Batch]
    passes: int
    first: float = math.nan
    is_told: bool = True
    is_blind: bool = False
    is_warming_up: bool = False

    def stand_still(self) -> None:
        """Takes the loss that the others are compared with.

        Raises:
            DivergedError: It is not finite.
        """
        training = self._train(0.0)
        self.is_told = not all(map(math.isnan, training.losses))
        self.first = self._mean(training)

    def at(self, factor: float) -> _Curve:
        """Trains at a multiple of the rate."""
        try:
            end = self._mean(self._train(factor))
        except DivergedError:
            end = math.nan
        if not math.isfinite(end):
            return _Curve(factor, -math.inf, math.nan, 0.0)
        return _Curve(factor, self.first - end, end, FACTOR * torch.finfo(torch.float32).eps * abs(self.first))

    def _train(self, factor: float) -> Training:
        scale = RateScale(factor)
        training = self.trial.train(self.batches, TrialOptions(epochs=self.passes), on_gradients=scale)
        self.is_blind = self.is_blind or not scale.steps
        rates = [step.learning_rate for step in training.steps]
        self.is_warming_up = self.trial.is_own and bool(rates) and rates[-1] > rates[0]
        return training

    def _mean(self, training: Training) -> float:
        """The mean loss of the last pass over the batches; NaN where not all of them are finite."""
        if self.is_told:
            losses = training.losses[-len(self.batches) :]
        else:
            subject, model = self.trial.subject, training.model.eval()
            there = [to_device(batch, subject.device, subject.dtype) for batch in self.batches]
            losses = [self.trial.loss_outside_training(batch, model) for batch in there]
        return sum(losses) / max(1, len(losses))


@dataclass(frozen=True)
class _Table:
    """What trainings at several rates gave.

    Attributes:
        trial: The model.
        curves: By the factor of the rate.
        first: The loss before training.
        steps: Steps of each training.
        is_warming_up: Whether the rate still rises in the end.
    """

    trial: Trial
    curves: Curves
    first: float
    steps: int
    is_warming_up: bool

    def judge(self) -> Evidence:
        """The verdict."""
        own, learning = self.curves[1.0], [curve for curve in self.curves.values() if curve.learns]
        if not learning:
            return self._evidence(
                Status.SKIPPED, f"the model learns nothing in {self.steps} steps, from a tenth to ten times {self._rate(1.0)}"
            )
        best = max(learning, key=lambda curve: curve.gain)
        if not own.learns:
            return self._not_learning(own, best)
        if self.curves[3.0].gain <= -own.gain:
            return self._evidence(
                Status.WARN,
                f"the learning rate is close to diverging: at three times {self._rate(1.0)} {self._fate(self.curves[3.0])}",
                "different data, another seed or batch size may make it diverge: lower the learning rate, warm it up, or clip gradients",
                "near_divergence",
            )
        good = [curve.factor for curve in self.curves.values() if curve.learns]
        message = f"the model learns at {self._rate(1.0)}, and at {min(good):.2g} to {max(good):.2g} times that"
        return self._too_low(own) or self._evidence(Status.OK, message)

    def _not_learning(self, own: _Curve, best: _Curve) -> Evidence:
        """The configured rate does not lower the loss, and another one does."""
        does = f"at {self._rate(best.factor)} it falls to {best.end:.3g}"
        if best.factor > 1 and self.is_warming_up:
            return self._evidence(
                Status.SKIPPED,
                f"the model's schedule is still warming up after {self.steps} steps, and the loss does not fall yet",
            )
        if best.factor > 1:
            return self._evidence(
                Status.WARN if self.trial.is_rate_chosen else Status.SKIPPED,
                f"at {self._rate(1.0)} the loss does not fall in {self.steps} steps; {does}",
                "a learning rate that is far too low, such as one meant for another optimizer",
                "rate_too_low",
            )
        return self._evidence(
            Status.FAIL if own.gain <= -best.gain else Status.WARN,
            f"at {self._rate(1.0)} {self._fate(own)}; {does}",
            "a learning rate too high for the scale of this model's loss and gradients: lower it, or warm it up for longer",
            "rate_too_high",
        )

    def _too_low(self, own: _Curve) -> Evidence | None:
        """A finding where even the whole training that is planned learns next to nothing, or far less than a few steps at ten times the rate."""
        planned, high = planned_steps(self.trial), self.curves[10.0]
        if planned is None or self.trial.is_own or high.gain < _FAR_LESS * own.gain:  # its own schedule may do anything later
            return None
        if not self.trial.is_rate_chosen:  # nor has anybody planned a training
            return None
        pace = own.gain * planned / self.steps
        # Nobody knows what a loss does after many more steps; one that hardly falls now may still fall later.
        if pace > (high.gain / _FAR_LESS if planned <= _NEAR * self.steps else _NOTHING * abs(self.first)):
            return None
        than = f"; {self.steps} steps at ten times the learning rate lower it by {high.gain:.2g}"
        return self._evidence(
            Status.WARN,
            f"at {self._rate(1.0)} the {planned} planned steps would lower the loss of {self.first:.3g} by only {pace:.2g}, at the pace of "
            f"the first {self.steps}{than}",
            "a learning rate too low for so short a training: raise it, or train for longer",
            "planned_training_too_short",
        )

    def _fate(self, curve: _Curve) -> str:
        if math.isnan(curve.end):
            return "the loss becomes NaN or infinite"
        return f"the loss {'rises' if curve.gain < 0 else 'goes'} from {self.first:.3g} to {curve.end:.3g} in {self.steps} steps"

    def _rate(self, factor: float) -> str:
        if not self.trial.is_own:
            return f"learning rate {self.trial.config.learning_rate * factor:.2g}"
        return "the model's learning rate" if factor == 1 else f"{factor:.2g} times the model's learning rate"

    def _evidence(self, status: Status, message: str, cause: str = "", code: str = "") -> Evidence:
        table = [
            {"factor": curve.factor, "gain": _finite(curve.gain), "last_loss": _finite(curve.end)}
            for curve in sorted(self.curves.values(), key=lambda curve: curve.factor)
        ]
        details: dict[str, Any] = {"first_loss": self.first, "steps": self.steps, "rates": table}
        if not self.trial.is_own:
            details["learning_rate"] = self.trial.config.learning_rate
        at = f"{self.steps} steps over {_BATCHES} batches, from the same weights"
        return Evidence.judged(
            _NAME,
            status,
            message,
            (_finite(self.curves[1.0].gain), None, "fall of the loss"),
            counterexample=at,
            cause=cause,
            details=details,
            code=code,
        )


def planned_steps(trial: Trial) -> int | None:
    """Optimizer steps of the training that the config asks for; ``None`` where it has no data."""
    try:
        rows = len(trial.data.train)
    except DataError:
        return None
    keys = trial.source.train if trial.source is not None else None
    size = (keys.batch_size if keys else None) or trial.config.batch_size
    batches = -(-rows // size) if trial.subject.task.signature.deals_rows else rows
    return trial.config.epochs * steps_of_epoch(batches, trial.config.accumulate_grad_batches)


def _batches(trial: Trial) -> Sequence[Batch]:
    """A few batches that can be memorised: rows of the config's data where it names some."""
    if trial.names_data:
        return trial.stream(_BATCHES)
    return [trial.subject.batch(seed=number) for number in range(_BATCHES)]


def _affordable(trial: Trial, batches: Sequence[Batch]) -> int:
    """How many passes each training may have."""
    if math.isinf(trial.seconds):
        return _PASSES
    trial.train(batches, TrialOptions(limit=1))  # the first one imports and allocates
    started = processor_seconds()
    trial.train(batches)
    each = processor_seconds() - started
    return min(_PASSES, int(_SHARE * trial.seconds / (each * (len(_FACTORS) + 1))))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
