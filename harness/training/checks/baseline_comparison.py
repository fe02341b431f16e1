"""Whether a trained model knows more than how common each answer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import sqrt
from statistics import NormalDist, fmean, variance
from typing import Any

import numpy as np
from torch import nn

from harness.adapters import Adapter
from harness.data.dataset import Dataset, Rows, Stream
from harness.data.loader import Loader, make_loader
from harness.errors import DataError, DivergedError
from harness.evaluation.evaluation import evaluate
from harness.evidence import Evidence, Status
from harness.runtime import processor_seconds
from harness.statistics import sign_flip_p
from harness.training.checks.baseline_models import BaselineAdapter, Prior, stronger
from harness.training.engines.batch_formats import DrawnBatches
from harness.training.trial import Trial

_NAME = "baseline_comparison"
_LOOKS = (20, 40, 80, 160, 300)
"""Steps after which the model is judged; training ends as soon as it is better."""

_ROWS = 256
_BATCH = 64
_ALPHA = 0.01
"""Share of models exactly as good as the baseline that may be called better, or worse, at most."""

_RECENT = 40
"""Steps of the training by which its rows are judged."""

_SHARE = 0.7
"""Of the time there is, what training may take."""

_LONGEST = 60.0


def baseline_comparison(trial: Trial) -> Evidence:
    """After a short training on the config's data the model beats the prior on held-out rows.

    Losses are compared row by row, by a one-sided sign-flip test, in a few looks that share the level. A model that is worse but still gets
    better, or that is no better on the rows it learns from either, has had too few steps, which is a warning.
    """
    try:
        race = _Race(trial, trial.stream(_LOOKS[-1]), _held_out(trial))
    except DataError as error:
        return Evidence.skipped(_NAME, f"there is no data to train on and to evaluate on: {error}")
    try:
        race.run()
    except DivergedError as error:
        return race.evidence(
            Status.FAIL, f"the model cannot be compared with a baseline: {error}", "see hyperparameter_sensitivity", "diverged"
        )
    return race.judge()


@dataclass(frozen=True)
class _Look:
    """The model and the prior after so many steps.

    Attributes:
        steps: How many.
        model: Its loss on each held-out row; NaN where the row has no label.
        prior: The prior's.
    """

    steps: int
    model: list[float]
    prior: list[float]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """The losses of both, of the rows that have labels."""
        return [(ours, theirs) for ours, theirs in zip(self.model, self.prior, strict=True) if theirs == theirs]

    @cached_property
    def chance_of_better(self) -> float:
        """How likely it would look as much better, if it were as good."""
        return sign_flip_p(np.array([theirs - ours for ours, theirs in self.pairs]))

    @cached_property
    def chance_of_worse(self) -> float:
        """How likely it would look as much worse, if it were as good."""
        return sign_flip_p(np.array([ours - theirs for ours, theirs in self.pairs]))

    def is_above(self, training: Sequence[float]) -> bool:
        """Whether the model's loss on these rows is surely above that of the batches it learnt from last."""
        ours = [loss for loss, _ in self.pairs]
        if min(len(ours), len(training)) < 2:
            return True
        spread = sqrt(variance(ours) / len(ours) + variance(training) / len(training))
        return fmean(ours) - fmean(training) > NormalDist().inv_cdf(1 - _ALPHA) * spread

    @property
    def means(self) -> tuple[float, float]:
        """Mean losses of the model and of the prior."""
        pairs = self.pairs or [(float("nan"), float("nan"))]
        return sum(ours for ours, _ in pairs) / len(pairs), sum(theirs for _, theirs in pairs) / len(pairs)


