"""Which inputs determine a model's output, and whether gradients can tell.

Integrated gradients (Sundararajan, Taly and Yan 2017, Axiomatic Attribution for Deep Networks) along the line from one input to another add
up to the change of the output, provided that gradients are those of the output. Whether they are is judged by finite differences along the
line, in float64, whose error is known from what doubling the step changes; kinks, as of ReLU, cost the integral its precision, but not these.
Where finite differences themselves do not add up, the output jumps, as one behind a hard choice does, and gradients are a matter of definition.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from harness.analysis import Study, combined
from harness.analysis.derivatives import wrong_gradient
from harness.analysis.neighbourhood import Point, RealInputs, between, no_real_input
from harness.evidence import Evidence, Status
from harness.owners import failing_owner, owned_by
from harness.properties.noise import FACTOR

_NAME = "attribution"
_STEPS = (32, 16, 8)
"""Intervals of the integral: as many as there is time for, of a large model the fewest."""

_EVERY = 4
"""Of the points of the integral, every so many is judged by finite differences."""

_NUDGES = (1e-5, 1e-3)
"""Steps of a finite difference, as shares of the path: for a model in float64 throughout, and for one that goes through float32."""

_SURE = 1e-6
"""Error of a derivative, as a share of the largest, from which on no other step is tried."""


@dataclass(frozen=True)
class _Path:
    """A scalar output along the line between two inputs: all outputs of the model in a random combination.

    Attributes:
        real: The model.
        start: One input.
        end: The other.
    """

    real: RealInputs
    start: Point
    end: Point

    def output(self, share: float | Tensor) -> Tensor:
        """The output a share of the way along, with the graph."""
        return self.output_at(between(self.start, self.end, share))

    def output_at(self, point: Point) -> Tensor:
        """The output at a point."""
        return combined(self.real.values(point))

    def gradients(self, share: float) -> Point:
        """What autograd says each real input adds to the derivative a share of the way along."""
        leaves = {name: value.detach().requires_grad_() for name, value in between(self.start, self.end, share).items()}
        with torch.enable_grad():
            output = self.output_at(leaves)
        found = (
            torch.autograd.grad(output, list(leaves.values()), allow_unused=True)
            if output.requires_grad
            else [None] * len(leaves)
        )
        return {
            name: torch.zeros_like(leaf) if gradient is None else gradient * (self.end[name] - self.start[name])
            for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
        }

    @torch.no_grad()
    def derivative(self, share: float, nudge: float) -> float:
        """The derivative by a finite difference."""
        return (float(self.output(share + nudge)) - float(self.output(share - nudge))) / (2 * nudge)


def attribution(study: Study) -> Evidence:
    """The integrated gradients between two inputs add up to the change of the output."""
    subject = study.subject
    model = subject.double
    if model is None:
        return Evidence.skipped(_NAME, "the model does not run in float64, in which the integral is taken")
    real = RealInputs(subject, model, subject.batch())
    end, start = real.point(), RealInputs(subject, model, subject.batch(seed=1)).point()
    if not end:
        return Evidence.skipped(_NAME, no_real_input(subject))
    path = _Path(real, start, end)
    needed = _seconds(path)
    reason = study.too_long(needed[_STEPS[-1]])
    if reason:
        return Evidence.skipped(_NAME, reason)
    tried = _STEPS[-1:] if subject.is_large else _STEPS
    return _judge(study, path, next(steps for steps in tried if not study.too_long(needed[steps])))


def _seconds(path: _Path) -> dict[int, float]:
    """What the integral takes, by the number of its intervals: as many gradients, and outputs for the finite differences."""
    path.gradients(0.0)  # the first call is slower
    started = time.perf_counter()
    path.gradients(0.5)
    each = time.perf_counter() - started
    return {steps: each * (steps + 1 + 4 * len(_NUDGES) * (steps // _EVERY + 1) / 2) for steps in _STEPS}


def _judge(study: Study, path: _Path, steps: int) -> Evidence:
    shares = [number / steps for number in range(steps + 1)]
    gradients = [path.gradients(share) for share in shares]
    claimed = [sum(float(values.sum()) for values in each.values()) for each in gradients]
    if not all(map(math.isfinite, claimed)):
        return Evidence.skipped(_NAME, "gradients are not finite (see gradient_flow)")
    gap, error, derivatives = _gap(path, shares[::_EVERY], claimed[::_EVERY])
    if gap > FACTOR * error:  # at other points again, as the error is an estimate from a few numbers itself
        gap, error, derivatives = _gap(path, shares[_EVERY // 2 :: _EVERY], claimed[_EVERY // 2 :: _EVERY])
    variation = sum(map(abs, derivatives)) / len(derivatives)
    if variation == 0:
        return Evidence.skipped(_NAME, "the output does not change between two inputs, or changes only in jumps")
    with torch.no_grad():
        change = float(path.output(1.0)) - float(path.output(0.0))
    missing = abs(change - _integral(claimed)[0]) / variation
    facts: dict[str, Any] = {
        "measured": (gap / variation, FACTOR * error / variation, "of the derivative"),
        "counterexample": f"{study.subject.typical.describe(study.subject.task)}, between seed=1 and seed=0",
        "details": {**_shares(study, path.real, gradients), "steps": steps, "missing": missing},
    }
    if gap <= FACTOR * error:
        message = f"the gradients match the output: integrated in {steps} steps, they miss {missing:.1e} of its variation"
        return Evidence.ok(_NAME, message, **facts)
    measured, uncertain = _integral([path.derivative(share, _NUDGES[0]) for share in shares])
    if abs(change - measured) > FACTOR * (uncertain + error):
        reason = "the output jumps between two inputs because of a hard choice, so its gradients are not well defined"
        return Evidence.skipped(_NAME, reason, details=facts["details"])
    if not path.output(0.5).requires_grad:
        return Evidence.skipped(_NAME, "the output has no gradient (see gradient_flow)")
    return _wrong(study, path, any(claimed), facts)


def _wrong(study: Study, path: _Path, any_gradient: bool, facts: dict[str, Any]) -> Evidence:
    """Gradients with respect to the input are wrong. Training suffers only where those of the parameters are too, which another check says."""
    of_parameters = failing_owner(_NAME, study, statuses=(Status.FAIL,))
    if of_parameters:
        facts["details"] |= owned_by(of_parameters)
    elif not all(parameter.requires_grad for parameter in path.real.model.parameters()):
        return Evidence.skipped(_NAME, "the gradient ends at a frozen part", details=facts["details"])
    missing = facts["details"]["missing"]
    return Evidence.judged(
        _NAME,
        Status.FAIL if of_parameters else Status.WARN,
        f"the gradients at the input do not add up to the change of the output: they miss {missing:.2g} of its variation"
        if any_gradient
        else "no gradient reaches the input, though the output depends on it",
        cause="`detach()`, `.data` or `no_grad` on the way from the input to the output, a tensor rebuilt from Python numbers, "
        "or a custom backward",
        investigate=lambda: wrong_gradient(path.real.model, path.output),
        code="gradient_misses_change" if any_gradient else "no_gradient",
        **facts,
    )


def _gap(path: _Path, shares: list[float], claimed: list[float]) -> tuple[float, float, list[float]]:
    """The median difference of the claimed derivatives from finite differences, the error of these, and they themselves.

    The median, as at a kink both are right and differ.
    """
    found = list[tuple[float, list[float]]]()
    for nudge in _NUDGES:
        derivatives = [path.derivative(share, nudge) for share in shares]
        doubled = [path.derivative(share, 2 * nudge) for share in shares]
        found.append((median(abs(one - two) for one, two in zip(derivatives, doubled, strict=True)), derivatives))
        if found[-1][0] < _SURE * max(map(abs, derivatives)):
            break
    error, derivatives = min(found)
    resolution = torch.finfo(torch.float64).eps * max(map(abs, (*derivatives, *claimed))) / _NUDGES[0]
    return median(abs(one - two) for one, two in zip(derivatives, claimed, strict=True)), error + resolution, derivatives


def _integral(values: list[float]) -> tuple[float, float]:
    """Simpson's rule over evenly spaced values from 0 to 1, and what the last two halvings of the step changed (Richardson 1911)."""
    coarse, middle, fine = (_simpson(values[::stride]) for stride in (4, 2, 1))
    return fine, abs(fine - middle) + abs(middle - coarse)


def _simpson(values: list[float]) -> float:
    return (values[0] + 4 * sum(values[1::2]) + 2 * sum(values[2:-1:2]) + values[-1]) / (3 * (len(values) - 1))


def _shares(study: Study, real: RealInputs, gradients: list[Point]) -> dict[str, dict[str, list[float]]]:
    """The share of the integrated gradients that each token, channel or feature has, by field; nothing where some blocks are left out."""
    if study.subject.shared.blocks:
        return {}
    found = {}
    for name in gradients[0]:
        integrated = torch.stack([each[name] for each in gradients]).mean(0)
        axis, _ = real.parts_of(name, integrated)
        sizes = integrated.abs().sum() if axis is None else integrated.abs().movedim(axis, 0).flatten(1).sum(1)
        found[name] = [round(share, 4) for share in (sizes / sizes.sum().clamp(min=1e-300)).flatten().tolist()]
    return {"shares": found}
