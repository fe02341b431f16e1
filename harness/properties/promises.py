"""What a declared signature promises: outputs with their shapes and ranges, inputs that matter, swaps and permutations that change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes
from harness.errors import OutputError
from harness.evidence import Evidence, Status
from harness.owners import left_to
from harness.properties.calling import ModelRaisedError
from harness.properties.equality import first_failure, judge_equal, remembered
from harness.properties.model_variants import calibrated, calibrated_double
from harness.properties.noise import FACTOR, difference
from harness.properties.prerequisites import SHAPE_OWNER
from harness.properties.subject import Subject
from harness.tasks.axes import Size, fits_shape, rows_first, shape_text
from harness.tasks.signature import Input, Output
from harness.tasks.values import IndexOf, LengthsOf, Made, MaskOf
from harness.wording import and_others

_DRAWS = 3
_MOST_PLACES = 64
"""Along an axis of a fixed size, how many places are changed one by one."""


def declared_outputs(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Every declared output is there, and has the shape, the range and the length that are promised."""
    name, signature = "declared_outputs", subject.task.signature
    counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
    batch = subject.batch(sizes, seed)
    try:
        outputs = subject.outputs(batch)
    except ModelRaisedError as error:
        return left_to(name, SHAPE_OWNER, f"forward raises: {error}", counterexample=counterexample)
    except OutputError as error:
        return Evidence(name, Status.FAIL, str(error), counterexample=counterexample, code="missing_output")
    whole = signature.complete(sizes.by_axis(subject.task))
    for output in signature.outputs:
        value = outputs[output.name]
        if isinstance(value, Tensor) and (found := _broken_promise(output, value, output.shape(whole))):
            message, code, measured, bound = found
            return Evidence(
                name, Status.FAIL, f"output `{output.name}` {message}", measured, bound, "", counterexample, code=code
            )
    return Evidence(name, Status.OK, "every output is as declared", counterexample=counterexample)


def _broken_promise(output: Output, value: Tensor, shape: tuple[int, ...]) -> tuple[str, str, float | None, float | None] | None:
    """What an output does not keep, with a code and the numbers; ``None`` where it keeps all."""
    if not fits_shape(value.shape, shape):
        return f"has shape {tuple(value.shape)}, promised {shape_text(shape)}", "wrong_shape", None, None
    if not value.is_floating_point() or not value.numel():
        return None
    slack = FACTOR * torch.finfo(value.dtype).eps
    if output.bounds is not None:
        low, high = output.bounds
        smallest, largest = float(value.min()), float(value.max())
        if smallest < low - slack * max(1.0, abs(low)) or largest > high + slack * max(1.0, abs(high)):
            off = smallest if smallest < low else largest
            return f"reaches {off:.4g}, promised {low:g} to {high:g}", "out_of_range", off, low if smallest < low else high
    norm = getattr(output.kind, "norm", None)
    if norm is not None:
        lengths = value.float().norm(dim=-1)
        off = float(lengths.flatten()[(lengths - norm).abs().argmax()])
        if abs(off - norm) > max(1e-3, slack * value.shape[-1]) * norm:
            return f"has length {off:.4g}, promised {norm:g}", "wrong_norm", off, norm
    return None


def depends_on_inputs(subject: Subject, seed: int = 0) -> Evidence:
    """Some output depends on each input, and on each place along those of its axes that have a fixed size."""
    double = calibrated_double(subject)
    model = double if double is not None else calibrated(subject)
    pending = [(each, axis, place) for each in subject.task.signature.inputs for axis, place in _places(each)]
    missing = list(pending)
    for draw in range(seed, seed + _DRAWS):
        base, other = subject.batch(seed=draw), subject.batch(seed=draw + 1_000)
        reference = _floating(subject.outputs(base, model))
        missing = [
            part for part in missing if not _differs(reference, _floating(subject.outputs(_changed(base, other, *part), model)))
        ]
        if not missing:
            break
    counterexample = f"{subject.typical.describe(subject.task)}, {_DRAWS} draws from seed={seed}"
    if not missing:
        return Evidence("input_dependence", Status.OK, "every part of every input matters", counterexample=counterexample)
    each, axis, place = missing[0]
    what = f"input `{each.name}`" if axis is None else f"place {place} of axis {axis} of input `{each.name}`"
    return Evidence(
        "input_dependence",
        Status.FAIL,
        f"no output depends on {what}{and_others(len(missing) - 1, 'part')}",
        float(len(missing)),
        0.0,
        f"of {len(pending)} parts ignored",
        counterexample,
        cause="an argument that forward does not use, a slice that leaves places out, or a branch that overwrites it",
        code="ignored_input",
    )


