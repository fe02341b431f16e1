"""How the output changes with its input: by noise, by masking, and by a step along its own gradient.

Fresh models have hardly any margin, so that nothing is held to a number of flipped answers. The output's change is held to what another input
changes it by, or to what its gradient says; how often the answer stays the same is told beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from harness.analysis import Study, each_output
from harness.analysis.derivatives import wrong_gradient
from harness.analysis.neighbourhood import (
    STRENGTHS,
    Neighbourhood,
    Point,
    between,
    neighbourhood,
    normal,
    own_model,
    rms,
    signs,
    why_not,
)
from harness.evidence import Evidence, Status
from harness.owners import failing_owner, owned_by
from harness.properties.tracing import Call, recording

_NAME = "robustness"
_DRAWS = 8
_DROWNED = 0.5
"""Of the change to another input: from here on noise weighs as much as what it hides, since the two are added."""

_UNSEEN = 2**-8
"""Resolution of bfloat16: what changes the output by less of its own change is lost in it."""

_ALONE = "an input of another scale than the others that is not normalised, or a softmax that one position always wins"


@dataclass(frozen=True)
class _Alone:
    """One part of the input against all others.

    Attributes:
        field: The input it is a part of.
        place: Number of the token, channel or feature.
        others: Change of the logits when all others are exchanged.
        everything: Change when it is exchanged too.
    """

    field: str
    place: int
    others: float
    everything: float

    @property
    def weight(self) -> float:
        """How many times as much it counts as all others."""
        return self.everything / self.others if self.others else float("inf")


@each_output
def noise(study: Study) -> Evidence:
    """Noise as small as the rounding of an 8-bit input changes the output less than another input does."""
    near = neighbourhood(study, own_model(study))
    reason = why_not(study, near, calls=len(STRENGTHS))
    if reason:
        return Evidence.skipped(_NAME, reason)
    directions = [normal(near.here, number) for number in range(len(STRENGTHS))]
    curve = near.curve({strength: near.moved(each, strength) for each, strength in zip(directions, STRENGTHS, strict=True)})
    measured = curve[0]["change"]
    facts: dict[str, Any] = {
        "measured": (measured, _DROWNED, "of the change to another input"),
        "counterexample": f"noise of 1/{round(1 / STRENGTHS[0])} of the distance between inputs",
        "details": {"curve": curve},
    }
    if measured <= _DROWNED:
        return Evidence.ok(
            _NAME, f"small noise changes the output {measured:.2g} times as much as a different input does", **facts
        )
    return Evidence.warned(
        _NAME,
        f"noise below 8-bit resolution changes the output {measured:.2g} times as much as a different input does",
        cause="frequencies that are multiplied where they should be divided by, weights of a recurrent or deep part that are too large, "
        "or a division by something close to zero",
        investigate=lambda: _first_drowned(near, near.moved(directions[0], STRENGTHS[0])),
        code="drowned_by_noise",
        **facts,
    )


@each_output
def masking(study: Study) -> Evidence:
    """The output, of a sequence at its last position, is not decided by one token, feature or channel alone."""
    model, floor = study.moved(), study.subject.floor
    near = neighbourhood(study, model)
    reason = why_not(study, near, calls=len(near.parts) + len(STRENGTHS))
    if reason or len(near.parts) < 2:
        return Evidence.skipped(_NAME, reason or "the input has only one part")
    alone = _most_alone(near)
    what = near.name_of((alone.field, alone.place))
    # A token's own logits depend on itself most, in a fresh model by far, so that only what rounding hides is hidden.
    bound = max(floor.scale, floor.epsilon) / floor.bound if what == "token" else 1 / _UNSEEN
    if alone.weight >= bound and study.subject.double is not None:
        near = neighbourhood(study, model.double())  # what rounding hides is seen there
        alone = _most_alone(near)
        what = near.name_of((alone.field, alone.place))
    if not alone.others or not alone.everything:
        return Evidence.skipped(_NAME, "the output depends on at most one part of its input (see input_dependence)")
    which = f"{what} {alone.place}" if alone.place >= 0 else f"the input `{alone.field}`"
    figures = f"all others together change it {alone.others / alone.everything:.2g} times as much as a different input does"
    decides = alone.weight >= bound
    return Evidence.judged(
        _NAME,
        Status.WARN if decides else Status.OK,
        f"the output hangs on {which}: {figures}"
        if decides
        else f"the output does not hang on a single {what}: whichever is kept, {figures} or more",
        (alone.weight, bound, "times as much as all others"),
        counterexample=f"every {what} except `{alone.field}`{f' {alone.place}' if alone.place >= 0 else ''} replaced",
        cause=_ALONE if decides else "",
        details={"curve": near.curve(near.exchanges())},
        compared=f"the most influential {what} ({alone.place if alone.place >= 0 else alone.field}) changes the output "
        f"{alone.weight:.3g} times as much as all others (allowed {bound:.3g})",
        code="hangs_on_one_part" if decides else "",
    )


@each_output
def adversarial_step(study: Study) -> Evidence:
    """A small step against the gradient's sign lowers the margin by more than random steps of the same size change it.

    For a function that follows its gradient that is Hölder's inequality. Where it fails, gradients are masked (Athalye, Carlini and Wagner
    2018, Obfuscated Gradients Give a False Sense of Security): the output goes where they do not point.
    """
    if not any(parameter.requires_grad for parameter in study.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter, so its gradients do not matter")
    near = neighbourhood(study, own_model(study))
    reason = why_not(study, near, calls=_DRAWS + 2 * len(STRENGTHS))
    if reason:
        return Evidence.skipped(_NAME, reason)
    margin = _margin(near)
    downhill = {name: -sign for name, sign in _signs_of_gradient(near, margin).items()}
    strength, before = STRENGTHS[0], float(margin(near.logits))
    lowered = before - float(margin(near.at(near.moved(downhill, strength))))
    by_chance = [abs(before - float(margin(near.at(near.moved(signs(near.here, draw), strength))))) for draw in range(_DRAWS)]
    typical = median(by_chance)
    curve = near.curve({each: near.moved(downhill, each) for each in STRENGTHS})
    facts: dict[str, Any] = {
        "measured": (typical, lowered, "of margin, by a random step"),
        "counterexample": f"steps of 1/{round(1 / strength)} of the distance between inputs",
        "details": {"curve": curve, "adversarial": lowered, "random": by_chance},
    }
    rounding = 2 * study.subject.floor.bound * _answers(near)
    if max(lowered, typical) <= rounding:
        return Evidence.skipped(_NAME, "no small step changes the output", details=facts["details"])
    if lowered >= typical - rounding:
        times = lowered / max(typical, rounding)
        return Evidence.ok(
            _NAME, f"a step along the gradient changes the output {times:.3g} times as much as a random step", **facts
        )
    if owner := failing_owner(_NAME, study, "adversarial_step"):
        facts["details"] |= owned_by(owner)
    return Evidence.warned(
        _NAME,
        "the gradient does not predict the output: a random step changes the margin more than a step along the gradient",
        cause="rounding, a cast to integers or a threshold in forward, or scores so large that softmax is one-hot and its gradient zero",
        investigate=lambda: _first_masked(study),
        code="gradient_does_not_predict",
        **facts,
    )


def _most_alone(near: Neighbourhood) -> _Alone:
    """The part beside which the others count least."""
    own = near.last(near.logits)
    others = {part: rms(near.last(near.at(near.keeping(part))) - own) for part in near.parts}
    (field, place), least = min(others.items(), key=lambda item: item[1])
    return _Alone(field, place, least, rms(near.last(near.at(near.there)) - own))


def _margin(near: Neighbourhood) -> Callable[[Tensor], Tensor]:
    """How far the answers lie before the runners-up, summed; of an output without classes the sum of its values."""
    classes = near.real.subject.task.signature.main.classes
    if classes is None or near.logits.shape[classes] < 2:
        return lambda logits: logits.sum()
    first, second = near.logits.topk(2, classes).indices.split(1, classes)
    return lambda logits: (logits.gather(classes, first) - logits.gather(classes, second)).sum()


def _answers(near: Neighbourhood) -> int:
    """How many numbers the margin is a sum of."""
    classes = near.real.subject.task.signature.main.classes
    return near.logits.numel() // (1 if classes is None else near.logits.shape[classes])


def _signs_of_gradient(near: Neighbourhood, margin: Callable[[Tensor], Tensor]) -> Point:
    """The signs of the margin's gradient; 0 where it vanishes in the model's dtype."""
    leaves = {name: value.clone().requires_grad_() for name, value in near.here.items()}
    with torch.enable_grad():
        value = margin(near.real.logits(leaves))
    if not value.requires_grad:
        return {name: torch.zeros_like(each) for name, each in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(each) if gradient is None else gradient.sign()
        for (name, each), gradient in zip(leaves.items(), found, strict=True)
    }


def _first_masked(study: Study) -> str:
    """Path of the first module whose gradient is not where its output goes."""
    exact = neighbourhood(study, study.subject.double or study.subject.fresh())
    return wrong_gradient(exact.real.model, lambda share: exact.real.logits(between(exact.here, exact.there, share)))


def _first_drowned(near: Neighbourhood, noised: Point) -> str:
    """Path of the first module whose outputs noise changes about as much as another input does, though not its inputs."""
    here, moved, there = (_record(near, point) for point in (near.here, noised, near.there))
    for one, two, three in zip(here, moved, there, strict=False):
        before = _drowned(one.inputs, two.inputs, three.inputs)
        if _drowned(one.outputs, two.outputs, three.outputs) and not before:
            return one.module
    return ""


def _drowned(here: list[Tensor], moved: list[Tensor], there: list[Tensor]) -> bool:
    return any(
        one.is_floating_point() and one.shape == two.shape == three.shape and rms(two - one) > _DROWNED * rms(three - one) > 0
        for one, two, three in zip(here, moved, there, strict=False)
    )


def _record(near: Neighbourhood, point: Point) -> list[Call]:
    with recording(near.real.model) as calls:
        near.at(point)
    return calls