@dataclass
class _Race:
    """A training that is judged now and then.

    Attributes:
        trial: The model.
        batches: What it learns from.
        held_out: What it is judged by.
        looks: What was seen.
        losses: Those of the training.
        is_cut: Whether time was up before the last look.
    """

    trial: Trial
    batches: DrawnBatches
    held_out: Loader
    looks: list[_Look] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    is_cut: bool = False

    def run(self) -> None:
        """Trains until the model is better than the prior, or time is up.

        Raises:
            DivergedError: The training does not stay finite.
        """
        end = processor_seconds() + _SHARE * min(self.trial.seconds, _LONGEST)

        def until(model: nn.Module, steps: int) -> bool:
            self.is_cut = processor_seconds() > end and steps < _LOOKS[-1]
            if steps not in _LOOKS and not self.is_cut:
                return False
            self._look(model, steps)
            return self.is_cut or self._is_better

        training = self.trial.train(self.batches, until=until)
        self.losses = training.losses
        if not self.looks or self.looks[-1].steps < len(training.steps):
            self._look(training.model, len(training.steps))

    def judge(self) -> Evidence:
        """The verdict."""
        last = self.looks[-1]
        ours, theirs = last.means
        figures = f"loss {ours:.3g}, baseline {theirs:.3g}, on {len(last.pairs)} held-out rows after {last.steps} steps"
        name = Prior(self.trial.subject.task, self.batches.seen[: max(1, last.steps)]).name
        if not last.pairs:
            return self.evidence(Status.SKIPPED, "no held-out row has a label")
        if any(loss != loss for loss, _ in last.pairs):
            message = f"after {last.steps} steps the model's loss on held-out rows is NaN"
            return self.evidence(Status.FAIL, message, "logits that overflow only in eval mode", "nan_on_held_out_rows")
        if self._is_better:
            return self.evidence(Status.OK, f"the model beats {name}: {figures}{self._against_stronger(last)}")
        if self.is_cut and (last.chance_of_worse >= _ALPHA or self._is_falling):
            return self.evidence(Status.SKIPPED, f"too little time to find out whether the model beats {name}: {figures}")
        if last.chance_of_worse >= _ALPHA:
            return self._undecided(
                f"the model is neither better nor worse than {name}: {figures}",
                "too few steps, too few held-out rows, or a learning rate that is too low; or inputs that say nothing about the labels",
                "not_distinguishable",
            )
        if self._is_falling:
            return self._undecided(
                f"the model is worse than {name}, and still learning: {figures}",
                "too few steps, or a learning rate that is too low",
                "still_learning",
            )
        learnt = fmean(self.losses[-_RECENT:])
        if not last.is_above(self.losses[-_RECENT:]):
            return self._undecided(
                f"the model is worse than {name}, on training rows too (loss {learnt:.3g}): {figures}",
                "too few steps, or a learning rate that is too low; overfits_one_batch says whether the model can learn at all",
                "has_not_learnt",
            )
        where = f"; loss on training rows {learnt:.3g}"
        return self.evidence(
            Status.FAIL,
            f"the model is worse than {name}, and does not improve: {figures}{where}",
            "a different computation in eval mode than in train mode, memorised rows, or labels that do not belong to their inputs",
            "worse_than_baseline",
        )

    def _undecided(self, message: str, cause: str, code: str) -> Evidence:
        """A warning; a skip on the built-in rows, which were not made for the model."""
        if self.trial.names_data:
            return self.evidence(Status.WARN, message, cause, code)
        return self.evidence(Status.SKIPPED, f"{message}; these are built-in rows: name your own data under `train`", code=code)

    def evidence(self, status: Status, message: str, cause: str = "", code: str = "") -> Evidence:
        """A finding."""
        curve = [{"steps": look.steps, "model": look.means[0], "prior": look.means[1]} for look in self.looks]
        details: dict[str, Any] = {
            "looks": curve,
            "train": self.trial.data.train.origin.name,
            "held_out": self.trial.data.held_out.origin.name,
        }
        measured = self.looks[-1].chance_of_better if self.looks else None
        at = f"{details['train']}, up to {_LOOKS[-1]} steps at batch size {self.trial.config.batch_size}"
        return Evidence.judged(
            _NAME,
            status,
            message,
            (measured, _ALPHA / len(_LOOKS), "chance of looking as good without being better"),
            counterexample=at,
            cause=cause,
            details=details,
            code=code,
        )

    @property
    def _is_better(self) -> bool:
        return bool(self.looks) and self.looks[-1].chance_of_better < _ALPHA / len(_LOOKS)

    @property
    def _is_falling(self) -> bool:
        """Whether the held-out loss fell between the last two looks."""
        if len(self.looks) < 2:
            return True  # nobody knows yet
        before, now = self.looks[-2:]
        gains = [old - new for new, old in zip(now.model, before.model, strict=True) if new == new and old == old]
        return sign_flip_p(np.array(gains)) < _ALPHA

    def _look(self, model: nn.Module, steps: int) -> None:
        subject = self.trial.subject
        prior = Prior(subject.task, self.batches.seen[: max(1, steps)])
        adapter = BaselineAdapter(subject.adapter, subject.task)
        self.looks.append(_Look(steps, self._scores(model, subject.adapter), self._scores(prior, adapter)))

    def _scores(self, model: nn.Module, adapter: Adapter) -> list[float]:
        task = replace(self.trial.subject.task, metrics=("loss",))
        return evaluate(model, adapter, task, self.held_out).scores["loss"].tolist()

    def _against_stronger(self, last: _Look) -> str:
        """How it does against a baseline that looks at the input."""
        task, seen = self.trial.subject.task, self.batches.seen[: max(1, last.steps)]
        other = stronger(task, seen, Prior(task, seen))
        if other is None:
            return ""
        scores = self._scores(other, BaselineAdapter(self.trial.subject.adapter, task))
        mean = replace(last, prior=scores).means[1]
        return f" ({other.name}: {mean:.3g})"


def _held_out(trial: Trial) -> Loader:
    """Some of the held-out rows."""
    dataset: Dataset = trial.data.held_out
    if isinstance(dataset, Stream):
        dataset = replace(dataset, limit=min(_ROWS, dataset.limit or _ROWS))
    elif len(dataset) > _ROWS:
        dataset = Rows(dataset.origin, [dataset[turn * len(dataset) // _ROWS] for turn in range(_ROWS)])
    return make_loader(dataset, trial.subject.task, _BATCH)
