"""Whether a training that is resumed from a checkpoint equals the uninterrupted one."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.batches import Batch
from harness.errors import CheckpointError
from harness.evidence import Blame, Evidence, Status
from harness.owners import owned_by
from harness.properties.places import forward_of
from harness.training.checkpoints import LAST
from harness.training.checks.followed_lines import Line, LinesRun, following, parting_line, unlike_line
from harness.training.checks.training_trace import (
    FirstDifference,
    TrainingTrace,
    find_first_difference,
    find_mismatch,
    fingerprint,
    same_bits,
    unsaved_attributes,
)
from harness.training.trial import MOST_BATCHES, Prepare, Training, Trial, TrialOptions, too_long

_NAME = "resume"
_BATCHES, _EPOCHS = 3, 2
"""Batches of an epoch, or as many steps of one that takes several batches each; and epochs."""

_CUT = 4
"""Steps before the checkpoint: the end of an epoch lies behind, and it is in the middle of another."""

_MOST_SUSPECTS = 6
_OF_OPTIMIZERS = ("defaults", "state", "param_groups")


def resume(trial: Trial) -> Evidence:
    """A run resumed from a checkpoint, with a newly built model, is equal to the bit to one that was never interrupted."""
    if not any(parameter.requires_grad for parameter in trial.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    if not trial.batches_per_step:
        return Evidence.skipped(_NAME, f"the training step takes no visible optimizer step in {MOST_BATCHES} batches")
    reason = too_long(trial, 2 * _BATCHES * _EPOCHS * trial.batches_per_step)
    if reason:
        return Evidence.skipped(_NAME, reason)
    with tempfile.TemporaryDirectory(prefix="modeltiers-resume-") as folder:
        return _Interruption(trial, Path(folder)).judge()


@dataclass
class _Run:
    """A training, and what was taken down of it."""

    training: Training
    trace: TrainingTrace


class _Interruption:
    """A run, its first part, and the rest of it from a checkpoint.

    Args:
        trial: The model.
        folder: Where the checkpoint goes.
    """

    def __init__(self, trial: Trial, folder: Path) -> None:
        self.trial = trial
        self.folder = folder
        self.batches: Sequence[Batch] = [trial.subject.batch(seed=number) for number in range(_BATCHES * trial.batches_per_step)]
        self.at = f"{_BATCHES * _EPOCHS} steps, interrupted after {_CUT}, {trial.subject.typical.describe(trial.subject.task)}"

    def judge(self) -> Evidence:
        """The verdict."""
        whole = self._run()
        part = self._run(TrialOptions(limit=_CUT, folder=self.folder))
        if len(part.training.steps) < _CUT or not (self.folder / LAST).is_file():
            return Evidence.skipped(_NAME, "the training step takes no optimizer step that could be counted")
        difference = _before(whole.trace, part.trace)
        if difference is not None:
            return self._unrepeatable(difference)
        try:
            rest = self._resume()
        except CheckpointError as error:
            return self._evidence(
                Status.FAIL,
                f"training cannot be resumed from the checkpoint: {error}",
                "what the checkpoint hooks put into it",
                "cannot_be_resumed",
            )
        return self._compare(whole, part, rest)

    def _compare(self, whole: _Run, part: _Run, rest: _Run) -> Evidence:
        difference = _after(whole, rest)
        if difference is not None:
            what, size, bound = difference.describe(), difference.mismatch.size, difference.mismatch.bound
            is_rounding = difference.mismatch.is_rounding
        else:
            mismatch = find_mismatch(_optimizer_state(whole.training), _optimizer_state(rest.training)) or find_mismatch(
                {"logits": self._logits(whole)}, {"logits": self._logits(rest)}
            )
            if mismatch is None:
                message = f"a run resumed after {_CUT} steps equals the uninterrupted run, to the bit"
                return Evidence.ok(_NAME, message, (0, 0, ""), counterexample=self.at)
            what = "the logits in eval mode differ" if mismatch.name == "logits" else f"the optimizer's {mismatch.name} differs"
            size, bound, is_rounding = mismatch.size, mismatch.bound, mismatch.is_rounding
        found = self._evidence(
            Status.WARN if is_rounding else Status.FAIL,
            f"a run resumed from a checkpoint differs from the uninterrupted run{' in the last bits' if is_rounding else ''}: {what}",
            "state that the checkpoint does not hold: a counter, an average or a temperature in a plain attribute, a buffer with "
            "persistent=False, a generator, or an optimizer's attribute; make it a buffer, or save it in on_save_checkpoint",
            "resumed_run_differs",
            size,
            bound,
            lambda: self._origin(difference, whole, part, rest),
        )
        # What no optimizer holds is cleared by none: its gradients add up from the start, or from the checkpoint.
        is_held = difference is None or difference.kind != "gradient" or difference.mismatch.name in _held(whole.training)
        return found if is_held else replace(found, details=owned_by("optimizer_coverage"))

    def _unrepeatable(self, difference: FirstDifference) -> Evidence:
        if difference.kind == "rate":
            return self._evidence(
                Status.FAIL,
                f"the learning rate schedule differs when the run is repeated: {difference.describe()}",
                "a schedule that follows the clock; make it follow the step",
                "schedule_differs",
                difference.mismatch.size,
                0.0,
                lambda: Blame("", parting_line(*(self._first_lines() for _ in range(2)))),
            )
        return Evidence.skipped(
            _NAME, f"the training is not repeatable, interrupted or not: {difference.describe()} (see seeded_repeat)"
        )

    def _evidence(
        self,
        status: Status,
        message: str,
        cause: str,
        code: str,
        measured: float | None = None,
        bound: float | None = None,
        investigate: Callable[[], str] | None = None,
    ) -> Evidence:
        unit = "between the two runs"
        return Evidence.judged(
            _NAME,
            status,
            message,
            (measured, bound, unit),
            counterexample=self.at,
            cause=cause,
            investigate=investigate,
            code=code,
        )

    def _run(self, options: TrialOptions | None = None, prepare: Prepare | None = None, lines: LinesRun | None = None) -> _Run:
        trace, options = TrainingTrace(), replace(options or TrialOptions(), epochs=_EPOCHS)
        with nullcontext() if lines is None else following(lines.see):

            def look(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
                trace(model, optimizers)
                if lines is not None:
                    lines.steps.append(len(lines.lines))

            training = self.trial.train(self.batches, options, model=self.trial.new_model(), prepare=prepare, on_gradients=look)
        return _Run(training, trace.close(training))

    def _resume(self, prepare: Prepare | None = None) -> _Run:
        return self._run(TrialOptions(resume=self.folder / LAST), prepare)

    def _logits(self, run: _Run) -> Tensor:
        return self.trial.subject.logits(self.batches[0], run.training.model.eval())

    def _find_unsaved(self, whole: _Run, part: _Run, rest: _Run) -> str:
        """Path of the attribute that, if it were saved, would make the runs equal; failing that, of one that differs."""
        saved, begun = part.training.model, self.trial.new_model()
        now, then = unsaved_attributes(saved), unsaved_attributes(begun)
        suspects = [path for path, value in now.items() if then.get(path) != value]
        # The checkpoint lay in a folder that is gone by the time someone asks.
        with tempfile.TemporaryDirectory(prefix="modeltiers-resume-") as folder:
            again = _Interruption(self.trial, Path(folder))
            again._run(TrialOptions(limit=_CUT, folder=again.folder))
            for path in suspects[:_MOST_SUSPECTS]:
                if again._is_healed_by([path], saved, whole):
                    return path
        return next(chain(_other_attributes(whole.training.optimizers, rest.training.optimizers), suspects), "")

    def _origin(self, difference: FirstDifference | None, whole: _Run, part: _Run, rest: _Run) -> str:
        """What a checkpoint leaves out; where no line gives it its value, with that which reads it."""
        path = self._find_unsaved(whole, part, rest) or _differing_part(difference, whole, rest)
        return path if path and forward_of(self.trial.subject.model, path) else Blame(path, self._unlike_line())

    def _first_lines(self) -> list[Line]:
        run = LinesRun()
        self._run(TrialOptions(limit=_CUT), lines=run)
        return run.lines

    def _unlike_line(self) -> str:
        """The line of the user's code that a resumed run is seen to leave other values behind than the uninterrupted one."""
        whole, rest = LinesRun(), LinesRun()
        with tempfile.TemporaryDirectory(prefix="modeltiers-resume-") as folder:
            self._run(TrialOptions(limit=_CUT, folder=Path(folder)))
            self._run(lines=whole)
            self._run(TrialOptions(resume=Path(folder) / LAST), lines=rest)
        return unlike_line(whole.lines[whole.steps[_CUT - 1] :], rest.lines) if len(whole.steps) > _CUT else ""

    def _is_healed_by(self, paths: Sequence[str], saved: nn.Module, whole: _Run) -> bool:
        """Whether the rest of the run is the uninterrupted one if attributes are carried over by hand."""

        def carry_over(model: nn.Module) -> None:
            for path in paths:
                owner, _, name = path.rpartition(".")
                value = getattr(saved.get_submodule(owner), name)
                # A tensor that was computed from weights cannot be deep-copied.
                value = value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
                setattr(model.get_submodule(owner), name, value)

        try:
            rest = self._resume(carry_over)
        except Exception:  # what belongs to one run, as an optimizer does, may not work in another
            return False
        return _after(whole, rest) is None and torch.equal(self._logits(whole), self._logits(rest))


