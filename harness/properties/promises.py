"""What a declared signature promises: outputs, and swaps, permutations and repeats that change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes
from harness.errors import OutputError
from harness.evidence import WHOLE, Blame, Evidence
from harness.owners import left_to
from harness.properties.calling import ModelRaisedError
from harness.properties.computed_dtypes import HIDDEN_BY, hidden_by, in_float64
from harness.properties.noise import FACTOR, first_failure, judge_equal, remembered
from harness.properties.numerics import extreme_batch
from harness.properties.padding import padded, placed, tells_padding
from harness.properties.prerequisites import SHAPE_OWNER
from harness.properties.subject import Subject
from harness.properties.tracing import Call, View, calls_of, first_divergence, recording
from harness.tasks.axes import ANY_SIZE, Formula, Size, fits_shape, rows_first, shape_text
from harness.tasks.kinds import Lengths, Probabilities, State
from harness.tasks.signature import Input, Output
from harness.tasks.values import IndexOf, LengthsOf

_UNUSUAL = ("constant_large", "alternating", "spike")
"""Contents at which a promised range is most likely to be left."""

_Broken = tuple[str, str, "float | None", "float | None"]
"""What is not kept, its code, what was measured, and what was promised."""


def declared_outputs(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Every declared output is there, and has the shape, the range, the sum and the length that are promised."""
    name, signature = "declared_outputs", subject.task.signature
    for content in ("typical", *(_UNUSUAL if any(map(_has_bounds, signature.outputs)) else ())):
        batch = extreme_batch(subject, sizes, content, seed)
        counterexample = f"{sizes.describe(subject.task)}, content={content}, seed={seed}"
        real = None
        if content == "typical":
            counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
            batch, real = _partly_padded(subject, sizes, batch)
        sized = signature.complete(sizes.by_axis(subject.task))

        def first_broken(
            model: nn.Module, slack: float | None = None, batch: Batch = batch, sized: dict[str, int] = sized, real: Any = real
        ) -> tuple[Output, _Broken] | None:
            outputs = subject.outputs(batch, model)
            judged = [each for each in signature.outputs if each.name in outputs]
            return next(filter(None, (_broken(subject, each, outputs[each.name], sized, real, slack) for each in judged)), None)

        try:
            found, details = first_broken(subject.model), dict[str, Any]()
        except ModelRaisedError as error:
            return left_to(name, SHAPE_OWNER, f"forward raises: {error}", counterexample=counterexample, code="raises")
        except OutputError as error:
            return Evidence.failed(name, str(error), counterexample=counterexample, module=WHOLE, code="missing_output")
        if not found:
            # A constant that is stored in half precision is off by its rounding in float64 too.
            finer = in_float64(subject, name, partial(first_broken, slack=torch.finfo(subject.dtype).eps))
            found, details = (finer[1], hidden_by(subject)) if finer is not None else (None, {})
        if found:
            output, (message, code, measured, bound) = found
            told = f"output `{output.name}` {message}"
            return Evidence.failed(
                name,
                f"{told}, in float64; rounding in {details[HIDDEN_BY]} hides it" if details else told,
                (measured, bound, ""),
                counterexample=counterexample,
                investigate=partial(_where_made, subject, batch, output.name, code == "wrong_shape"),
                details=details,
                code=code,
            )
    return Evidence.ok(name, "every output is as declared", counterexample=counterexample)


def _in_any_order(tensor: Tensor) -> Tensor | None:
    """The values of a tensor without their order, which is all of it that a permutation leaves."""
    return tensor.flatten().sort().values if tensor.is_floating_point() else None


def _once_each(tensor: Tensor) -> Tensor | None:
    """The values of a tensor, each once: what is left of it when an element is repeated."""
    return tensor.flatten().unique() if tensor.is_floating_point() else None


