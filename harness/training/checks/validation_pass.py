"""Whether a validation pass of a LightningModule, with its hooks and callbacks, leaves the training as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.compat import NormBase
from harness.errors import UserError
from harness.evidence import Evidence
from harness.training.engines import gradients_of, overrides
from harness.training.optimisation import rate_of
from harness.training.trial import Trial, TrialOptions
from harness.user_code import raised
from harness.wording import and_others

_NAME = "validation_pass"
_EPOCHS = 2
_CAUSE = "a hook or callback of validation that changes the model and does not change it back: swapped weights, dropout, `requires_grad`"


@dataclass
class _Moment:
    """What a model is where a step is about to be taken.

    Attributes:
        parameters: Its parameters.
        trained: The names of those that are trained.
        statistics: The buffers of its norms.
        modes: The paths of its modules in train mode.
        numbers: Plain numbers that modules hold, by path and name.
        gradients: The gradients of the step.
        rates: The learning rates.
    """

    parameters: Mapping[str, Tensor]
    trained: frozenset[str]
    statistics: Mapping[str, Tensor]
    modes: frozenset[str]
    numbers: Mapping[str, float]
    gradients: Mapping[str, Tensor]
    rates: tuple[float, ...]


@dataclass
class _Watch:
    """Looks at a model before each step."""

    moments: list[_Moment] = field(default_factory=list)

    def look(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self.moments.append(
            _Moment(
                {name: parameter.detach().clone() for name, parameter in model.named_parameters()},
                frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad),
                _statistics(model),
                frozenset(path for path, module in model.named_modules() if module.training),
                dict(_numbers(model)),
                gradients_of(model),
                tuple(rate_of(group) for optimizer in optimizers for group in optimizer.param_groups),
            )
        )


def validation_pass(trial: Trial) -> Evidence:
    """With a validation pass between two epochs, a training ends with the weights that it ends with otherwise, to the bit."""
    if not trial.is_own:
        return Evidence.skipped(_NAME, "the model is not a LightningModule, which would have a validation step")
    if not overrides(trial.subject.model, "validation_step"):
        return Evidence.skipped(_NAME, "the model has no `validation_step`")
    plain, again = (_trained(trial, validates=False) for _ in range(2))
    if trial.validates:
        reason = "a callback or a schedule of the model reads the result of validation, so that there is no training without it"
        return Evidence.skipped(_NAME, reason)
    if _difference(plain, again):
        return Evidence.skipped(_NAME, "the training is not repeatable, with or without validation (see seeded_repeat)")
    try:
        validated = _trained(trial, validates=True)
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else raised(error)
        return Evidence.skipped(_NAME, f"`validation_step` cannot be called with a batch of training: {told}")
    at = f"{_EPOCHS} epochs, a validation pass after the first, {trial.subject.typical.describe(trial.subject.task)}"
    found = _difference(plain, validated)
    if not found:
        return Evidence.ok(
            _NAME, "training is the same, to the bit, with a validation pass between its epochs", counterexample=at
        )
    message, module, code = found
    if code == "rate":
        return Evidence.skipped(_NAME, "the learning rate follows from the result of validation, so that training may differ")
    return Evidence.failed(_NAME, message, module=module, counterexample=at, cause=_CAUSE, code=code)


def _trained(trial: Trial, validates: bool) -> list[_Moment]:
    """What the model is before each step."""
    count = max(1, trial.batches_per_step)
    batches = [trial.subject.batch(seed=seed) for seed in range(2 * count)]
    held_out = [trial.held_out] if validates else None
    watch = _Watch()
    trial.train(batches, TrialOptions(epochs=_EPOCHS), model=trial.new_model(), on_gradients=watch.look, held_out=held_out)
    return watch.moments


def _difference(plain: Sequence[_Moment], other: Sequence[_Moment]) -> tuple[str, str, str] | None:
    """The first thing that differs between two trainings: a sentence, the module to blame, and a code; ``None`` where nothing does."""
    after = "after a validation pass"
    for one, two in zip(plain, other, strict=False):
        if changed := _changed(one.parameters, two.parameters):
            others = and_others(len(changed) - 1, "parameter")
            return f"{after} `{changed[0]}` is not what it was{others}", changed[0], "validation_changes_weights"
        if lost := sorted(one.trained ^ two.trained):
            others = and_others(len(lost) - 1, "parameter")
            told = "is not trained any more" if lost[0] in one.trained else "is trained, though it was frozen"
            return f"{after} `{lost[0]}` {told}{others}", lost[0].rpartition(".")[0], "validation_freezes"
        if changed := _changed(one.gradients, two.gradients):
            return _why_gradients_differ(one, two, changed[0])
        if changed := _changed(one.statistics, two.statistics):
            told = f"{after} the running statistics `{changed[0]}` have averaged its batches"
            return told, changed[0].rpartition(".")[0], "validation_changes_statistics"
        if one.rates != two.rates:
            return "the learning rate differs", "", "rate"
    if len(plain) != len(other):
        return f"{after} another number of steps is taken", "", "validation_changes_steps"
    return None


def _why_gradients_differ(one: _Moment, two: _Moment, name: str) -> tuple[str, str, str]:
    after, code = "after a validation pass", "validation_changes_training"
    if modes := sorted(one.modes ^ two.modes, key=lambda path: (bool(path), path.count("."), path)):
        mode, shown = ("eval" if modes[0] in one.modes else "train"), (f"`{modes[0]}`" if modes[0] else "the model")
        return f"{after} {shown} stays in {mode} mode", modes[0], "validation_leaves_mode"
    numbers = [key for key, value in one.numbers.items() if two.numbers.get(key) != value]
    if numbers:
        path, _, leaf = numbers[0].rpartition(".")
        told = f"{after} `{numbers[0]}` is {two.numbers.get(numbers[0])} instead of {one.numbers[numbers[0]]}, and training continues with it"
        return told, path or leaf, code
    return f"{after} the next step has another gradient of `{name}`", name.rpartition(".")[0], code


def _changed(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> list[str]:
    return [name for name, value in one.items() if name not in two or not torch.equal(value.to_dense(), two[name].to_dense())]


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{path}.{name}".lstrip("."): buffer.detach().clone()
        for path, module in model.named_modules()
        if isinstance(module, NormBase)
        for name, buffer in module.named_buffers(recurse=False)
    }


def _numbers(model: nn.Module) -> dict[str, float]:
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) in (int, float, bool) and not name.startswith("_") and name != "training"
    }
