"""Whether the outputs depend on every declared input, part by part: each place of a fixed axis, each element of a set, of a sequence of ids.

A part whose gradient is not zero matters, which one backward pass tells of all parts at once. What is left is changed, a part at a time, in a
few drawn batches: with other values, with large ones, in calls that lack optional inputs, in calls that continue from a state, and of fresh
weights with weights that were moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch, other_batch
from harness.compat import TorchDispatchMode, without_compiler
from harness.errors import UserError
from harness.evidence import Evidence
from harness.properties.calling import ModelRaisedError
from harness.properties.carried_state import going_on
from harness.properties.dependence import where_lost
from harness.properties.model_variants import calibrated, calibrated_double, moved
from harness.properties.noise import FACTOR, differs
from harness.properties.optional_inputs import lacking, without
from harness.properties.prerequisites import not_finite
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.tasks.axes import BATCH, MEASURED, Size, rows_first
from harness.tasks.signature import Input, Signature
from harness.tasks.values import Ids, IndexOf, LengthsOf, Made, MaskOf, Uniform
from harness.wording import and_others

_NAME = "input_dependence"
_DRAWS = 3
_LOUD_DRAWS = 5
_LOUD = 10.0
"""By how much numbers are made larger where usual ones showed nothing: a maximum over a set reads the largest element only."""

_MOST_PLACES = 64
"""How many parts of one axis are looked into."""


@dataclass(frozen=True)
class Part:
    """A part of an input.

    Attributes:
        input: The input.
        place: Along which of its axes, the rows first; ``None`` for the whole input.
        start: Where it begins there.
        stop: Where it ends.
        told: What it is, for people.
    """

    input: Input
    place: int | None = None
    start: int = 0
    stop: int = 0
    told: str = ""

    def of(self, value: Tensor) -> Tensor:
        """A view of it."""
        return value if self.place is None else value.narrow(self.place, self.start, self.stop - self.start)

    def changed(self, base: Batch, other: Batch) -> Batch:
        """A batch with the values of another one in this part."""
        value = base[self.input.name].clone()
        self.of(value).copy_(self.of(other[self.input.name]))
        return {**base, self.input.name: value}


def depends_on_inputs(subject: Subject, seed: int = 0) -> Evidence:
    """Some output depends on each part of each input, and each output on some input, unless it is declared constant."""
    if subject.prerequisite_failure.not_finite and not subject.prerequisite_failure.small_only:
        return not_finite(subject.prerequisite_failure, _NAME)
    double = calibrated_double(subject)
    model = double if double is not None else calibrated(subject)
    counterexample = f"{subject.typical.describe(subject.task)}, {_DRAWS} draws from seed={seed}"
    if found := _wrong_outputs(subject, model, seed, counterexample):
        return found
    parts = list(_parts(subject))
    ends = list(_ends(subject))
    flat = _without_gradient(subject, model, [*parts, *(part for pair in ends for part in pair)], seed)
    missing = [part for part in parts if part.place is None or part in flat]
    missing = _unread(subject, model, missing, seed, _DRAWS)
    missing = _unread(subject, model, missing, seed, _LOUD_DRAWS, loud=_LOUD)
    for names in lacking(subject):
        kept = [part for part in missing if part.input.name not in names]
        read = set(kept) - set(_unread(subject, model, kept, seed, _DRAWS, lacks=names))
        missing = [part for part in missing if part not in read]
    if missing and subject.task.signature.states:
        missing = _unread(subject, model, missing, seed, _DRAWS, continued=True)
    if missing and subject.fresh_weights:
        missing = _unread(subject, moved(subject, model), missing, seed, _DRAWS)
    if not missing:
        unread = [last for last, inner in ends if last in flat and inner not in flat]
        for judge in (model, moved(subject, model)) if unread and subject.fresh_weights else (model,):
            unread = _unread(subject, judge, unread, seed, _DRAWS)
        if unread:
            return _unread_end(subject, unread[0], seed, counterexample)
        return Evidence.ok(_NAME, "every part of every input matters", counterexample=counterexample)
    if all(_is_last_and_causal(subject, part, missing) for part in missing):
        return Evidence.warned(
            _NAME,
            f"no output depends on {missing[0].told}, the last one: right only where {_why_unread(subject, missing[0])}",
            counterexample=counterexample,
            cause="a slice or a shift that leaves the last place out",
            investigate=lambda: _where_lost(subject, missing[0], seed),
            code="unread_end",
        )
    if end := _picked_end(subject, model, missing, seed):
        axis, name = _axis_of(missing[0]), missing[0].input.name
        return Evidence.warned(
            _NAME,
            f"forward takes only the {end} element along `{axis}` of input `{name}`: right for a class token or a last state",
            counterexample=counterexample,
            cause="an index in place of a mean, a slice or a layer that reads all of them",
            investigate=lambda: _where_lost(subject, missing[0], seed),
            code="picked_element",
        )
    return Evidence.failed(
        _NAME,
        f"no output depends on {missing[0].told}{and_others(len(missing) - 1, 'part')}",
        (len(missing), 0, f"of {len(parts)} parts ignored"),
        counterexample=counterexample,
        cause="an argument that forward does not use, a slice that leaves places out, or a branch that overwrites it",
        investigate=lambda: _where_lost(subject, missing[0], seed),
        code="ignored_input",
    )


@without_compiler
class _Picks(TorchDispatchMode):
    """Notes which element along an axis of a tensor is taken out of it by its index."""

    def __init__(self, value: Tensor, place: int) -> None:
        super().__init__()
        self._ends = {"first": value.select(place, 0), "last": value.select(place, -1)}
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator, and compares what an index gave with both ends."""
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.select.int:
            self.found |= {
                end for end, value in self._ends.items() if found.shape == value.shape and bool((found == value).all())
            }
        return found