def _first_not_made(left: list[Call], right: list[Call], value: Tensor) -> Blame:
    """The operator on the way to a value whose inputs another recording has too, and whose output it has not; empty where there is none."""
    have = [tensor for call in right for step in call.steps for tensor in (*step.inputs, *step.outputs)]
    made = [(call.module, step) for call in left for step in call.steps]
    pending, seen = [value], list[Tensor]()
    while pending:
        wanted = pending.pop()
        seen.append(wanted)
        maker = next(((path, step) for path, step in reversed(made) if _has(step.outputs, wanted)), None)
        if maker is None:
            continue
        missing = [each for each in maker[1].inputs if not _has(have, each)]
        if not missing:
            return Blame(maker[0], maker[1].place)
        pending += [each for each in missing if not _has(seen, each)]
    return Blame("")


def _has(tensors: Iterable[Tensor], wanted: Tensor) -> bool:
    return any(each.dtype == wanted.dtype and torch.equal(each, wanted) for each in tensors)


def first_returning(calls: list[Call], value: Tensor, is_shaped: bool = False) -> Blame:
    """Path of the first module that returns a value, or some view of it, with the line that made it where lines are recorded.

    Args:
        calls: What was recorded.
        value: The value.
        is_shaped: Whether its shape counts as well: then that of the line that gave it the shape.
    """

    def holds(tensors: list[Tensor]) -> bool:
        same = (each for each in tensors if each.numel() == value.numel() and (not is_shaped or each.shape == value.shape))
        return any(torch.equal(each.flatten(), value.flatten()) for each in same)

    for call in calls:
        if holds(call.outputs):
            step = next((step for step in call.steps if holds(step.outputs)), None)
            return Blame(call.module, "" if step is None else step.place)
    return Blame("")


def _where_made(subject: Subject, batch: Batch, output: str, is_shaped: bool) -> str:
    """The module, and the line, that an output comes from."""
    with recording(subject.model, lines=True) as calls:
        value = subject.outputs(batch).get(output)
    return (first_returning(calls, value, is_shaped) if isinstance(value, Tensor) else "") or WHOLE


def _partly_padded(subject: Subject, sizes: Sizes, batch: Batch) -> tuple[Batch, dict[str, Tensor] | None]:
    """The batch, with rows of different lengths where an output tells lengths; and the length of each along every padded axis."""
    signature = subject.task.signature
    told = {output.kind.of for output in signature.outputs if isinstance(output.kind, Lengths)}
    axis = next((axis for axis in signature.padded if any(signature.axes[of].follows(axis.name) for of in told)), None)
    if axis is None or not tells_padding(subject, axis.name):
        return batch, None
    total = signature.complete(sizes.by_axis(subject.task))[axis.name]
    lengths = [max(min(axis.least or 1, total), total - row) for row in range(sizes.batch)]
    real = placed(axis.padding or "right", lengths, total).to(subject.device)
    return padded(signature, batch, axis.name, real), {axis.name: torch.tensor(lengths)}


def _broken(
    subject: Subject,
    output: Output,
    value: Any,
    whole: dict[str, int],
    lengths: dict[str, Tensor] | None,
    slack: float | None,
) -> tuple[Output, _Broken] | None:
    """What an output does not keep, by more than a share of it; by default by more than its own rounding."""
    if isinstance(output.kind, State):
        return None  # of any nesting: the matter of `carried_state`
    if not isinstance(value, Tensor):
        return output, (f"is a {type(value).__name__}, promised a tensor", "no_tensor", None, None)
    broken = _broken_promise(output, value, output.shape(whole), slack)
    if broken is None and isinstance(output.kind, Lengths):
        broken = _wrong_lengths(subject, output.kind.of, value, whole, lengths or {})
    return None if broken is None else (output, broken)


