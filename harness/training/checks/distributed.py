"""Whether two processes that share the rows of a batch train as one process does with all of them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import nn

from harness.errors import TrainingError
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.properties.calling import mode
from harness.properties.noise import difference
from harness.properties.outputs import reached_by_outputs
from harness.runtime import seeded
from harness.training.checks import first_failure
from harness.training.checks.child_processes import Answer, PackingError
from harness.training.checks.gradient_noise import ModuleMode, Quantities, disable_dropout, disable_stochastic_layers, find_gap
from harness.training.checks.simulated_data_parallel import (
    PARTS,
    SimulatedSteps,
    counterexample_of,
    judge_simulated_data_parallel,
    shared_batch,
)
from harness.training.checks.step_updates import step_updates
from harness.training.checks.training_trace import FirstGradients, Mismatch, find_mismatch
from harness.training.checks.two_processes import GroupError, RankResult, on_cpu, train_in_two_processes
from harness.training.trial import UNVARIED, Trial, TrialOptions, Variation, too_long
from harness.wording import and_others

_NAME = "distributed"
_STEPS = 20
_LONGEST = 120.0
_SEEDS = 4
"""Trainings in which a part that is left out at random should have been used once."""

_START = {False: 5.0, True: 10.0}
"""Seconds that the processes take to start on a busy machine; by whether they import Lightning."""

_UNUSED = ("did not receive grad", "finished reduction in the prior iteration", "not used in producing")
_WAITING = ("Timed out", "timed out")
_SECONDARY = ("onnection", "closed", *_WAITING)


def distributed(trial: Trial) -> Evidence:
    """A step of two processes, each with half of a batch, has the gradients of one process with all of it, and leaves them alike."""
    if not any(parameter.requires_grad for parameter in trial.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        return Evidence.skipped(_NAME, "this PyTorch was built without gloo, which training in several processes on CPUs needs")
    reason = too_long(trial, _STEPS)
    if reason:
        return Evidence.skipped(_NAME, reason)
    return _Comparison(on_cpu(trial), time.monotonic() + min(trial.seconds, _LONGEST)).judge()


@dataclass
class _Comparison:
    """Two processes against one.

    Attributes:
        trial: The model, on the CPU.
        end: When time is up.
    """

    trial: Trial
    end: float
    _asked: dict[torch.dtype, list[Answer]] = field(default_factory=dict)

    @cached_property
    def stance(self) -> ModuleMode:
        """What the processes train in: train mode without dropout, as users do; on CPUs a synchronised batch norm raises there."""
        synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in self.trial.subject.model.modules())
        return disable_stochastic_layers if synchronised else disable_dropout

    def judge(self) -> Evidence:
        """The verdict."""
        stances = dict.fromkeys((disable_stochastic_layers, self.stance))
        found = [judge_simulated_data_parallel(self.trial, stance) for stance in stances] if self._takes_steps else []
        findings = [evidence for evidence in found if evidence is not None]
        doubted = [evidence for evidence in findings if evidence.status in (Status.FAIL, Status.WARN)] if self._is_manual else []
        if doubted:
            worst = max(doubted, key=lambda evidence: evidence.status.severity)
            upheld = self._arbitrate(worst)
            findings = [evidence for evidence in findings if evidence not in doubted] + ([upheld] if upheld is not None else [])
        failure = next((evidence for evidence in findings if evidence.status is Status.FAIL), None)
        return failure or self._judge_processes() or next(iter(findings), None) or self._sound()

    def _arbitrate(self, failure: Evidence) -> Evidence | None:
        """A finding of the halves, unless two real processes have the gradients of one.

        The halves are put together after the training step has done with each, processes average at each backward pass: what is not linear in
        between (a norm, a perturbation of the weights) tells the two apart. Only manual optimisation can put something there.
        """
        answers = self._answers(self.trial)
        if not isinstance(answers, list):
            message = (
                "the gradients of two half batches do not add up to those of the whole batch, which may be intended in manual optimisation; "
                f"{answers.message}"
            )
            return replace(answers, message=message)
        if any(answer.error for answer in answers):
            return failure
        steps = SimulatedSteps(self.stance)
        if not find_gap(self.trial, partial(steps.whole, 1.0), self._together, confirm=False).is_real:
            return None
        steps.record(self.trial)
        if steps.draws.values:
            message = "manual optimisation that changes gradients cannot be compared with one process where the model is random in training"
            return self._evidence(Status.SKIPPED, message)
        return failure

    @property
    def _is_manual(self) -> bool:
        return self.trial.is_own and not getattr(self.trial.subject.model, "automatic_optimization", True)

    def _judge_processes(self) -> Evidence | None:
        answers = self._answers(self.trial)
        if not isinstance(answers, list):
            return answers
        trouble = self._trouble(answers)
        if trouble is not None:
            return trouble
        return self._of_process(answers) or _alike(self.trial, [answer.result[0] for answer in answers])

    def _answers(self, trial: Trial) -> list[Answer] | Evidence:
        """What the processes say, or why they cannot be asked."""
        key = trial.subject.dtype
        if key not in self._asked:
            left = self.end - time.monotonic()
            if left < _START[self.trial.is_own]:
                return self._evidence(
                    Status.SKIPPED,
                    f"too little time to start two processes: {max(0.0, left):.0f} s left, {_START[self.trial.is_own]:.0f} s needed",
                )
            try:
                self._asked[key] = train_in_two_processes(trial, shared_batch(trial), [self.stance], left, bool(self._spare))
            except PackingError as error:
                return self._evidence(Status.SKIPPED, str(error))
        return self._asked[key]

    def _together(self, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        """The gradients that the processes have together."""
        answers = self._answers(trial)
        if not isinstance(answers, list):
            raise GroupError(answers.message)
        return _gradients(answers)

    @cached_property
    def _spare(self) -> list[str]:
        """Parameters without a gradient that lead to another output than the one of which the task's loss is made.

        A model may return more than its task asks for, such as a value beside the scores of its actions. Its own training uses that, ours does
        not.
        """
        if self.trial.is_own:
            return []
        without = self._without(0)
        others = self._reached_by_outputs if without else set()
        return [name for name in without if name in others] if set(without) <= others else []

    @cached_property
    def _reached_by_outputs(self) -> set[str]:
        """Parameters that lead to an output beside the logits."""
        model = self.trial.subject.fresh()
        with mode(model, train=True), seeded(0):
            return set().union(*reached_by_outputs(self.trial.subject, model).values())

    def _without(self, seed: int) -> list[str]:
        """Trainable parameters that have no gradient at the first step."""
        return self._first(seed).without

    def _first(self, seed: int = 0) -> FirstGradients:
        first = FirstGradients()
        batches = [shared_batch(self.trial)] * max(1, self.trial.batches_per_step)
        self.trial.train(batches, TrialOptions(limit=1, seed=seed), on_gradients=first)
        return first

    @cached_property
    def _takes_steps(self) -> bool:
        """Whether an optimizer step is seen, so that its gradients can be compared."""
        return bool(self.trial.batches_per_step) and bool(self._first().gradients)

    def _trouble(self, answers: Sequence[Answer]) -> Evidence | None:
        """What kept the processes from taking their steps."""
        errors = [answer for answer in answers if answer.error]
        if not errors:
            return None
        first = next((answer for answer in errors if not any(word in answer.text for word in _SECONDARY)), errors[0])
        unused = next((answer for answer in errors if any(words in answer.text for words in _UNUSED)), None)
        if unused is not None:
            return self._unused(unused)
        if first.is_late:
            return self._evidence(Status.SKIPPED, f"two processes cannot train this model in the time available: {first.error}")
        if not first.began or first.kind == GroupError.__name__:
            return self._evidence(Status.SKIPPED, f"two processes cannot train this model here: {first.error}")
        if any(word in first.text for word in _WAITING):
            return self._evidence(
                Status.FAIL,
                "training in two processes deadlocks",
                "a branch on the data or the rank that only one process takes, with a collective call or a module inside",
                code="deadlock",
            )
        return self._evidence(
            Status.FAIL,
            f"training raises an error in two processes, and none in one: {first.error}",
            "activation checkpointing with use_reentrant, a parameter used outside of the training step's forward, or code that assumes "
            "it is the only process",
            code="raises_in_two_processes",
        )

    def _unused(self, answer: Answer) -> Evidence:
        """PyTorch waits for the gradients of all parameters, and some have none."""
        names = self._without(0) or re.findall(r"did not receive grad for rank \d+: (?:model\.)?([\w.]+)", answer.text)
        others = self._reached_by_outputs if names and not self.trial.is_own else set()
        names = [name for name in names if name not in others]
        which = (
            f"`{names[0]}` receives none{and_others(len(names) - 1, 'parameter')}" if names else "some parameters receive none"
        )
        message = f"training in several processes stops at the second step: every parameter needs a gradient, and {which}"
        if len(self.trial.train([shared_batch(self.trial)], TrialOptions(limit=1)).optimizers) > 1:
            cause = "optimizers that each train a part of the model; DistributedDataParallel's find_unused_parameters=True allows that"
            return self._evidence(Status.WARN, message, cause, names, "parameter_without_gradient")
        if not set.intersection(*(set(self._without(seed)) for seed in range(_SEEDS))):
            cause = "parts that are skipped at random, as by stochastic depth; DistributedDataParallel's find_unused_parameters=True allows that"
            return self._evidence(Status.WARN, f"{message} in some steps", cause, names, "parameter_without_gradient")
        owner = first_failure({"step_updates": step_updates}, self.trial)
        return Evidence.failed(
            _NAME,
            message,
            counterexample=counterexample_of(self.trial),
            module=names[0] if names else "",
            cause="a parameter on which the loss does not depend, in this batch or in any: remove it, freeze it, or pass "
            "find_unused_parameters=True to DistributedDataParallel",
            code="parameter_without_gradient",
            details=owned_by(owner[0]) if owner is not None else {},
        )

    def _of_process(self, answers: Sequence[Answer]) -> Evidence | None:
        """A finding where the gradients are neither those of the halves in turn nor those of the whole."""
        if not _gradients(answers):
            return None
        results: list[RankResult] = [answer.result[0] for answer in answers]
        apart = find_mismatch(results[0].gradients, results[1].gradients)
        if apart is not None and not apart.is_rounding:
            return self._unshared(apart)
        steps = SimulatedSteps(self.stance)
        gap = find_gap(self.trial, steps.as_ranks, self._together)
        if not gap.is_real:
            return None
        if self._is_manual and not find_gap(self.trial, partial(steps.whole, 1.0), self._together, confirm=False).is_real:
            return None
        return Evidence.failed(
            _NAME,
            f"with {PARTS} processes the gradient of `{gap.where}` is not the mean of the gradients of the two halves of the batch",
            (gap.measured, gap.bound, "between the gradients"),
            counterexample=counterexample_of(self.trial),
            module=gap.where,
            cause="code that depends on the rank, the number of processes or their environment variables",
            code="depends_on_rank",
        )

    def _unshared(self, apart: Mismatch) -> Evidence:
        return Evidence.failed(
            _NAME,
            f"gradients are not averaged over the processes: that of `{apart.name}` differs between them"
            f"{and_others(apart.count - 1, 'parameter')}",
            (apart.size, apart.bound, ""),
            counterexample=counterexample_of(self.trial),
            module=apart.name,
            cause="loss.backward() where Lightning needs self.manual_backward(loss), torch.autograd.grad, or a backward under no_sync()",
            code="gradients_not_averaged",
        )

    def _sound(self) -> Evidence:
        if not self._takes_steps:
            message = f"{PARTS} processes train together; no optimizer step was seen, so gradients could not be compared"
            return self._evidence(Status.OK, message)
        spare = self._spare
        beside = (
            f"; `{spare[0]}`{and_others(len(spare) - 1, 'parameter')} computes an output that the task's loss does not use"
            if spare
            else ""
        )
        return self._evidence(
            Status.OK, f"{PARTS} processes have the gradients of 1, and the same weights as each other afterwards{beside}"
        )

    def _evidence(self, status: Status, message: str, cause: str = "", blamed: Sequence[str] = (), code: str = "") -> Evidence:
        module = blamed[0] if blamed else ""
        return Evidence(
            _NAME, status, message, counterexample=counterexample_of(self.trial), module=module, cause=cause, code=code
        )


def _gradients(answers: Sequence[Answer]) -> Quantities:
    failed = next((answer.error for answer in answers if answer.error), "")
    if failed:
        raise TrainingError(f"training raises {failed}")
    result: RankResult = answers[0].result[0]
    return result.gradients


def _alike(trial: Trial, pair: Sequence[RankResult]) -> Evidence | None:
    """A finding where the processes end with different models."""
    mismatch = find_mismatch(pair[0].weights, pair[1].weights)
    if mismatch is not None and not mismatch.is_rounding:
        return Evidence.failed(
            _NAME,
            f"weights differ between the processes after a step: `{mismatch.name}`{and_others(mismatch.count - 1, 'parameter')}",
            (mismatch.size, 0.0, ""),
            counterexample=counterexample_of(trial),
            module=mismatch.name,
            cause="weights changed by hand from the rows of one process, or a gradient that is not averaged",
            code="weights_differ",
        )
    gap, bound = difference(pair[0].logits, pair[1].logits), trial.subject.floor.bound
    if gap <= bound:
        return None
    return Evidence.failed(
        _NAME,
        "logits differ between the processes after a step, for the same rows and the same weights",
        (gap, bound, ""),
        counterexample=counterexample_of(trial),
        module=next((name for name, value in pair[0].attributes.items() if pair[1].attributes.get(name) != value), ""),
        cause="state in a plain attribute, computed from the rows of one process; make it a buffer, which is sent from the first process to all",
        code="state_differs",
    )