def _picked_end(subject: Subject, model: nn.Module, missing: list[Part], seed: int) -> str:
    """``first`` or ``last`` where forward indexes an input at that end of an axis, and nothing else of it is read; else empty."""
    part = missing[0]
    if part.place is None or any((other.input, other.place) != (part.input, part.place) for other in missing):
        return ""
    base = subject.batch(seed=seed)
    value = base[part.input.name]
    if not isinstance(_axis_of(part), str) or not value.is_floating_point():
        return ""
    size, unread = value.shape[part.place], {at for each in missing for at in range(each.start, each.stop)}
    rest = [Part(part.input, part.place, at, at + 1) for at in range(size) if at not in unread]
    read = [each.start for each in rest if each not in set(_unread(subject, model, rest, seed, _DRAWS))]
    with _Picks(value.double() if _is_double(model) else value, part.place) as picks:
        subject.outputs(base, model)
    ends = {"first": [0], "last": [size - 1]}
    return next((end for end in picks.found if ends[end] == read), "")


def _axis_of(part: Part) -> Size:
    """The axis along which a part lies."""
    return part.input.axes[rows_first(part.input.axes)[part.place or 0]]


def _is_last_and_causal(subject: Subject, part: Part, missing: list[Part]) -> bool:
    """Whether a part is the last element, and all that is not read, of an input along a causal axis."""
    signature = subject.task.signature
    if part.place is None or any(other.input is part.input and other is not part for other in missing):
        return False
    axis = _axis_of(part)
    size = signature.complete(subject.typical.by_axis(subject.task)).get(str(axis))
    is_causal = isinstance(axis, str) and axis in signature.axes and signature.axes[axis].order == "causal"
    return is_causal and part.stop == size


def _why_unread(subject: Subject, part: Part) -> str:
    """Why nothing may depend on the last element along an axis, by whether other inputs have the axis too."""
    axis = _axis_of(part)
    others = (each for each in subject.task.signature.inputs if each is not part.input)
    if any(axis in each.axes and not isinstance(each.values, (LengthsOf, MaskOf)) for each in others):
        return "it acts on what comes later, as what ends an episode does"
    return "forward shifts its input and tells each element from those before it"


