"""Sizes that an operation of PyTorch refused: what they should have been, by the weights and tensors beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from harness.models.first_call.guesses import Guesses, Repairs, aligned
from harness.models.first_call.watching import Failure, Seen

_IMAGE_AXES = 4

_ELEMENTWISE = (
    "add", "sub", "mul", "div", "truediv", "radd", "rsub", "rmul", "where", "masked_fill", "lerp", "addcmul", "baddbmm", "eq",
)  # fmt: skip


def _linear(guesses: Guesses, failure: Failure) -> Repairs:
    if len(failure.tensors) < 2 or not failure.tensors[0].shape:
        return
    given, weight = failure.tensors[:2]
    if given.shape[-1] != weight.shape[-1]:
        yield from guesses.resized(given.sources, given.shape[-1], weight.shape[-1])
        yield from _split(guesses, given, weight.shape[-1])
        yield from _square(guesses, given, weight.shape[-1])
        if len(given.sources) == 1:
            for cost, changed in guesses.with_axes(given.sources, 1):
                yield cost + 2, changed


def _square(guesses: Guesses, given: Seen, wanted: int) -> Repairs:
    """An image with as many values as are wanted, of one channel or three, where its own were flattened."""
    for path in sorted(given.sources):
        argument = guesses.at(path)
        if argument is None or not argument.is_free or len(argument.sizes) != _IMAGE_AXES:
            continue
        for channels in (1, 3):
            side = math.isqrt(wanted // channels)
            if side > 1 and channels * side * side == wanted and math.prod(argument.sizes[1:]) == given.shape[-1]:
                yield 0, guesses.put(path, replace(argument, sizes=(argument.sizes[0], channels, side, side), made=None))


def _split(guesses: Guesses, given: Seen, wanted: int) -> Repairs:
    """Two arguments that were joined: halves of what is wanted."""
    arguments = [(path, guesses.at(path)) for path in sorted(given.sources)]
    if len(arguments) != 2 or wanted % 2:
        return
    changed = guesses
    for path, argument in arguments:
        if argument is None or not argument.sizes or argument.fixed:
            return
        changed = changed.put(path, argument.with_size(-1, wanted // 2))
    yield 2, changed


def _convolution(guesses: Guesses, failure: Failure) -> Repairs:
    if len(failure.tensors) < 2:
        return
    given, weight = failure.tensors[:2]
    if len(given.shape) != len(weight.shape):
        yield from guesses.with_axes(given.sources, len(weight.shape) - len(given.shape))
        return
    transposed = "transpose" in failure.operation
    groups = failure.plain.get("groups", failure.plain.get(6, 1))
    wanted = weight.shape[0] if transposed else weight.shape[1] * (groups if isinstance(groups, int) else 1)
    if given.shape[1] == wanted:
        yield from guesses.grown(given.sources)
        return
    for path in sorted(given.sources):
        argument = guesses.at(path)
        if argument is not None and argument.sizes == given.shape and not argument.fixed:
            yield 0, guesses.put(path, argument.with_size(1, wanted))
            return
    yield from guesses.resized(given.sources, given.shape[1], wanted)
    for path in sorted(given.sources) if len(given.sources) > 1 else ():
        joined = guesses.at(path)  # one of several that were joined along the channels
        channels = joined.sizes[1] + wanted - given.shape[1] if joined is not None and len(joined.sizes) > 1 else 0
        if joined is not None and not joined.fixed and channels > 0:
            yield 1, guesses.put(path, joined.with_size(1, channels))


def _joined(guesses: Guesses, failure: Failure) -> Repairs:
    """Tensors that should have the same sizes."""
    joins = failure.operation in ("cat", "concat", "stack", "hstack")
    axis = failure.plain.get("dim", failure.plain.get(1, 0)) if joins and failure.operation != "stack" else None
    for place, left in enumerate(failure.tensors):
        for right in failure.tensors[place + 1 :]:
            if joins and len(left.shape) != len(right.shape):
                for seen, other in ((right, left), (left, right)):
                    yield from guesses.with_axes(seen.sources, len(other.shape) - len(seen.shape))
                continue
            for back in range(1, min(len(left.shape), len(right.shape)) + 1):
                a, b = left.shape[-back], right.shape[-back]
                joined = isinstance(axis, int) and (axis - len(left.shape) if axis >= 0 else axis) == -back
                if a == b or joined or (not joins and 1 in (a, b)):
                    continue
                if left.sources and left.sources == right.sources:
                    yield from _sides(guesses, left)
                yield from guesses.resized(right.sources, b, a)
                yield from guesses.resized(left.sources, a, b)
                if not joins and len(left.shape) != len(right.shape):
                    shorter = min((left, right), key=lambda seen: len(seen.shape))
                    for cost, changed in guesses.with_axes(shorter.sources, abs(len(left.shape) - len(right.shape))):
                        yield cost + 1, changed


def _sides(guesses: Guesses, seen: Seen) -> Repairs:
    for path in sorted(seen.sources):
        argument = guesses.at(path)
        if argument is not None and len(argument.sizes) > 2 and not argument.fixed:
            if len(argument.sizes) == 3:
                for axis in (1, 2):
                    yield 2, guesses.put(path, argument.with_size(axis, -(-argument.sizes[axis] // 16) * 16))
                continue
            for cost, sizes in enumerate(aligned(argument), start=1):
                yield cost, guesses.put(path, replace(argument, sizes=sizes, made=None))


def _product(guesses: Guesses, failure: Failure) -> Repairs:
    if len(failure.tensors) < 2:
        return
    left, right = failure.tensors[-2:]
    if not left.shape or not right.shape:
        return
    if failure.operation in ("mm", "spmm", "addmm", "bmm"):
        axes = 3 if failure.operation == "bmm" else 2
        for seen in (left, right):
            if len(seen.shape) != axes:
                yield from guesses.with_axes(seen.sources, axes - len(seen.shape))
    if failure.operation == "einsum":
        equation = next((value for value in failure.plain.values() if isinstance(value, str)), "")
        for term, seen in zip(equation.partition("->")[0].replace(" ", "").split(","), failure.tensors, strict=False):
            if "." not in term and len(term) != len(seen.shape):
                yield from guesses.with_axes(seen.sources, len(term) - len(seen.shape))
    inner = right.shape[-2] if len(right.shape) > 1 else right.shape[0]
    if left.shape[-1] != inner:
        yield from guesses.resized(left.sources, left.shape[-1], inner)
        yield from guesses.resized(right.sources, inner, left.shape[-1])
    yield from _joined(guesses, replace(failure, operation="add"))


def _viewed(guesses: Guesses, failure: Failure) -> Repairs:
    """A shape that the elements do not fill: those of one row should."""
    given = failure.first
    if given is None:
        return
    sizes = [value for value in failure.plain.values() if isinstance(value, (int, tuple, list))]
    wanted = [size for value in sizes for size in ([value] if isinstance(value, int) else value) if isinstance(size, int)]
    rest = [size for size in wanted if size > 0]
    count = 1
    for size in rest:
        count *= size
    whole = 1
    for size in given.shape:
        whole *= size
    if not count or not whole:
        return
    for path in sorted(given.sources):
        argument = guesses.at(path)
        if argument is None or not argument.sizes:
            continue
        per_row = max(1, whole // argument.sizes[0])
        row = count // argument.sizes[0] if rest and rest[0] == argument.sizes[0] and wanted[0] == rest[0] else count
        if -1 in wanted:
            row = max(row, -(-per_row // max(1, row)) * row)
        yield from guesses.resized([path], per_row, row)
        if len(argument.sizes) == 2 and row != per_row:
            yield from guesses.resized([path], argument.sizes[1], row)


def _normalised(guesses: Guesses, failure: Failure) -> Repairs:
    given = failure.first
    if given is None:
        return
    shape = next((value for value in failure.plain.values() if isinstance(value, (tuple, list)) and value), None)
    if failure.operation in ("layer_norm", "rms_norm") and shape:
        for back, size in enumerate(reversed(tuple(shape)), start=1):
            if back > len(given.shape):
                yield from guesses.with_axes(given.sources, 1)
            elif given.shape[-back] != size:
                yield from guesses.resized(given.sources, given.shape[-back], size)
        return
    other = next((seen for seen in failure.tensors if not seen.sources and seen.shape), None)
    if other is not None and len(given.shape) > 1 and given.shape[1] != other.shape[0]:
        yield from guesses.resized(given.sources, given.shape[1], other.shape[0])


Rule = Callable[[Guesses, Failure], Repairs]

_RULES: dict[str, Rule] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    **dict.fromkeys(("cat", "stack", "concat", "hstack", *_ELEMENTWISE), _joined),
    **dict.fromkeys(("matmul", "mm", "bmm", "einsum", "addmm", "rmatmul", "spmm", "mv"), _product),
    **dict.fromkeys(("view", "reshape", "unflatten", "view_as"), _viewed),
    **dict.fromkeys(("layer_norm", "batch_norm", "rms_norm", "group_norm", "instance_norm"), _normalised),
}
"""What each operation says of sizes, by its name."""


def repaired_sizes(guesses: Guesses, failure: Failure) -> Repairs:
    """Sizes that the operation that failed would take."""
    rule = _RULES.get(failure.operation)
    if rule is not None:
        yield from rule(guesses, failure)


_AGAINST = re.compile(r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)")

_LARGEST_SIDE = 512


def _width(failure: Failure) -> tuple[int, int] | None:
    """The size that came and the one that a weight has, of a linear layer, or of a weight that a tensor is multiplied with."""
    if failure.operation == "linear":
        given, weight = (*failure.tensors, None, None)[:2]
        return (given.shape[-1], weight.shape[-1]) if given and weight and given.shape else None
    if (pair := _AGAINST.search(failure.message)) is None:
        return None
    own, came = (
        {size for seen in failure.tensors if bool(seen.sources) is is_given for size in seen.shape} & {int(pair[1]), int(pair[2])}
        for is_given in (False, True)
    )
    return (min(came - own), min(own)) if len(own) == 1 and came - own else None


class Sides:
    """Remembers which width each side of images gave where it met a weight of a fixed size, as no formula gives it behind strides."""

    def __init__(self) -> None:
        self._widths: dict[tuple[str, int], dict[int, int]] = {}

    def narrowed(self, guesses: Guesses, failure: Failure) -> Repairs:
        """A side between one that gave too little and one that gave too much.

        Args:
            guesses: The arguments of the call that failed.
            failure: How it failed.
        """
        if (width := _width(failure)) is None:
            return
        got, wanted = width
        for path in sorted(failure.sources):
            argument = guesses.at(path)
            if argument is None or not argument.is_free or len(argument.sizes) < _IMAGE_AXES:
                continue
            widths = self._widths.setdefault((path, wanted), {})
            widths[argument.sizes[-1]] = got
            low = max((side for side, width in widths.items() if width < wanted), default=None)
            high = min((side for side, width in widths.items() if width > wanted), default=None)
            area = len(argument.sizes) - 2
            if failure.operation != "linear" and (
                low is None or high is None
            ):  # a linear layer's other end is found by its formula
                side = 2 * low if low else (high or 0) // 2
                if 0 < side <= _LARGEST_SIDE:
                    yield 1, guesses.put(path, replace(argument, sizes=argument.sizes[:2] + (side,) * area, made=None))
            if low is None or high is None or high - low < 2:
                continue
            ends = [widths[side] ** (1 / area) for side in (low, high)]
            share = (wanted ** (1 / area) - ends[0]) / (ends[1] - ends[0])
            for side in dict.fromkeys((round(low + share * (high - low)), (low + high) // 2)):
                if low < side < high:
                    sizes = argument.sizes[:2] + (side,) * area
                    yield 0, guesses.put(path, replace(argument, sizes=sizes, made=None))
