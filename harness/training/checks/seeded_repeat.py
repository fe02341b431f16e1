"""Whether the same training gives the same model."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.evidence import Blame, Evidence, Status
from harness.properties.noise import FACTOR
from harness.runtime import processor_seconds
from harness.training.checks.child_processes import Answer, PackingError, TrialSpec, run_in_processes
from harness.training.checks.followed_lines import Line, LinesRun, following, parting_line
from harness.training.checks.gradient_noise import in_double
from harness.training.checks.training_trace import (
    FirstDifference,
    Mismatch,
    ModuleCall,
    TrainingTrace,
    find_first_difference,
    find_mismatch,
    first_differing_module,
    tracing_modules,
)
from harness.training.engines import weights_of
from harness.training.trial import Trial, TrialOptions, too_long
from harness.wording import and_others, counted

_NAME = "seeded_repeat"
_STEPS = 3
_SEED = 0
_REPEATS = 4
"""Trainings in float64; what is random only now and then may be the same in two."""

_START = {False: 5.0, True: 10.0}
"""Seconds that a process takes to start on a busy machine; by whether it imports Lightning."""

_OF_PROCESS = (
    "an order or number that depends on hash() of a string (a set of names, hash(token) % n), the process id, or the clock"
)


def seeded_repeat(trial: Trial) -> Evidence:
    """Two trainings from the same weights, seed and batches are equal to the bit, in one process and in two.

    The second process hashes strings otherwise, as every one does.
    """
    started = processor_seconds()
    batches = _batches(trial)
    counterexample = f"{_STEPS} steps, {trial.subject.typical.describe(trial.subject.task)}, seed={_SEED}"
    if not any(parameter.requires_grad for parameter in trial.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    reason = too_long(trial, 2 * len(batches))
    if reason:
        return Evidence.skipped(_NAME, reason)
    models = [trial.new_model(_SEED), trial.new_model(_SEED)]
    saved = models[0].state_dict().keys()  # a cache made by torch.empty may hold anything; where it is read, the losses differ
    mismatch = find_mismatch(*(_only(saved, weights_of(model)) for model in models))
    if mismatch is not None:
        return _built_otherwise(trial, mismatch, counterexample)
    first, second = (_trained(trial, batches, model).trace for model in models)
    first.weights, second.weights = _only(saved, first.weights), _only(saved, second.weights)
    difference = find_first_difference(first, second)
    if difference is not None:
        return _verdict(trial, batches, difference, counterexample)
    left = trial.seconds - (processor_seconds() - started)
    if left < _START[trial.is_own]:
        return _sound(f"in this process ({left:.0f} s left: too little time to start another process)", counterexample)
    return _in_another_process(trial, batches, first, left, counterexample)


def _only(names: Container[str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name in names}


def _batches(trial: Trial) -> list[Batch]:
    """The batches of a few steps."""
    return [trial.subject.batch(seed=number) for number in range(_STEPS * max(1, trial.batches_per_step))]


def _built_otherwise(trial: Trial, mismatch: Mismatch, counterexample: str) -> Evidence:
    return Evidence.failed(
        _NAME,
        f"the same seed builds models with different weights: `{mismatch.name}` differs{and_others(mismatch.count - 1, 'tensor')}",
        (mismatch.size, 0.0, "between the weights"),
        counterexample=counterexample,
        investigate=lambda: Blame(mismatch.name, parting_line(*(_lines_of_start(trial) for _ in range(2)))),
        cause="an initialisation that uses its own random generator, such as np.random.default_rng() without a seed, or depends on the clock or "
        "on earlier models",
        code="initial_weights_differ",
    )


def _lines_of_start(trial: Trial) -> list[Line]:
    run = LinesRun()
    with following(run.see):
        trial.new_model(_SEED)
    return run.lines


def _verdict(trial: Trial, batches: Sequence[Batch], difference: FirstDifference, counterexample: str) -> Evidence:
    facts: dict[str, Any] = {
        "measured": (difference.mismatch.size, difference.mismatch.bound, "between the two runs"),
        "counterexample": counterexample,
        "investigate": lambda: _culprit(trial, batches, difference),
        "details": {"step": difference.step, "kind": difference.kind, "first": difference.mismatch.name},
    }
    if _is_rounding(trial, difference):
        return Evidence.warned(
            _NAME,
            f"the same training differs in the last bits when it is repeated: {difference.describe()}",
            code="differs_by_rounding",
            cause="a kernel whose order of summation varies; `deterministic` true chooses others, where there are any",
            **facts,
        )
    return Evidence.failed(
        _NAME,
        f"the same training, from the same weights, seed and batches, gives a different model when it is repeated: {difference.describe()}",
        cause="a random generator that no seed reaches (np.random.default_rng(), torch.Generator), the clock, or a counter or cache on the "
        "class or in the module's file, which the first training has changed",
        code="differs_when_repeated",
        **facts,
    )


def _is_rounding(trial: Trial, difference: FirstDifference) -> bool:
    """Whether repeated trainings differ only by rounding, which in float64 shrinks by nine orders of magnitude."""
    if difference.mismatch.is_rounding or difference.kind == "rate":
        return difference.mismatch.is_rounding
    double = in_double(trial)
    if double is None or double is trial:
        return False
    batches = _batches(double)
    try:
        first, *others = (_trained(double, batches, trial.new_model(_SEED).double()).trace for _ in range(_REPEATS))
    except (RuntimeError, TypeError, NotImplementedError):  # the loss may not take float64 though the model does
        return False
    differences = [found for other in others if (found := find_first_difference(first, other)) is not None]
    # Where float64 finds nothing at all, the kernel that varies has no counterpart there.
    return all(again.kind == difference.kind and again.mismatch.size < difference.mismatch.size / FACTOR for again in differences)


def _in_another_process(
    trial: Trial, batches: Sequence[Batch], first: TrainingTrace, seconds: float, counterexample: str
) -> Evidence:
    answer = _ask(trial, batches, seconds)
    if answer.result is None:
        return _sound(f"in this process (another process could not be tried: {answer.error})", counterexample)
    device = trial.subject.device
    again = answer.result.trace.to(device)
    again.weights = _only(first.weights, again.weights)
    difference = find_first_difference(first, again)
    if difference is None:
        return _sound("in this process and in another", counterexample)
    here = f"the same training {'differs in the last bits' if difference.mismatch.is_rounding else 'gives a different model'}"

    def find() -> str:
        if difference.kind != "loss":
            return _named(difference)
        mine = _trained(trial, batches, trial.new_model(_SEED), traced=difference.step)
        again = _ask(trial, batches, seconds, traced=difference.step).result
        return _between(trial, mine, again)

    return Evidence.judged(
        _NAME,
        Status.WARN if difference.mismatch.is_rounding else Status.FAIL,
        f"{here} in another process: {difference.describe()}",
        (difference.mismatch.size, difference.mismatch.bound, "between the two runs"),
        counterexample=counterexample,
        cause=_OF_PROCESS,
        code="differs_between_processes",
        details={"step": difference.step, "kind": difference.kind, "first": difference.mismatch.name},
        investigate=find,
    )


def _sound(where: str, counterexample: str) -> Evidence:
    return Evidence.ok(
        _NAME, f"a training of {counted(_STEPS, 'step')} repeats to the bit, {where}", (0, 0, ""), counterexample=counterexample
    )


@dataclass(frozen=True)
class _Trained:
    """A training that was taken down.

    Attributes:
        trace: Its updates.
        entries: The calls of its modules, in as many steps as were asked for.
        lines: The lines of the user's code in these steps, with what they left behind.
    """

    trace: TrainingTrace
    entries: list[ModuleCall]
    lines: list[Line]


@dataclass(frozen=True)
class _Work:
    spec: TrialSpec
    batches: list[Batch]
    traced: int


def train_again(work: _Work) -> _Trained:
    """Trains in another process."""
    trial = work.spec.trial()
    trained = _trained(trial, work.batches, trial.subject.model, work.traced)
    return _Trained(trained.trace.to(torch.device("cpu")), trained.entries, trained.lines)


def _ask(trial: Trial, batches: Sequence[Batch], seconds: float, traced: int = 0) -> Answer:
    spec = TrialSpec.rebuilding(trial, _SEED) or TrialSpec.of(trial, trial.new_model(_SEED))
    environment = {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    try:
        return run_in_processes(train_again, [_Work(spec, list(batches), traced)], seconds, [environment])[0]
    except PackingError as error:
        return Answer(error=str(error))


def _trained(trial: Trial, batches: Sequence[Batch], model: nn.Module, traced: int = 0) -> _Trained:
    trace, run = TrainingTrace(), LinesRun()
    with ExitStack() as stack:
        entries: list[ModuleCall] = stack.enter_context(tracing_modules(model)) if traced else []
        if traced:
            stack.enter_context(following(run.see))
        trace.close(trial.train(batches, TrialOptions(limit=traced or None, seed=_SEED), model=model, on_gradients=trace))
    return _Trained(trace, entries, run.lines)


def _culprit(trial: Trial, batches: Sequence[Batch], difference: FirstDifference) -> str:
    """Path of the module whose computation does not repeat, or of a parameter where the forward passes agree."""
    if difference.kind != "loss":
        return _named(difference)
    first, second = (_trained(trial, batches, trial.new_model(_SEED), traced=difference.step) for _ in range(2))
    return _between(trial, first, second)


def _between(trial: Trial, first: _Trained, second: _Trained) -> Blame:
    """The module whose computation differs between two trainings that were traced, and the line where they part."""
    module = first_differing_module(first.entries, second.entries) or ("training_step" if trial.is_own else "")
    return Blame(module, parting_line(first.lines, second.lines))


def _named(difference: FirstDifference) -> str:
    """The tensor that differs: of gradients, the one nearest to the loss, where what flows back differs first."""
    return {"gradient": difference.mismatch.last, "weights": difference.mismatch.name}.get(difference.kind, "")