def _unread_end(subject: Subject, part: Part, seed: int, counterexample: str) -> Evidence:
    return Evidence.warned(
        _NAME,
        f"no output depends on {part.told}, the last one, though others at its place in a stride matter",
        (1.0, 0.0, "elements"),
        counterexample=counterexample,
        cause="padding that does not count the stride, so that the last window ends too early; on the left of a causal convolution it is the "
        "kernel less the stride",
        investigate=lambda: _where_lost(subject, part, seed),
        code="unread_end",
    )


def _where_lost(subject: Subject, part: Part, seed: int) -> str:
    base = subject.batch(seed=seed)
    return where_lost(subject, base, part.changed(base, other_batch(subject.task, base, subject.batch(seed=seed + 1_000))))


def _ends(subject: Subject) -> Iterator[tuple[Part, Part]]:
    """The last element along each axis with a stride that leaves no remainder, with the element that has its place in the window before."""
    signature = subject.task.signature
    sizes = subject.typical.by_axis(subject.task)
    for each in signature.inputs:
        if each.state or isinstance(each.values, (LengthsOf, MaskOf, IndexOf, Made)):
            continue
        for place, axis in enumerate(each.axes[place] for place in rows_first(each.axes)):
            strided = [
                name for name in signature.axes if name != axis and isinstance(axis, str) and signature.axes[name].follows(axis)
            ]
            if axis == BATCH or len(strided) != 1 or signature.axes[strided[0]].source == MEASURED:
                continue
            size = signature.complete(sizes)[str(axis)]
            outputs = [signature.complete({**sizes, str(axis): number})[strided[0]] for number in range(1, size + 1)]
            grows = [number for number in range(1, size) if outputs[number] > outputs[number - 1]]
            stride = grows[-1] - grows[-2] if len(grows) > 1 and grows[-1] == size - 1 else 0
            if stride > 1:
                at = [
                    Part(each, place, end, end + 1, f"element {end} along `{axis}` of input `{each.name}`")
                    for end in (size - 1, size - 1 - stride)
                ]
                yield at[0], at[1]


def _wrong_outputs(subject: Subject, model: nn.Module, seed: int, counterexample: str) -> Evidence | None:
    """An output that changes though it is declared constant, or never changes though it is not."""
    changed: set[str] = set()
    outputs = subject.task.signature.outputs
    for draw in range(seed, seed + _DRAWS):
        pair = [_floating(subject.outputs(subject.batch(seed=number), model)) for number in (draw, draw + 1_000)]
        changed |= {name for name in pair[0] if name in pair[1] and differs(pair[0][name], pair[1][name])}
        if all(output.constant or output.name in changed for output in outputs):
            break
    for output in outputs:
        if output.constant and output.name in changed:
            message, code = f"output `{output.name}` is declared constant and changes with the inputs", "not_constant"
        elif not output.constant and output.name not in changed and changed and _is_finite(pair[0].get(output.name)):
            message, code = f"output `{output.name}` depends on no input", "constant_output"
        else:
            continue
        cause = "an output that is computed only from weights, or in which a branch overwrites what depends on the inputs"
        return Evidence.failed(_NAME, message, counterexample=counterexample, cause=cause, code=code)
    return None


