"""Units that respond to no input, because their activation function is flat at all their values.

How many units may be so by chance is known exactly for fresh weights, whose distribution is the same under a change of sign: a unit of a
ReLU that is always off is as likely as one that is always on. Among the units of a layer that never change sides, those that are off are
therefore at most as many as the heads of as many tosses of a coin.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.analysis import Study, with_rows
from harness.batches import Sizes, make_batch
from harness.compat import unwrapped
from harness.evidence import Evidence, Status
from harness.properties.subject import Subject
from harness.properties.tracing import hooked
from harness.wording import and_others, counted

_NAME = "dead_units"
_ROWS = 8
_BATCHES, _FEW_BATCHES = 16, 4
"""How many inputs are tried, and of a large model."""

_ALPHA = 1e-6
"""How likely, at most, a model whose weights are drawn evenly around zero is alarmed about by chance."""

_ENOUGH = 64
"""Inputs after which a layer of trained weights is judged: what is active once in ten of them is overlooked once in a thousand."""

_CAUSES = {
    "dead": "a large negative bias, an initial scale or a learning rate that pushed the units to one side, inputs that are all negative, or a "
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
    """No layer is at the end of its range whatever the input: where the derivative of tanh or sigmoid is zero to the last place."""
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
    batches = _BATCHES if not subject.is_large else _FEW_BATCHES
    if _NAME not in study.kept:  # both cases are told by the same calls
        study.kept[_NAME] = _activities(subject, subject.fresh(), {**SILENT, **SATURATING}, batches)
    layers = [layer for layer in study.kept[_NAME] if layer.function in functions]
    shown = f"{batches} batches of {_sizes(subject).describe(subject.task)}"
    if not layers:
        names = ", ".join(sorted(functions))
        return Evidence.skipped(_NAME, f"forward calls no activation function that can be {adjective} ({names})")
    found = [finding for layer in layers if (finding := _weigh(subject, layer, functions, len(layers)))]
    details = {"layers": [layer.to_json() for layer in layers]}
    if not found:
        flat, units = sum(layer.flat_units for layer in layers), sum(layer.units for layer in layers)
        message = f"{flat} of {units} units are {adjective} at every input, which chance explains"
        return Evidence.ok(_NAME, message, (float(flat), None, "units"), counterexample=shown, details=details)
    first = next((finding for finding in found if finding.is_whole), found[0])
    layer = first.layer
    who = (f"all {layer.units} units are" if layer.units > 1 else "its only unit is") if first.is_whole else ""
    who = who or f"{layer.flat_units} of {layer.units} units are"
    then = "no gradient passes through it" if first.is_whole else f"chance explains at most {first.allowed}"
    others = and_others(len(found) - 1, "layer")
    message = (
        f"in the {layer.function} of `{layer.module}` {who} {adjective} at each of {counted(layer.seen, 'input')}{others}: {then}"
    )
    status = Status.FAIL if first.is_whole else Status.WARN
    return Evidence.judged(
        _NAME,
        status,
        message,
        (float(layer.flat_units), float(first.allowed), "units"),
        counterexample=shown,
        module=layer.blamed,
        cause=_CAUSES[case],
        details=details,
        code="all_units_flat" if first.is_whole else "units_flat",
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
    return with_rows(subject, _ROWS)


def _most_heads(tosses: int, alpha: float) -> int:
    """The number of heads that so many tosses of a coin exceed with a probability of at most ``alpha``."""
    from scipy.special import bdtrc

    return next(heads for heads in range(tosses // 2, tosses + 1) if heads == tosses or bdtrc(heads, tosses, 0.5) <= alpha)


Function = Callable[[Tensor], Tensor]
"""An activation function, element by element."""

SILENT: dict[str, Function] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
}
"""Functions that are flat where a unit is off, by name."""

SATURATING: dict[str, Function] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
}
"""Functions that are flat at both ends, by name."""

_ONE_SIDED = ("relu",)
"""Functions that are flat on one side of zero and nowhere on the other, so that a unit's side tells whether it is flat."""

_FEATURE_AXIS = {
    "conv1d": 1,
    "conv2d": 1,
    "conv3d": 1,
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "conv_transpose3d": 1,
    "batch_norm": 1,
    "instance_norm": 1,
    "group_norm": 1,
    "linear": -1,
    "layer_norm": -1,
    "rms_norm": -1,
}
"""Axis along which the units lie in what these functions return."""