def _wrong_lengths(subject: Subject, of: str, value: Tensor, whole: dict[str, int], lengths: dict[str, Tensor]) -> _Broken | None:
    """Whether the lengths along an axis that an output tells are not those that follow from the inputs'."""
    source = subject.task.signature.axes[of].source
    if whole[of] == ANY_SIZE:
        return None
    expected: Any = lengths.get(of, whole[of])
    if isinstance(source, Formula) and set(lengths) & set(source.axes):
        expected = source.value({**whole, **lengths})
    told = value.detach().cpu().double()
    right = torch.as_tensor(expected).double().expand(told.shape)
    wrong = (told - right).abs() > 1e-6
    if not bool(wrong.any()):
        return None
    row = int(wrong.flatten().nonzero()[0])
    is_row = f"row {row} has {int(right.flatten()[row])}"
    return f"says {told.flatten()[row]:g} where {is_row} along `{of}`", "wrong_length", float(told.flatten()[row]), None


def _has_bounds(output: Output) -> bool:
    return output.bounds is not None or isinstance(output.kind, Probabilities) or getattr(output.kind, "norm", None) is not None


def _broken_promise(output: Output, value: Tensor, shape: tuple[int, ...], most: float | None) -> _Broken | None:
    """What an output does not keep, with a code and the numbers; ``None`` where it keeps all, or is not finite."""
    if not fits_shape(value.shape, shape):
        return f"has shape {list(value.shape)}, promised {shape_text(shape)}", "wrong_shape", None, None
    if not value.numel() or not bool(torch.isfinite(value).all()):
        return None  # what is not finite is the matter of `finite_output`
    eps = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    slack = FACTOR * eps if most is None else most
    bounds = output.bounds if output.bounds is not None or not isinstance(output.kind, Probabilities) else (0.0, 1.0)
    if bounds is not None:
        low, high = bounds
        smallest, largest = float(value.min()), float(value.max())
        if smallest < low - slack * max(1.0, abs(low)) or largest > high + slack * max(1.0, abs(high)):
            off = smallest if smallest < low else largest
            return f"reaches {off:.4g}, promised {low:g} to {high:g}", "out_of_range", off, low if smallest < low else high
    if isinstance(output.kind, Probabilities) and output.classes is not None:
        sums = value.double().sum(output.classes)
        off = float(sums.flatten()[(sums - 1).abs().argmax()])
        if abs(off - 1) > (most or max(1e-3, slack * value.shape[output.classes])):
            return f"adds up to {off:.4g} along its classes, promised 1", "wrong_sum", off, 1.0
    norm = getattr(output.kind, "norm", None)
    if norm is not None:
        # Zeros have no direction and stay zeros when they are normalised; an output that is always zero is the matter of `input_dependence`.
        norms = (found := value.float().norm(dim=-1))[found > 0]
        off = float(norms[(norms - norm).abs().argmax()]) if norms.numel() else norm
        if abs(off - norm) > (most or max(1e-3, slack * value.shape[-1])) * norm:
            return f"has vectors of norm {off:.4g}, promised {norm:g}", "wrong_norm", off, norm
    return None