def _parts(subject: Subject) -> Iterator[Part]:
    """Every input as a whole, and what its axes can be divided into; nothing of what only says which elements are real."""
    signature = subject.task.signature
    for each in signature.inputs:
        if each.state or isinstance(each.values, (LengthsOf, MaskOf)):
            continue
        named = f"input `{each.name}`"
        yield Part(each, told=named)
        if isinstance(each.values, (IndexOf, Made)):
            continue
        shape = each.shape(signature.complete(subject.typical.by_axis(subject.task)))
        for place, axis in enumerate(each.axes[place] for place in rows_first(each.axes)):
            size = shape[place]
            if axis == BATCH or size < 2 or size > _MOST_PLACES:
                continue
            if isinstance(axis, int):
                yield from (Part(each, place, at, at + 1, f"place {at} of axis {place} of {named}") for at in range(size))
            elif _is_read_singly(signature, each, axis):
                read = size - 1 if _is_written_next(signature, each, axis) else size
                yield from (Part(each, place, at, at + 1, f"element {at} along `{axis}` of {named}") for at in range(read))
            else:
                yield Part(each, place, 0, size // 2, f"the first half along `{axis}` of {named}")
                yield Part(each, place, size // 2, size, f"the second half along `{axis}` of {named}")


def _is_read_singly(signature: Signature, each: Input, axis: str) -> bool:
    """Whether every single element along an axis has to matter: of a set, a sequence, or ids; a stride may leave a remainder out."""
    derived = any(signature.axes[name].follows(axis) for name in signature.axes if name != axis)
    return not derived and (signature.axes[axis].order is not None or isinstance(each.values, Ids))


def _is_written_next(signature: Signature, each: Input, axis: str) -> bool:
    """Whether this input is also the labels along a causal axis: each element is written from those before it, and the last is not read."""
    return signature.axes[axis].order == "causal" and each.name in signature.label_sources.values()


def _without_gradient(subject: Subject, model: nn.Module, parts: list[Part], seed: int) -> set[Part]:
    """The parts whose gradient is zero, or not known."""
    base = subject.batch(seed=seed)
    read = {part.input.name for part in parts}
    leaves = {name: value.double() if _is_double(model) else value for name, value in base.items() if name in read}
    leaves = {name: value.clone().requires_grad_() for name, value in leaves.items() if value.is_floating_point()}
    if not leaves:
        return set(parts)
    constant = {output.name for output in subject.task.signature.outputs if output.constant}
    rng = torch.Generator().manual_seed(seed)
    try:
        with torch.enable_grad(), seeded(0):
            outputs = subject.outputs_with_grad({**base, **leaves}, model)
            values = [value for name, value in _floating(outputs).items() if name not in constant and value.requires_grad]
            total = [(value * torch.randn(value.shape, generator=rng).to(value)).sum() for value in values]
            gradients = torch.autograd.grad(torch.stack(total).sum(), list(leaves.values()), allow_unused=True)
    except (UserError, RuntimeError):
        return set(parts)
    known = {name: grad.abs() for name, grad in zip(leaves, gradients, strict=True) if grad is not None}
    largest = max((float(grad.max()) for grad in known.values() if grad.numel()), default=0.0)
    floor = FACTOR * max((torch.finfo(grad.dtype).eps for grad in known.values()), default=0.0) * largest
    return {part for part in parts if part.input.name not in known or not float(part.of(known[part.input.name]).max()) > floor}


def _unread(
    subject: Subject,
    model: nn.Module,
    parts: list[Part],
    seed: int,
    draws: int,
    loud: float = 1.0,
    lacks: tuple[str, ...] = (),
    continued: bool = False,
) -> list[Part]:
    """The parts that no output showed when they were changed, in calls that continue from an earlier one where that is asked for."""
    bounded = {
        part.input.name for part in parts if isinstance(part.input.values, Uniform)
    }  # in whose range larger values are not
    for draw in range(seed, seed + draws):
        if not parts:
            break
        base = subject.batch(seed=draw)
        if continued:
            base = going_on(subject, base, subject.outputs(subject.batch(seed=draw + 2_000), model))
        other = other_batch(subject.task, base, subject.batch(seed=draw + 1_000))
        if loud != 1.0:
            other = {n: v * loud if v.is_floating_point() and n not in bounded else v for n, v in other.items()}
        try:
            reference = _floating(subject.outputs(without(base, lacks), model))
            parts = [
                part
                for part in parts
                if not _any_differs(reference, _floating(subject.outputs(without(part.changed(base, other), lacks), model)))
            ]
        except ModelRaisedError:
            if loud == 1.0 and not lacks:
                raise
            break  # values beyond a promised range, or a call that lacks an input, may be refused
    return parts


def _is_finite(value: Tensor | None) -> bool:
    return value is not None and bool(torch.isfinite(value).all())


def _is_double(model: nn.Module) -> bool:
    return any(parameter.dtype == torch.float64 for parameter in model.parameters())


def _floating(outputs: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in outputs.items() if isinstance(value, Tensor) and value.is_floating_point()}


def _any_differs(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return any(differs(left[name], right[name]) for name in left if name in right)