def _before(whole: TrainingTrace, part: TrainingTrace) -> FirstDifference | None:
    """The first difference of the steps before the cut."""
    share = len(part.gradients)
    first = TrainingTrace(whole.gradients[:share], whole.losses[:_CUT], whole.rates[:_CUT])
    return find_first_difference(first, TrainingTrace(part.gradients, part.losses, part.rates))


def _after(whole: _Run, rest: _Run) -> FirstDifference | None:
    """The first difference of the steps after the cut, and of the weights."""
    ours, theirs = whole.trace, rest.trace
    tail = TrainingTrace(
        ours.gradients[len(ours.gradients) - len(theirs.gradients) :], ours.losses[_CUT:], ours.rates[_CUT:], ours.weights
    )
    difference = find_first_difference(tail, theirs)
    return None if difference is None else FirstDifference(difference.kind, difference.step + _CUT, difference.mismatch)


def _differing_part(difference: FirstDifference | None, whole: _Run, rest: _Run) -> str:
    """The part of the model in which all weights lie that differ, where no gradient or loss does: a part that no loss reads, as an average."""
    if difference is None or difference.kind != "weights":
        return ""
    ours, theirs = whole.trace.weights, rest.trace.weights
    owners = [name.split(".")[:-1] for name in ours if name not in theirs or not same_bits(ours[name], theirs[name])]
    parts = [owner for owner in owners if owner]  # what the model holds itself, such as a counter of updates, is in no part
    return ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False)))


def _held(training: Training) -> set[str]:
    """Names of the parameters that an optimizer holds."""
    held = {id(each) for optimizer in training.optimizers for group in optimizer.param_groups for each in group["params"]}
    return {name for name, parameter in training.model.named_parameters() if id(parameter) in held}


def _optimizer_state(training: Training) -> dict[str, Tensor]:
    """The tensors in the state of the optimizers, by what they are and whose."""
    names = {id(parameter): name for name, parameter in training.model.named_parameters()}
    return {
        f"{key} of `{names.get(id(parameter), '?')}`": value
        for optimizer in training.optimizers
        for parameter, state in optimizer.state.items()
        if isinstance(state, Mapping)
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def _other_attributes(left: Sequence[Optimizer], right: Sequence[Optimizer]) -> Iterator[str]:
    """Plain attributes in which the optimizers of two runs differ."""
    for one, other in zip(left, right, strict=False):
        theirs = vars(other)
        names = (
            name for name, value in vars(one).items() if name not in _OF_OPTIMIZERS and "hook" not in name and not callable(value)
        )
        yield from (
            f"{type(one).__name__}.{name}" for name in names if fingerprint(vars(one)[name]) != fingerprint(theirs.get(name))
        )