def symmetric_inputs(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Swapping inputs that are declared symmetric changes no output."""
    first, second = subject.task.signature.symmetric[:2]
    base = subject.batch(sizes, seed)
    swapped = {**base, first: base[second], second: base[first]}
    return _equal_outputs(
        subject,
        "symmetric_inputs",
        (base, swapped),
        f"output {{}} changes when `{first}` and `{second}` are swapped",
        f"{sizes.describe(subject.task)}, seed={seed}",
        "a branch with its own weights, a difference without abs(), or a concatenation in a fixed order",
    )


def permutation(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Permuting the elements of a set permutes the outputs along it, and leaves the others as they are."""
    signature = subject.task.signature
    base = subject.batch(sizes, seed)
    rng = torch.Generator().manual_seed(seed)
    found = []
    for axis in signature.with_order("none"):
        size = signature.complete(sizes.by_axis(subject.task))[axis.name]
        order = _within_groups(subject, axis.name, base, torch.randperm(size, generator=rng).to(subject.device))
        given = [each for each in signature.inputs if each.name in base]
        found.append(
            _equal_outputs(
                subject,
                "permutation",
                (base, {each.name: _permuted_input(each, base[each.name], axis.name, order) for each in given}),
                f"output {{}} changes when the elements along `{axis.name}` are put in another order",
                f"{sizes.describe(subject.task)}, order of {axis.name}={order.tolist()}, seed={seed}",
                "positions that are added to a set, a recurrence or a convolution along it, or a pooling that takes the first element",
                (axis.name, order),
                _in_any_order,
            )
        )
    return first_failure(found)


def duplicates(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Repeating an element of a set changes no output that lacks its axis, and of others only adds the element once more."""
    signature = subject.task.signature
    base = subject.batch(sizes, seed)
    found = []
    for axis in signature.with_order("none"):
        size = signature.complete(sizes.by_axis(subject.task))[axis.name]
        if not axis.duplicates or not size or not signature.allows({**sizes.by_axis(subject.task), axis.name: size + 1}):
            continue
        for element in dict.fromkeys((0, size - 1)):
            places = torch.tensor([*range(size), element], device=subject.device)
            longer = {
                each.name: _permuted(base[each.name], each.axes, axis.name, places)
                for each in signature.inputs
                if each.name in base
            }
            longer |= {
                each.name: base[each.name] + 1
                for each in signature.inputs
                if isinstance(each.values, LengthsOf) and each.values.axis == axis.name and each.name in base
            }
            found.append(
                _equal_outputs(
                    subject,
                    "duplicates",
                    (base, longer),
                    f"output {{}} changes when element {element} along `{axis.name}` stands there twice",
                    f"{sizes.describe(subject.task)}, element={element}, seed={seed}",
                    "a sum or a mean where a maximum is meant, or a count of the elements",
                    (axis.name, places),
                    _once_each,
                )
            )
    return (
        first_failure(found) if found else Evidence.skipped("duplicates", "no set of these sizes has room for one more element")
    )


def _within_groups(subject: Subject, axis: str, base: Batch, order: Tensor) -> Tensor:
    """The order with elements of one group still together, where an input says which group each one belongs to."""
    signature = subject.task.signature
    for each in signature.inputs:
        if (
            isinstance(each.values, IndexOf)
            and each.values.axis in signature.grouping
            and each.axes == (axis,)
            and each.name in base
        ):
            return order[torch.argsort(base[each.name][order], stable=True)]
    return order


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
    batches: tuple[Batch, Batch],
    wrong: str,
    counterexample: str,
    cause: str,
    order: tuple[str, Tensor] | None = None,
    view: View | None = None,
) -> Evidence:
    """Whether every output is the same for two batches; where an order is given, up to that order along its axis.

    Where there is something that the batches leave as it was of every tensor, a view shows that, and the first module to change it is blamed;
    without a view the operator is, that makes of values which both calls have one that only one has.
    """
    before, after = (remembered(subject, partial(subject.outputs, batch)) for batch in batches)

    def compare(output: Output, model: nn.Module) -> tuple[Tensor, Tensor]:
        left, right = before(model)[output.name], after(model)[output.name]
        return (left if order is None else _permuted(left, output.axes, *order)), right

    def culprit(output: Output, model: nn.Module) -> str:
        left, right = (calls_of(model, partial(subject.outputs, batch)) for batch in batches)
        if view is None:
            return _first_not_made(left, right, before(model)[output.name])
        return first_divergence(left, right, view) or WHOLE

    judged = [output for output in subject.task.signature.outputs if isinstance(before(subject.model).get(output.name), Tensor)]
    return first_failure(
        judge_equal(
            subject.judging(output.name),
            name,
            partial(compare, output),
            wrong.format(f"`{output.name}`"),
            counterexample,
            cause,
            partial(culprit, output),
        )
        for output in judged
    )