def _places(each: Input) -> Iterator[tuple[int | None, int]]:
    """The input as a whole, and each place along its axes of a fixed size; nothing of what only says which elements are real."""
    if each.state or isinstance(each.values, (LengthsOf, MaskOf)):
        return
    yield None, 0
    if isinstance(each.values, (IndexOf, Made)):
        return
    laid_out = [each.axes[place] for place in rows_first(each.axes)]
    for axis, size in enumerate(laid_out):
        if isinstance(size, int) and 1 < size <= _MOST_PLACES:
            yield from ((axis, place) for place in range(size))


def _changed(base: Batch, other: Batch, each: Input, axis: int | None, place: int) -> Batch:
    """A batch with other values in one part of an input."""
    if axis is None:
        return {**base, each.name: other[each.name]}
    changed = base[each.name].clone()
    changed.select(axis, place).copy_(other[each.name].select(axis, place))
    return {**base, each.name: changed}


def symmetric_inputs(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Swapping inputs that are declared symmetric changes no output."""
    first, second = subject.task.signature.symmetric[:2]
    base = subject.batch(sizes, seed)
    swapped = {**base, first: base[second], second: base[first]}
    return _equal_outputs(
        subject,
        "symmetric_inputs",
        base,
        swapped,
        f"output {{}} changes when `{first}` and `{second}` are swapped",
        f"{sizes.describe(subject.task)}, seed={seed}",
        "a branch with weights of its own, a difference without abs(), or a concatenation in a fixed order",
    )


def permutation(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Permuting the elements of a set permutes the outputs along it, and leaves the others as they are."""
    signature = subject.task.signature
    base = subject.batch(sizes, seed)
    rng = torch.Generator().manual_seed(seed)
    found = []
    for axis in signature.with_order("none"):
        size = signature.complete(sizes.by_axis(subject.task))[axis.name]
        order = torch.randperm(size, generator=rng).to(subject.device)
        found.append(
            _equal_outputs(
                subject,
                "permutation",
                base,
                {
                    each.name: _permuted_input(each, base[each.name], axis.name, order)
                    for each in signature.inputs
                    if each.name in base
                },
                f"output {{}} changes when the elements along `{axis.name}` are put in another order",
                f"{sizes.describe(subject.task)}, order of {axis.name}={order.tolist()}, seed={seed}",
                "positions that are added to a set, a recurrence or a convolution along it, or a pooling that takes the first element",
                (axis.name, order),
            )
        )
    return first_failure(found)


def _permuted_input(each: Input, value: Tensor, axis: str, order: Tensor) -> Tensor:
    if isinstance(each.values, IndexOf) and each.values.axis == axis:
        value = torch.argsort(order)[value]  # where each element is now
    return _permuted(value, each.axes, axis, order)


def _permuted(value: Tensor, axes: tuple[Size, ...], axis: str, order: Tensor) -> Tensor:
    for place, name in enumerate(axes[place] for place in rows_first(axes)):
        if name == axis:
            value = value.index_select(place, order)
    return value


def _equal_outputs(
    subject: Subject,
    name: str,
    base: Batch,
    changed: Batch,
    wrong: str,
    counterexample: str,
    cause: str,
    order: tuple[str, Tensor] | None = None,
) -> Evidence:
    """Whether every output is the same for two batches; where an order is given, up to that order along its axis."""
    before = remembered(subject, lambda model: subject.outputs(base, model))
    after = remembered(subject, lambda model: subject.outputs(changed, model))

    def compare(output: Output, model: nn.Module) -> tuple[Tensor, Tensor]:
        left, right = before(model)[output.name], after(model)[output.name]
        return (left if order is None else _permuted(left, output.axes, *order)), right

    judged = [output for output in subject.task.signature.outputs if isinstance(before(subject.model)[output.name], Tensor)]
    return first_failure(
        judge_equal(subject, name, partial(compare, output), wrong.format(f"`{output.name}`"), counterexample, cause)
        for output in judged
    )


def _floating(outputs: dict[str, Any]) -> list[Tensor]:
    return [value for value in outputs.values() if isinstance(value, Tensor) and value.is_floating_point()]


def _differs(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether any output changed by more than rounding in its dtype."""
    return any(
        difference(a, b) > FACTOR * torch.finfo(a.dtype).eps * float(a.abs().max() if a.numel() else 0.0)
        for a, b in zip(left, right, strict=True)
    )
