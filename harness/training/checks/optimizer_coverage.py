"""Whether the optimizers hold what is to be trained, and nothing else; which buffers training is meant to change, and what is frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.compat import NormBase
from harness.evidence import Evidence
from harness.properties.calling import mode
from harness.properties.large_tensors import largest_absolute
from harness.runtime import seeded
from harness.training.engines import gradients_of
from harness.training.trial import Trial, TrialOptions
from harness.wording import and_others, counted

_NAME = "optimizer_coverage"
_BATCHES = 16


@dataclass
class _Held:
    """The model's parameters and those of its optimizers, at the first step.

    Attributes:
        before: The parameters when the optimizers were made, by their ids.
        owned: Those at the step, each once, by its first name.
        trainable: Names of those that are to be trained.
        reached: Names of those that have a gradient.
        tensors: Every tensor of every optimizer, as often as it is listed.
        originals: Keeps the parameters that are replaced.
    """

    before: dict[int, str] = field(default_factory=dict)
    owned: dict[str, nn.Parameter] = field(default_factory=dict)
    trainable: list[str] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    tensors: list[Tensor] = field(default_factory=list)
    originals: list[nn.Parameter] = field(default_factory=list)

    def start(self, model: nn.Module) -> None:
        """The model before it is trained."""
        self.before = {id(parameter): name for name, parameter in model.named_parameters()}
        self.originals = list(model.parameters())  # so that no new tensor takes the id of one that is gone

    def look(self, model: nn.Module, _optimizers: Sequence[Optimizer]) -> None:
        """The model at a step; the first one counts."""
        if self.owned:
            return
        self.owned = dict(model.named_parameters())
        self.trainable = [name for name, parameter in self.owned.items() if parameter.requires_grad]
        self.reached = {name for name, gradient in gradients_of(model).items() if bool(gradient.any())}


def optimizer_coverage(trial: Trial) -> Evidence:
    """Every trainable parameter is in exactly one group of one optimizer, and the optimizers hold nothing that the model does not own.

    A parameter that is left out and has no gradient either, as of a backbone that runs under ``no_grad``, is no mistake; nor is a frozen one
    that is listed, or a model whose parts have their own optimizers.
    """
    held = _Held()
    batch = trial.subject.batch()
    training = trial.train([batch] * _BATCHES, TrialOptions(limit=1, clip=False), prepare=held.start, on_gradients=held.look)
    if not held.owned:
        held.look(training.model, [])
    held.tensors = [tensor for optimizer in training.optimizers for tensor in tensors_of(optimizer)]
    if not held.trainable:
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    return _judge(held, len(training.optimizers))


def tensors_of(optimizer: Optimizer) -> list[Tensor]:
    """Every tensor of an optimizer."""
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def _judge(held: _Held, optimizers: int) -> Evidence:
    times = Counter(map(id, held.tensors))
    missing = [name for name in held.trainable if not times[id(held.owned[name])] and name in held.reached]
    names = {id(parameter): name for name, parameter in held.owned.items()}
    twice = [names[key] for key, count in times.items() if count > 1 and key in names]
    foreign = [tensor for tensor in held.tensors if id(tensor) not in names]
    facts = {"missing": missing, "twice": twice, "foreign": len(foreign), "optimizers": optimizers}
    total = counted(len(held.trainable), "trainable parameter")
    if missing:
        return _finding("not_in_optimizer", *_say_missing(held, missing, foreign), len(missing), missing[0], facts)
    if foreign:
        message, module, cause = _say_foreign(held, foreign)
        return _finding("foreign_parameter", message, cause, len(foreign), module, facts)
    if twice:
        message = (
            f"`{twice[0]}`{and_others(len(twice) - 1, 'parameter')} is in the optimizers more than once, so each step updates it more than "
            "once"
        )
        cause = "groups or optimizers that share a module or a tied weight"
        return _finding("listed_twice", message, cause, len(twice), twice[0], facts)
    idle = [name for name in held.trainable if not times[id(held.owned[name])]]
    left_out = f"; {counted(len(idle), 'parameter')} without gradient in none" if idle else ""
    message = f"{total} in {counted(optimizers, 'optimizer')}, each exactly once{left_out}"
    return Evidence.ok(_NAME, message, (0, 0, "parameters"), details=facts)


def _finding(code: str, message: str, cause: str, count: int, module: str, facts: dict[str, object]) -> Evidence:
    return Evidence.failed(_NAME, message, (count, 0, "parameters"), module=module, cause=cause, details=facts, code=code)


def _say_missing(held: _Held, missing: list[str], foreign: list[Tensor]) -> tuple[str, str]:
    others = and_others(len(missing) - 1, "parameter")
    replaced = [name for name in missing if id(held.owned[name]) not in held.before]
    if replaced:
        return (
            f"`{replaced[0]}`{and_others(len(replaced) - 1, 'parameter')} was replaced while the model ran, so the optimizer trains a tensor "
            "that the model no longer uses",
            "forward or a hook assigns a new nn.Parameter: change the values of the existing one in place",
        )
    if foreign:
        return (
            f"`{missing[0]}`{others} has a gradient and is in no optimizer, which instead holds {_shown(held, foreign)}",
            "an optimizer that was created before a layer was replaced, or from copies of the parameters (deepcopy, .data, clone)",
        )
    return (
        f"`{missing[0]}`{others} has a gradient and is in no optimizer, so it is never trained",
        "an optimizer created from only a part of the model, or before a layer was added; freeze the parameter (requires_grad=False) if it is "
        "not to be trained",
    )


def _say_foreign(held: _Held, foreign: list[Tensor]) -> tuple[str, str, str]:
    message = f"an optimizer holds {_shown(held, foreign)}"
    gone = next((held.before[id(tensor)] for tensor in foreign if id(tensor) in held.before), "")
    if gone:
        cause = "forward or a hook assigns a new nn.Parameter: change the values of the existing one in place"
        return f"{message}: `{gone}` was replaced while the model ran", gone, cause
    return (
        message,
        "",
        "a module in a plain list or dict, which is trained but neither saved nor moved to the device, or a layer that was replaced",
    )


def _shown(held: _Held, foreign: Iterable[Tensor]) -> str:
    first, *others = foreign
    like = _twin(held, first)
    what = f"a copy of `{like}`" if like else f"a tensor of shape {tuple(first.shape)}"
    return f"{what} that is not a parameter of the model{and_others(len(others), 'tensor')}"


def _twin(held: _Held, tensor: Tensor) -> str:
    """Name of a parameter with the values of a tensor."""
    return next((name for name, own in held.owned.items() if own.shape == tensor.shape and torch.equal(own, tensor)), "")


def lasting_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that the state dict holds; others are caches."""
    saved = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def running_statistics(model: nn.Module) -> set[str]:
    """Names of buffers that are meant to change: statistics of norms, power iterations of spectral norms, counters."""
    found = set()
    for path, module in model.named_modules():
        is_kept = isinstance(module, NormBase) or type(module).__module__.startswith("torch.")
        for name, buffer in module.named_buffers(recurse=False):
            if is_kept or not buffer.is_floating_point():
                found.add(f"{path}.{name}".lstrip("."))
    return found


