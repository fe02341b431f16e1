"""Units that answer to no input, because their activation function is flat wherever they are.

How many units may be so by chance is known exactly for fresh weights, whose distribution is the same under a change of sign: a unit of a
ReLU that is always off is as likely as one that is always on. Among the units of a layer that never change sides, those that are off are
therefore at most as many as the heads of as many tosses of a coin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from harness.analysis.activation_watch import SATURATING, SILENT, Activity, watching
from harness.analysis.study import Study
from harness.batches import Sizes, make_batch
from harness.evidence import Evidence, Status
from harness.properties.subject import Subject
from harness.wording import and_others, counted

_NAME = "dead_units"
_ROWS = 8
_BATCHES = 16
_ALPHA = 1e-6
"""How likely, at most, a model whose weights are drawn evenly around zero is alarmed about by chance."""

_ENOUGH = 64
"""Inputs after which a layer of trained weights is judged: what is active once in ten of them is overlooked once in a thousand."""

_CAUSES = {
    "dead": "a large negative bias, an initial scale or a learning rate that threw the units to one side, inputs that are all negative, or a "
    "sign turned round",
    "saturated": "inputs that are not normalised, an initial scale that is too large for the width, or an activation applied twice",
}


def dead(study: Study) -> Evidence:
    """No unit is silent whatever the input, beyond what chance leaves in fresh weights.

    A layer that is silent as a whole passes nothing on and never learns, which is a failure. A layer of so few units that chance may do it
    must be so in other instances of the model too.
    """
    return _judge(study, "dead", SILENT, "silent")


def saturated(study: Study) -> Evidence:
    """No layer is at the end of its range whatever the input: where the slope of tanh or sigmoid is zero to the last place."""
    return _judge(study, "saturated", SATURATING, "saturated")


@dataclass(frozen=True)
class _Finding:
    """A layer with more flat units than there may be.

    Attributes:
        layer: What its units did.
        allowed: How many may be flat.
        is_whole: Whether all of them are, and not by chance.
    """

    layer: Activity
    allowed: int
    is_whole: bool


def _judge(study: Study, case: str, functions: dict[str, Any], adjective: str) -> Evidence:
    subject = study.subject
    layers = _activities(subject, subject.fresh(), functions, _BATCHES)
    shown = f"{_BATCHES} batches of {_sizes(subject).describe(subject.task)}"
    if not layers:
        names = ", ".join(sorted(functions))
        return Evidence(_NAME, Status.SKIPPED, f"forward calls no activation function that can be {adjective} ({names})")
    found = [finding for layer in layers if (finding := _weigh(subject, layer, functions, len(layers)))]
    details = {"layers": [layer.to_json() for layer in layers]}
    if not found:
        flat, units = sum(layer.flat_units for layer in layers), sum(layer.units for layer in layers)
        message = f"{flat} of {units} units are {adjective} at every input: no more than chance leaves"
        return Evidence(_NAME, Status.OK, message, float(flat), None, "units", shown, details=details)
    first = next((finding for finding in found if finding.is_whole), found[0])
    layer = first.layer
    who = (f"all {layer.units} units are" if layer.units > 1 else "the one unit is") if first.is_whole else ""
    who = who or f"{layer.flat_units} of {layer.units} units are"
    then = "it passes no gradient on" if first.is_whole else f"chance leaves no more than {first.allowed}"
    others = and_others(len(found) - 1, "layer")
    message = (
        f"in the {layer.function} of `{layer.module}` {who} {adjective} at each of {counted(layer.seen, 'input')}{others}: {then}"
    )
    status = Status.FAIL if first.is_whole else Status.WARN
    return Evidence(
        _NAME,
        status,
        message,
        float(layer.flat_units),
        float(first.allowed),
        "units",
        shown,
        layer.blamed,
        _CAUSES[case],
        details,
    )


def _weigh(subject: Subject, layer: Activity, functions: dict[str, Any], layers: int) -> _Finding | None:
    """A finding where more units are flat than may be; ``None`` for a sound layer."""
    if not layer.flat_units or not (subject.fresh_weights or layer.seen >= _ENOUGH):
        return None
    alpha = _ALPHA / layers
    is_whole = layer.flat_units == layer.units
    if is_whole and (0.5**layer.units <= alpha or _is_whole_in_others(subject, layer, functions, alpha)):
        return _Finding(layer, _most_heads(layer.units, alpha), True)
    if not subject.fresh_weights and subject.make is make_batch:
        return None  # trained units answer to real inputs, and these are drawn
    one_sided = layer.one_sided if subject.fresh_weights else layer.units
    allowed = _most_heads(one_sided, alpha)
    return _Finding(layer, allowed, False) if layer.flat_units > allowed else None


def _is_whole_in_others(subject: Subject, layer: Activity, functions: dict[str, Any], alpha: float) -> bool:
    """Whether the layer is flat in as many other instances of the model as rule out chance."""
    if subject.rebuild is None or not subject.fresh_weights:
        return False
    for seed in range(1, math.ceil(-math.log2(alpha) / layer.units)):
        others = _activities(subject, subject.rebuild(seed), functions, 1)
        same = next((other for other in others if other.key == layer.key), None)
        if same is None or same.flat_units < same.units:
            return False
    return True


def _activities(subject: Subject, model: nn.Module, functions: dict[str, Any], batches: int) -> list[Activity]:
    """What the units of every activation function do, over batches of different inputs."""
    with watching(model.to(subject.device).eval(), functions) as watch:
        for seed in range(batches):
            watch.begin()
            subject.logits(subject.batch(_sizes(subject), seed), model)
    return watch.activities


def _sizes(subject: Subject) -> Sizes:
    return replace(subject.typical, batch=_ROWS)


def _most_heads(tosses: int, alpha: float) -> int:
    """The number of heads that so many tosses of a coin exceed with a probability of at most ``alpha``."""
    from scipy.special import bdtrc

    return next(heads for heads in range(tosses // 2, tosses + 1) if heads == tosses or bdtrc(heads, tosses, 0.5) <= alpha)
