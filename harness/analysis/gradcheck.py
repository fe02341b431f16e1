"""Whether autograd's gradients are the derivatives of the output.

A directional derivative in float64, along a random direction through all parameters at once, is compared with central differences. One
parameter with a wrong gradient is enough to set the two apart; which one it is, and which module computes the gradient wrongly, is looked
for then.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from harness.analysis import Study, judged_outputs
from harness.analysis.derivatives import Derivative, GradientProbe, PassingDetach
from harness.evidence import Evidence, Status
from harness.properties.subject import Subject
from harness.runtime import processor_seconds
from harness.wording import and_others

_NAME = "gradcheck"
_DRAWS = 3
_REDRAWS = 4
"""Directions tried in place of those in which a kink or rounding hides the derivative."""

_MOST_NUMBERS = 4_000_000
_MOST_LINES = 150
_MOST_MODULES = 150
_FAR = (0.1, 0.3, 1.0)
"""Steps, as shares of the weights, at which a staircase shows that it is one."""

_VISIBLE = 1e-6
"""Of the output, a change that is no rounding in float64."""

_CAUSE = (
    "a custom autograd.Function with a wrong backward, an edit through .data, a detach() or no_grad() in a branch, or a value taken out with "
    ".item() and put back in"
)
_STAIRCASE = (
    "rounding, a threshold or an argmax in forward with an estimated gradient (straight-through); if this is intended, switch the "
    "property off"
)
_STOPPED = (
    "a stop-gradient: correct where it is intended (as for DoRA's norm, or a stabiliser); otherwise a bug: remove the `detach()`"
)


def gradcheck(study: Study) -> Evidence:
    """Gradients are the derivatives of the output, in eval mode and, where the same seed gives the same output, in train mode.

    Those of the parameters, that is; ``attribution`` is about the input's, which end at a frozen part by design.
    """
    subject = study.subject
    if subject.double is None:
        reason = "the model does not run in float64, and float32 is too coarse for finite differences"
        return Evidence.skipped(_NAME, reason)
    model = subject.copies.of(subject.double)
    tensors = _sample(model, _padding_rows_read(study.subject, model))
    if not tensors:
        return Evidence.skipped(_NAME, "no parameter is trainable")
    told: list[Derivative] = []
    draws = _DRAWS if not subject.is_large else 1  # one direction moves every weight that is looked at
    end = processor_seconds() + study.seconds
    for train in (False, True):
        for probe in _probes(subject, model, train):
            if told and processor_seconds() > end:
                break
            if train and not probe.is_repeatable():
                break
            derivative = probe.along(tensors)
            wrong = _wrong_parts(probe, tensors, end) if derivative.is_wrong else {}
            if wrong:
                return _finding(probe, tensors, wrong, end)
            told += [derivative] if derivative.is_telling else []
            if len(told) == draws * (1 + train):
                break
    if not told:
        return Evidence.skipped(_NAME, "kinks or rounding hide the derivative in every direction that was tried")
    worst = max(told, key=lambda derivative: derivative.gap / derivative.error)
    count = sum(tensor.numel() for tensor in tensors.values())
    message = f"gradients agree with finite differences in {len(told)} directions through {count} parameters"
    measured, bound = worst.gap / worst.size, worst.error / worst.size
    return Evidence.ok(_NAME, message, (measured, bound, "of the derivative"), counterexample=_shown(subject))


def _wrong_parts(probe: GradientProbe, moving: dict[str, Tensor], end: float) -> dict[str, Derivative]:
    """The parameters whose own gradient is wrong, found by halving; a sum of sound ones is none, whatever finite differences make of it."""
    found: dict[str, Derivative] = {}
    pending = [list(moving)]
    for _ in range(_MOST_LINES):
        if not pending or (found and processor_seconds() > end):
            break
        names = pending.pop()
        derivative = probe.along({name: moving[name] for name in names})
        if derivative.is_wrong and len(names) == 1:
            found[names[0]] = derivative
        elif derivative.is_wrong:
            half = len(names) // 2
            pending += [names[half:], names[:half]]
    return found


def _finding(probe: GradientProbe, moving: dict[str, Tensor], wrong: dict[str, Derivative], end: float) -> Evidence:
    name = max(wrong, key=lambda each: wrong[each].gap)
    derivative = wrong[name]
    flat = [each for each, part in wrong.items() if part.is_flat]
    # What an estimator gives no gradient at all, such as a codebook, has one from its own loss.
    stairs = all(part.is_flat or part.claimed == 0 for part in wrong.values())
    stairs = stairs and any(_is_staircase(probe, moving[each]) for each in flat)
    if stairs:
        name, derivative = flat[0], wrong[flat[0]]
    what = f"`{name}`{and_others(len(wrong) - 1, 'parameter')}"
    figures = f"autograd says {derivative.claimed:.3g}, finite differences {derivative.measured:.3g}"
    stopped = "" if stairs else _stopped_at(probe, {each: moving[each] for each in wrong})
    if stairs:
        message = f"the output is a step function of {what}, and its gradient an estimate: {figures}"
    elif stopped:
        message = f"`detach()` in forward removes part of the gradient of {what}: {figures}"
    else:
        message = f"the gradient of {what} is not the derivative of the output: {figures}"
    where = _blame(probe, list(wrong), end)
    message = f"{_wrong_output(probe, {each: moving[each] for each in wrong})}{message}"
    return Evidence.judged(
        _NAME,
        Status.WARN if stairs or stopped else Status.FAIL,
        message,
        (derivative.gap / derivative.size, derivative.error / derivative.size, "of the derivative"),
        counterexample=f"{_shown(probe.subject)}, {'train' if probe.train else 'eval'} mode, float64",
        module=where,
        cause=_STAIRCASE if stairs else (_STOPPED if stopped else _CAUSE),
        details={"parameters": list(wrong)},
        place=stopped,
        code="staircase" if stairs else ("detached" if stopped else "wrong_gradient"),
    )


def _wrong_output(probe: GradientProbe, wrong: dict[str, Tensor]) -> str:
    """The first of several outputs whose own gradient is wrong, as the start of a sentence; empty where there is only one."""
    outputs = [each.name for each in judged_outputs(probe.subject)]
    if len(outputs) == 1:
        return ""
    found = (name for name in outputs if replace(probe, output=name).along(wrong).is_wrong)
    name = next(found, "")
    return f"output `{name}`: " if name else ""


def _stopped_at(probe: GradientProbe, wrong: dict[str, Tensor]) -> str:
    """The line of the ``detach()`` that explains the wrong gradients: without it they are the derivatives; empty where there is none."""
    with PassingDetach() as passing:
        try:
            derivative = probe.along(wrong)
        except RuntimeError:  # a tensor that is written into after it was detached cannot stay in the graph
            return ""
    return next(iter(passing.places), "") if derivative.is_right else ""


def _blame(probe: GradientProbe, wrong: list[str], end: float) -> str:
    """The innermost module whose output has the right gradient and whose input has not; else the owner of the only wrong parameters."""
    for path in takewhile(lambda _: processor_seconds() < end, probe.finished()[:_MOST_MODULES]):
        before = probe.before(path)
        if before.is_wrong and before.gap > before.size / 1000 and probe.after(path).is_right:
            return path
    owners = {name.rpartition(".")[0] for name in wrong}
    return owners.pop() if len(owners) == 1 else ""


def _is_staircase(probe: GradientProbe, tensor: Tensor) -> bool:
    """Whether the output, which does not change near the weights, changes further away."""
    origin, values = tensor.detach().clone(), list[float]()
    with torch.no_grad():
        for share in (0.0, *_FAR):
            tensor.copy_(origin * (1 + share * torch.randn(origin.shape, generator=torch.Generator().manual_seed(1)).to(origin)))
            values.append(float(probe.value()))
        tensor.copy_(origin)
    return max(values) - min(values) > _VISIBLE * max(map(abs, values))


def _probes(subject: Subject, model: nn.Module, train: bool) -> list[GradientProbe]:
    return [
        GradientProbe(subject, model, {name: _widened(t) for name, t in subject.batch(seed=seed).items()}, train, seed)
        for seed in range(_DRAWS + _REDRAWS)
    ]


def _widened(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _padding_rows_read(subject: Subject, model: nn.Module) -> set[int]:
    """Ids of the tables whose ``padding_idx`` some of the inputs read: such a row has a derivative, and by design no gradient."""
    read = set[int]()

    def look(module: Any, args: tuple[Tensor, ...], _output: Tensor) -> None:
        if args and bool(args[0].eq(module.padding_idx).any()):
            read.add(id(module.weight))

    tables = [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.padding_idx is not None]
    handles = [table.register_forward_hook(look) for table in tables]
    try:
        for seed in range(_DRAWS + _REDRAWS) if tables else ():
            subject.logits(subject.batch(seed=seed), model)
    finally:
        for handle in handles:
            handle.remove()
    return read


def _sample(model: nn.Module, leave_out: Container[int]) -> dict[str, Tensor]:
    """Trainable parameters by name, as many as fit; without embeddings that renormalise themselves, which their gradient knows nothing of.

    Args:
        model: The model.
        leave_out: Ids of parameters that are not taken.
    """
    renormalised = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding) and m.max_norm is not None}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point() and p.numel()]
    found: dict[str, Tensor] = {}
    left = _MOST_NUMBERS
    for name, parameter in sorted(named, key=lambda item: item[1].numel()):
        left -= parameter.numel()
        if id(parameter) not in renormalised and id(parameter) not in leave_out and (left >= 0 or not found):
            found[name] = parameter
    return {name: found[name] for name, _ in named if name in found}


def _shown(subject: Subject) -> str:
    return subject.typical.describe(subject.task)