def frozen_norms(model: nn.Module) -> list[str]:
    """Paths of the norms over the batch that are inside a part of the model of which no parameter is trained."""
    frozen = [
        path
        for path, part in model.named_modules()
        if path and any(True for _ in part.parameters()) and not any(p.requires_grad for p in part.parameters())
    ]
    norms = (path for path, module in model.named_modules() if isinstance(module, NormBase))
    return [path for path in norms if any(path == part or path.startswith(f"{part}.") for part in frozen)]


_SMALL = 0.1
"""What the scale of a branch may begin with at most where its weights first move by less than their rounding."""


def small_scales(model: nn.Module) -> list[nn.Parameter]:
    """Trainable scales that begin as one small number, as those of branches do (``LayerScale``)."""
    several = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel() > 1]
    return [p for p in several if 0 < largest_absolute(p) <= _SMALL and bool((p == p.flatten()[0]).all())]


def leading_to(trial: Trial, output: str) -> set[str]:
    """Names of the trainable parameters that an output depends on, in train mode."""
    subject, model = trial.subject, trial.subject.fresh()
    with mode(model, train=True), seeded(0), torch.enable_grad():
        value = subject.adapter.outputs(model, subject.batch())[output]
        parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not isinstance(value, Tensor) or not value.requires_grad:
            return set()
        slopes = torch.autograd.grad(value.sum(), [*parameters.values()], allow_unused=True)
    return {name for name, slope in zip(parameters, slopes, strict=True) if slope is not None}
