"""What a few optimizer steps change, and what they must not change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.properties.calling import mode
from harness.properties.tracing import probing
from harness.properties.watched_lines import LinesOfParameters
from harness.runtime import seeded
from harness.tasks.kinds import Other
from harness.tasks.teaching import targeted, trained_by_loss
from harness.training.checks.averaged_weights import Average, find_pairs, follows, is_mean_of
from harness.training.checks.frozen_by_name import trained_by_a_flag, trained_by_a_setting
from harness.training.checks.gradient_noise import in_double
from harness.training.checks.observation import loss_name
from harness.training.checks.optimizer_coverage import (
    frozen_norms,
    lasting_buffers,
    leading_to,
    running_statistics,
    small_scales,
    tensors_of,
)
from harness.training.engines import gradients_of
from harness.training.optimisation import rate_of
from harness.training.trial import Training, Trial, TrialOptions
from harness.wording import and_others, counted

_NAME = "step_updates"
_STEPS = 3
_BATCHES = 16
"""Batches in which a training step that accumulates by itself must have taken a step."""


@dataclass
class _Watch:
    """What was seen while a few steps were taken.

    Attributes:
        parameters: Values before the first step.
        buffers: The same of buffers.
        frozen: Names of the parameters that are not to be trained.
        reached: Names of those that had a gradient at a step which could move them, or that no optimizer holds.
        aside: Names of those that had one at the step of an optimizer that does not hold them, as the loss of another one leaves.
        clear: Names of those that had one above the rounding of float32.
        connected: Names of those that the loss depends on, whatever their gradient.
        in_optimizer: Names of those that an optimizer holds.
        rates: Largest learning rate each of these had.
        paths: Values of the trainable parameters at each step.
        steps: Optimizer steps.
        idle: By optimizer, the first of its parameters where none of them ever had a gradient at its steps.
        opened: Whether scales that begin near zero are set to one first.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    aside: set[str] = field(default_factory=set)
    clear: set[str] = field(default_factory=set)
    connected: set[str] = field(default_factory=set)
    in_optimizer: set[str] = field(default_factory=set)
    rates: dict[str, float] = field(default_factory=dict)
    paths: list[dict[str, Tensor]] = field(default_factory=list)
    steps: int = 0
    idle: dict[int, str] = field(default_factory=dict)
    opened: bool = False

    def start(self, model: nn.Module) -> None:
        """The model before it is trained, in train mode: one that folds adapters into its weights in eval mode has others there."""
        model.train()
        for parameter in small_scales(model) if self.opened else ():
            parameter.data.fill_(1.0)
        self.parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.buffers = {name: buffer.detach().clone() for name, buffer in lasting_buffers(model).items()}
        self.frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}

    def look(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken."""
        self.steps += 1
        self.paths.append({name: p.detach().clone() for name, p in model.named_parameters() if name not in self.frozen})
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        taken = {names.get(id(tensor)) for optimizer in optimizers for tensor in tensors_of(optimizer)}
        gradients = gradients_of(model)
        above = _above_rounding(gradients, torch.finfo(torch.float64).eps)
        self.reached |= above & taken
        self.aside |= above - taken
        self.clear |= _above_rounding(gradients, 10 * torch.finfo(torch.float32).eps) & taken
        self.connected |= {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        for optimizer in optimizers:
            own = {names[id(tensor)]: tensor for tensor in tensors_of(optimizer) if id(tensor) in names}
            self.in_optimizer |= own.keys()
            trained = [name for name, tensor in own.items() if tensor.requires_grad]
            if any(tensor.grad is not None for tensor in own.values()):
                self.idle[id(optimizer)] = ""
            elif trained:
                self.idle.setdefault(id(optimizer), trained[0])
            for group in optimizer.param_groups:
                for name in (names[id(tensor)] for tensor in group["params"] if id(tensor) in names):
                    self.rates[name] = max(self.rates.get(name, 0.0), rate_of(group, 1.0))


def step_updates(trial: Trial) -> Evidence:
    """A few steps change every trainable parameter that got a gradient, nothing that is frozen, and no buffers but running statistics."""
    if not any(parameter.requires_grad for parameter in trial.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    watch, training = _take_steps(trial)
    watch.reached |= watch.aside - watch.in_optimizer
    values = {name: parameter.detach() for name, parameter in training.model.named_parameters()}
    counterexample = f"{counted(len(training.steps), 'step')} on {trial.subject.typical.describe(trial.subject.task)}"
    found = (
        _judge_steps(trial, watch, values)
        or _judge_trainable(trial, watch, values)
        or _judge_outputs(trial, watch)
        or _judge_frozen(trial, watch, values)
        or _judge_buffers(trial, watch, training.model)
        or _judge_frozen_statistics(trial, watch, training.model)
        or _judge_said(watch, training.model, values)
    )
    if found is None:
        frozen = f", {counted(len(watch.frozen), 'frozen parameter')} did not" if watch.frozen else ""
        message = f"all {len(watch.reached)} parameters with a gradient changed{frozen}"
        return Evidence.ok(_NAME, message, (0, 0, "parameters"), counterexample=counterexample)
    names = set(found.details["parameters"])
    is_owned = found.status is Status.FAIL and names and not names & (watch.in_optimizer | watch.frozen)
    details = found.details | (owned_by("optimizer_coverage") if is_owned else {})
    return replace(found, counterexample=counterexample, details=details)


def _found(status: Status, code: str, message: str, module: str, cause: str, names: list[str]) -> Evidence:
    """What is wrong with some parameters or buffers, by name."""
    seen = (len(names) or 1, 0, "parameters")
    return Evidence.judged(_NAME, status, message, seen, module=module, cause=cause, details={"parameters": names}, code=code)


def _judge_said(watch: _Watch, model: nn.Module, values: dict[str, Tensor]) -> Evidence | None:
    """A warning where an attribute or a setting says that something is frozen, and its parameters are trained all the same."""
    changed = {name for name, before in watch.parameters.items() if name in values and _changed(before, values[name])}
    found = trained_by_a_flag(model) or trained_by_a_setting(model, changed)
    return None if found is None else _found(Status.WARN, *found)


def _take_steps(trial: Trial, opened: bool = False) -> tuple[_Watch, Training]:
    watch = _Watch(opened=opened)
    batches = [trial.subject.batch(seed=seed) for seed in range(_STEPS)]
    training = trial.train(batches, TrialOptions(limit=_STEPS), prepare=watch.start, on_gradients=watch.look)
    if watch.steps:
        return watch, training
    watch = _Watch(opened=opened)  # a training step that accumulates by itself takes a step after some batches only
    batches = [trial.subject.batch(seed=seed) for seed in range(_BATCHES)]
    training = trial.train(batches, TrialOptions(limit=_STEPS), prepare=watch.start, on_gradients=watch.look)
    if not watch.steps:
        watch.look(training.model, training.optimizers)
        watch.steps = 0  # none was heard of, though some may have been taken past the engine
    return watch, training


def _judge_steps(trial: Trial, watch: _Watch, values: dict[str, Tensor]) -> Evidence | None:
    name = loss_name(trial)
    idle = next(filter(None, watch.idle.values()), "")
    if watch.steps and watch.reached and idle:
        told = f"{name} takes steps of an optimizer, none of whose parameters has a gradient, such as `{idle}`"
        cause = "a loss of outputs that are detached, or zero_grad() of one optimizer before the step of another"
        return _found(Status.FAIL, "optimizer_without_gradient", told, idle, cause, [])
    if watch.steps and not watch.reached:
        return _found(
            Status.FAIL,
            "no_gradient_at_step",
            f"no parameter has a gradient when the optimizer of {name} takes its step, so training changes nothing",
            "",
            "zero_grad() between the backward pass and step(), no backward pass at all, or a loss that is detached from the model",
            [],
        )
    if not watch.steps and not any(
        _changed(watch.parameters[path], value) for path, value in values.items() if path in watch.parameters
    ):
        told = f"{name} took no optimizer step in {_BATCHES} batches"
        return _found(Status.FAIL, "no_step", told, "", "manual optimisation without opt.step()", [])
    return None


def _judge_trainable(trial: Trial, watch: _Watch, values: dict[str, Tensor]) -> Evidence | None:
    stuck = [name for name in watch.parameters if name in watch.reached and not _changed(watch.parameters[name], values[name])]
    if not stuck:
        return None
    still = [name for name in stuck if watch.rates.get(name) == 0.0]
    others = and_others(len(stuck) - 1, "parameter")
    if still:
        return _found(
            Status.FAIL,
            "rate_is_zero",
            f"`{still[0]}`{and_others(len(stuck) - 1, 'parameter')} has a gradient and does not change: the learning rate of its group is 0",
            still[0],
            "a group with lr=0, or a schedule that stays at 0; freeze the parameters (requires_grad=False) if they are not to be trained",
            stuck,
        )
    if not set(stuck) & watch.in_optimizer:
        return _found(
            Status.FAIL,
            "not_in_optimizer",
            f"`{stuck[0]}`{others} has a gradient and does not change: it is in no optimizer",
            stuck[0],
            "an optimizer created from tensors that are not the model's parameters",
            stuck,
        )
    held = [name for name in stuck if name in watch.in_optimizer]
    clear = [name for name in held if name in watch.clear]
    held = clear or held
    if small_scales(trial.subject.model):  # a branch that a small scale begins without moves once that has grown
        opened, training = _take_steps(trial, opened=True)
        moved = dict(training.model.named_parameters())
        held = [name for name in held if not _changed(opened.parameters[name], moved[name].detach())]
        if not held:
            return None
        clear = [name for name in clear if name in held]
    if _moves_in_double(trial, held[0], bool(clear)):
        return _found(
            Status.WARN,
            "lost_in_rounding",
            f"`{held[0]}`{and_others(len(held) - 1, 'parameter')} does not change: its steps are so small that they are lost in rounding",
            held[0],
            "a learning rate or gradients that are far too small",
            held,
        )
    if not clear:  # a bias before a norm over the batch: its gradient is zero, but for rounding
        return None
    return _found(
        Status.FAIL,
        "does_not_change",
        f"`{held[0]}`{and_others(len(held) - 1, 'parameter')} has a gradient and is in an optimizer, but does not change",
        held[0],
        "a gradient that is set to zero before step(), or a forward that restores the old values",
        held,
    )


def _judge_outputs(trial: Trial, watch: _Watch) -> Evidence | None:
    """A finding where a loss that is not made here leaves out an output, so that what leads to it is never trained."""
    signature = trial.subject.task.signature
    left = {name for name in watch.parameters if name not in watch.frozen | watch.connected}
    if trial.subject.task.declared is None or not (trial.is_own or signature.whole_loss) or not left:
        return None
    later = _Watch()  # DINO leaves its last layer as it is in the first epoch
    trial.train([trial.subject.batch()], TrialOptions(epochs=_STEPS), prepare=later.start, on_gradients=later.look)
    left -= later.connected
    followed = targeted(signature)  # what is sent back to them is followed by ``training_loss[targets]``
    judged = [(output, Status.FAIL, left) for output in trained_by_loss(signature) if output not in followed]
    if trial.is_own:  # what an output of another kind is for is not known; an optimizer holds what is to be trained
        others = [output for output in signature.outputs if isinstance(output.kind, Other) and output.weight]
        judged += [(output, Status.WARN, left & watch.in_optimizer) for output in others]
    for output, status, untaught in judged:
        led = leading_to(trial, output.name)
        names = [name for name in watch.parameters if name in untaught & led]
        if names:
            return _found(
                status,
                "output_without_gradient",
                f"no gradient reaches `{names[0]}`{and_others(len(names) - 1, 'parameter')}, on which output `{output.name}` depends: "
                f"{loss_name(trial)} leaves it out",
                names[0],
                "an output that is detached, or a term that is missing in the loss; give the output `weight: 0` if it is not to be trained",
                names,
            )
    return None


def _judge_frozen(trial: Trial, watch: _Watch, values: dict[str, Tensor]) -> Evidence | None:
    moved = [name for name in watch.frozen if name in values and _changed(watch.parameters[name], values[name])]
    averaged = [name for name in moved if _is_average(name, watch, values)]
    pairs = find_pairs(trial.subject.model) if averaged else []
    moved = sorted(name for name in moved if name not in averaged and not _is_beside(name, averaged, pairs, watch))
    if not moved:
        return None
    writer = _writer(trial, moved[0])
    told = f"`{moved[0]}` is frozen and changes in training{and_others(len(moved) - 1, 'frozen parameter')}"
    told += ": forward writes into it" if writer else ""
    cause = "a training step, hook or optimizer that writes into it, or requires_grad set back to True"
    if is_state := all(_is_state(trial, name) for name in moved):
        cause = "running values, such as prototypes, in a parameter that is made frozen: keep them in a buffer"
    elif writer:
        cause = "an assignment to .data, or an in-place operation under no_grad, in forward; keep running values in a buffer"
    status = Status.WARN if is_state else Status.FAIL
    return _found(status, "frozen_parameter_changes", told, writer or moved[0], cause, moved)


def _is_state(trial: Trial, name: str) -> bool:
    """Whether a parameter is none of a layer of torch's, and was made as one that is not trained, not frozen later."""
    owner = type(trial.subject.model.get_submodule(name.rpartition(".")[0]))
    return not owner.__module__.startswith("torch.") and not LinesOfParameters(trial.new_model).frozen(name)


def _judge_buffers(trial: Trial, watch: _Watch, model: nn.Module) -> Evidence | None:
    known = running_statistics(model)
    buffers = lasting_buffers(model)
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moved = [
        name
        for name, before in watch.buffers.items()
        if name in buffers
        and name not in known
        and _changed(before, buffers[name])
        and not follows(before, buffers[name], values.values())
    ]
    if not moved:
        return None
    return _found(
        Status.WARN,
        "buffer_changes",
        f"buffer `{moved[0]}`{and_others(len(moved) - 1, 'buffer')} changes in training, though its module keeps no running statistics",
        moved[0].rpartition(".")[0],
        "an in-place operation on a table or mask; fine if the buffer is meant to hold state",
        moved,
    )


def _judge_frozen_statistics(trial: Trial, watch: _Watch, model: nn.Module) -> Evidence | None:
    """A finding where a norm of a part that is frozen as a whole continues to average the batches; an average of another part is not frozen."""
    buffers, values = lasting_buffers(model), {name: parameter.detach() for name, parameter in model.named_parameters()}
    moving = {name for name in watch.frozen if name in values and _changed(watch.parameters[name], values[name])}
    averages = [f"{pair.path}." for pair in find_pairs(trial.subject.model)] if moving else []
    averages = [path for path in averages if any(name.startswith(path) for name in moving)]
    names = [name for path in frozen_norms(model) for name in (f"{path}.running_mean", f"{path}.running_var")]
    names = [name for name in names if name in buffers and name in watch.buffers and not name.startswith(tuple(averages))]
    moved = [name for name in names if _changed(watch.buffers[name], buffers[name])]
    if not moved:
        return None
    return _found(
        Status.WARN,
        "frozen_statistics_change",
        f"`{moved[0]}`{and_others(len(moved) - 1, 'statistic')} changes in training, though every parameter around it is frozen",
        moved[0].rpartition(".")[0],
        "a frozen part whose norms stay in train mode: put it into eval mode, and again after each train(), by an override of train()",
        moved,
    )


def _above_rounding(gradients: Mapping[str, Tensor], epsilon: float) -> set[str]:
    """Names of the gradients that are more than rounding beside the model's largest; what is less moves nothing, in no optimizer's step."""
    sizes = {name: float(gradient.to_dense().abs().max()) for name, gradient in gradients.items() if gradient.numel()}
    rounding = epsilon * max((size for size in sizes.values() if math.isfinite(size)), default=0.0)
    return {name for name, size in sizes.items() if not size <= rounding}


def _changed(before: Tensor, after: Tensor) -> bool:
    return before.shape != after.shape or not torch.equal(before, after)


def _is_average(name: str, watch: _Watch, values: dict[str, Tensor]) -> bool:
    """Whether a frozen parameter moved towards a trainable one, as the average of a teacher does, or is a mean of where that one was."""
    before, after = watch.parameters[name], values[name]
    leaders = {other: value for other, value in values.items() if other not in watch.frozen and value.shape == after.shape}
    return follows(before, after, leaders.values()) or any(
        is_mean_of(before, after, [*(step[other] for step in watch.paths if other in step), value])
        for other, value in leaders.items()
    )


def _is_beside(name: str, averaged: Sequence[str], pairs: Sequence[Average], watch: _Watch) -> bool:
    """Whether a frozen parameter of too few numbers to be told from chance is in one part with others that are averages."""
    if watch.parameters[name].numel() > 2 * (len(watch.paths) + 1):
        return False
    homes = [f"{pair.path}." for pair in pairs if name.startswith(f"{pair.path}.")]
    return any(other.startswith(home) for home in homes for other in averaged)


def _moves_in_double(trial: Trial, name: str, is_clear: bool) -> bool:
    double = in_double(trial)
    if double is None:
        return False
    try:
        watch, training = _take_steps(double)
    except Exception:  # it makes numbers of one dtype; a gradient that is more than rounding moves something
        return is_clear
    return _changed(watch.parameters[name], dict(training.model.named_parameters())[name].detach())


def _writer(trial: Trial, name: str) -> str:
    """The innermost module whose forward changes a parameter; empty where none does."""
    model = trial.subject.fresh()
    parameter = dict(model.named_parameters())[name]
    with mode(model, train=True), seeded(0), probing(model, lambda: parameter.detach().clone()) as probes:
        trial.subject.raw_logits(trial.subject.batch(), model)
    return next((probe.module for probe in probes if _changed(probe.before, probe.after)), "")