@dataclass
class Activity:
    """What the units of one call of an activation function did, over all inputs so far.

    Attributes:
        key: Tells the call from the others of a forward.
        function: The function's name.
        module: Path of the module whose forward calls it.
        source: Path of the module whose output it is given; empty where that is not known.
        flat: Whether each unit's derivative was zero at every input, bool ``[units]``.
        bent: Whether it never was.
        seen: Inputs and positions a unit was seen at.
    """

    key: tuple[str, str, int]
    function: str
    module: str
    source: str
    flat: Tensor
    bent: Tensor
    seen: int

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.flat)

    @property
    def flat_units(self) -> int:
        """How many were flat at every input."""
        return int(self.flat.sum())

    @property
    def one_sided(self) -> int:
        """How many never changed sides; all of them where a function's sides do not tell."""
        return int((self.flat | self.bent).sum()) if self.function in _ONE_SIDED else self.units

    @property
    def blamed(self) -> str:
        """The module to look at: the one whose weights put the units where they are, if it is known."""
        return self.source or self.module

    def to_json(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        return {
            "module": self.module,
            "function": self.function,
            "units": self.units,
            "flat_units": self.flat_units,
            "inputs": self.seen,
        }


class ActivationWatch(TorchFunctionMode):
    """Follows calls of activation functions.

    Args:
        functions: Those that are of interest, by name.
    """

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__()
        self._functions = functions
        self._found: dict[tuple[str, str, int], Activity | None] = {}
        self.running: list[str] = []
        self.begin()

    def begin(self) -> None:
        """A forward begins."""
        self._calls: Counter[tuple[str, str]] = Counter()
        self._made: dict[int, tuple[Tensor, str]] = {}
        self._axis = -1

    @property
    def activities(self) -> list[Activity]:
        """What was seen, in the order of the calls; without those whose number of units varies."""
        return [activity for activity in self._found.values() if activity is not None]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes what an activation function is given, before a call in place overwrites it."""
        name = getattr(func, "__name__", "").rstrip("_")
        if name in self._functions:
            given = args[0] if args else (kwargs or {}).get("input")
            # Inside of ``vmap`` no derivative can be taken.
            if (
                isinstance(given, Tensor)
                and given.is_floating_point()
                and unwrapped(given) is given
                and given.ndim > 1
                and given.numel()
            ):
                self._note(name, given)
        result = func(*args, **(kwargs or {}))
        if name in _FEATURE_AXIS and isinstance(result, Tensor):
            self._axis = _FEATURE_AXIS[name]
            self._made[id(result)] = (result, self.running[-1] if self.running else "")  # kept, so that its id stays its own
        return result

    def _note(self, name: str, given: Tensor) -> None:
        module = self.running[-1] if self.running else ""
        key = (module, name, self._calls[module, name])
        self._calls[module, name] += 1
        axis = self._axis if given.ndim > 2 else -1
        flat = _is_flat(self._functions[name], given).movedim(axis, -1).flatten(0, -2)
        off, on = flat.all(0), ~flat.any(0)
        if key not in self._found:
            source = self._made.get(id(given), (given, ""))[1]
            self._found[key] = Activity(key, name, module, source, off, on, len(flat))
            return
        before = self._found[key]
        if before is None or before.units != len(off):
            self._found[key] = None
            return
        before.flat, before.bent, before.seen = before.flat & off, before.bent & on, before.seen + len(flat)


@contextmanager
def watching(model: nn.Module, functions: Mapping[str, Function]) -> Iterator[ActivationWatch]:
    """Follows the activation functions that a model's forward calls; call ``begin`` before each forward.

    Args:
        model: The model.
        functions: Those that are of interest, by name.
    """
    watch = ActivationWatch(functions)

    def enter(path: str, *_call: Any) -> None:
        watch.running.append(path)

    def leave(_path: str, _output: Any) -> None:
        watch.running.pop()

    with hooked(model, enter, leave), watch:
        yield watch


def _is_flat(function: Function, given: Tensor) -> Tensor:
    """Where the derivative of a function is zero to the last place, bool."""
    at = given.detach().clone().requires_grad_()
    with torch.enable_grad():
        (derivative,) = torch.autograd.grad(function(at).sum(), at)
    return derivative.abs() <= torch.finfo(given.dtype).eps
