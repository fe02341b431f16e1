"""Which axes of the inputs are free, the sizes that each may have, and which of them are one: found by calling the model with other sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from typing import Any

import torch
from torch import Tensor

from harness.tasks.finding.calling import Call, Place, Tensors, resized

_MOST_PLANS = 24
"""How many ways to choose the axis of rows are tried."""

_CHANNELS = 4
"""Axes of an input whose second one is channels, as of images."""


@dataclass(frozen=True)
class Rows:
    """The axis of rows.

    Attributes:
        places: Where the inputs have it.
        independent: Whether rows do not change each other; ``None`` where the model answers at random, so that it cannot be seen.
        outputs: Outputs with an axis of as many elements as there are rows, and the axis.
        inside: Outputs that join another axis with the rows, and have those as the inner one.
    """

    places: dict[str, int]
    independent: bool | None
    outputs: dict[str, int] = field(default_factory=dict)
    inside: frozenset[str] = frozenset()


def addressed_by(call: Call, indices: Mapping[str, str]) -> list[Place]:
    """The first axes that positions lead to: with fewer elements than the largest position says, the model refuses the call.

    Args:
        call: The call.
        indices: Inputs that hold positions, each with an input along whose first axis they are.
    """
    found = []
    for positions, along in indices.items():
        count, largest = call.inputs[along].shape[0], int(call.inputs[positions].max())
        for name, tensor in call.inputs.items():
            is_long = tensor.ndim > 0 and tensor.shape[0] == count > largest > 0
            if is_long and name not in indices and call.tried({**call.inputs, name: tensor[:largest]}) is None:
                found.append((name, 0))
    return list(dict.fromkeys(found))


def find_rows(call: Call, indices: Collection[str], addressed: Collection[Place]) -> Rows | None:
    """The axis of rows: with twice as many rows there is twice as much in an output, and rows do not change each other.

    Args:
        call: The call.
        indices: Inputs that hold positions along another axis, which is therefore none of rows.
        addressed: The axes that these lead to.
    """
    nodes = {name for name, _ in addressed}
    again = call.tried(call.inputs, seed=1)
    is_random = again is None or not same(call.outputs, again)
    mixed: Rows | None = None
    for number, places in enumerate(_plans(call.inputs)):
        if call.is_over and number:
            break
        if nodes & places.keys():
            continue
        others = _other_rows(call, places)
        found = call.tried(_with_rows(call.inputs, others, places))
        twice = {name: _axis_doubled(value, (found or {}).get(name)) for name, value in call.outputs.items()}
        if found is None or all(axis is None for axis in twice.values()):
            continue
        count = next(call.inputs[name].shape[place] for name, place in places.items())
        whole = {name: at for name, at in twice.items() if at is not None and call.outputs[name].shape[at] == count}
        if all(at is None or call.outputs[name].shape[at] < count for name, at in twice.items()):
            continue  # several elements make one of the output, as steps of time do
        if is_random:
            return Rows(places, None, whole)
        inside = _inside_of(call, others, found, count)
        if inside is not None:
            smaller = {name: 0.5 * t if name in places and t.is_floating_point() else t for name, t in others.items()}
            found = call.tried(_with_rows(call.inputs, smaller, places))  # a largest value of all rows is another one now
            if found is None or _inside_of(call, smaller, found, count) is not None:
                return Rows(places, True, whole, frozenset(inside))
        if not any(places.values()):  # further in, it is rather an axis of space or time
            mixed = mixed or Rows(places, False, whole)
    return None if mixed is None or indices or _has_square(call.inputs, mixed.places) else mixed


def _with_rows(inputs: Tensors, others: Tensors, places: Mapping[str, int]) -> Tensors:
    """The inputs with the rows of others behind their own."""
    return {name: torch.cat((t, others[name]), places[name]) if name in places else t for name, t in inputs.items()}


def _inside_of(call: Call, others: Tensors, both: Mapping[str, Any], count: int) -> list[str] | None:
    """See ``_rows_inside``, of the usual rows and others; also ``None`` where the model does not take these alone."""
    alone = call.tried(others)
    return None if alone is None else _rows_inside(call.outputs, alone, both, count)


def find_ties(call: Call, rows: Mapping[str, int], addressed: Collection[Place]) -> list[list[Place]]:
    """The free axes beside that of rows, each with the places where inputs have it, in order.

    Args:
        call: The call.
        rows: Where the inputs have the axis of rows.
        addressed: The axes that positions lead to.
    """
    places = [(name, axis) for name, tensor in call.inputs.items() for axis in range(tensor.ndim) if rows.get(name, -1) != axis]
    found: list[list[Place]] = []
    taken: set[Place] = set()
    for place in places:
        if place in taken or _size(call.inputs, place) == 0 or call.is_over:
            continue
        alike = [other for other in places if other not in taken and _size(call.inputs, other) == _size(call.inputs, place)]
        nodes = [other for other in addressed if other in alike] if place in addressed else []
        for together in ([nodes] if len(nodes) > 1 else []) + list(_groups(place, alike)):
            if _can_change(call, together):
                found.append(together)
                taken.update(together)
                break
    return found


def _can_change(call: Call, places: list[Place]) -> bool:
    """Whether the model takes inputs of another size at some places."""
    size = _size(call.inputs, places[0])
    if size == 1:  # a size that broadcasts: what holds for 2 need not hold for 3
        return all(call.tried(resized(call.inputs, places, other)) is not None for other in (2, 3, 5))
    others = dict.fromkeys((size + 1, 2 * size, size - 1, size // 2))
    tried = [*(islice(others, 2) if _is_channels(call.inputs, places) else others), *call.sizes_of(places[0])]
    return any(call.tried(resized(call.inputs, places, other)) is not None for other in tried if other not in (0, size))


def _is_channels(inputs: Tensors, places: list[Place]) -> bool:
    return all(axis == 1 and inputs[name].ndim >= _CHANNELS for name, axis in places)


def _groups(place: Place, alike: list[Place]) -> Iterator[list[Place]]:
    """The places that may be one axis with another, which comes first: it alone, all of its size, those at the same position, pairs.

    A mask at the same position comes before, as some models take one of any length.
    """
    rest = [other for other in alike if other != place]
    masks = [other for other in rest if "mask" in other[0].lower() and other[1] == place[1]]
    if masks:
        yield [place, *masks]
    yield [place]
    tried: list[list[Place]] = [rest, [o for o in rest if o[1] == place[1]], [o for o in rest if o[0] == place[0]]]
    pairs = [list(some) for count in (1, 2) for some in combinations(rest, count)]
    for others in [each for index, each in enumerate(tried + pairs) if each and each not in (tried + pairs)[:index]]:
        yield sorted([place, *others], key=[place, *alike].index)


def _plans(inputs: Tensors) -> Iterator[dict[str, int]]:
    """Ways to say where each input has its rows, likeliest first."""
    first = next((t for t in inputs.values() if t.ndim), None)
    if first is None:
        return
    common = Counter(t.shape[0] for t in inputs.values() if t.ndim).most_common(1)[0][0]
    plans: list[dict[str, int]] = []
    for size in dict.fromkeys([first.shape[0], common, *first.shape[1:2]]):
        choices = [_rows_of(t, size) for t in inputs.values()]
        plans += [
            {name: axis for name, axis in zip(inputs, chosen, strict=True) if axis is not None}
            for chosen in islice(product(*choices), _MOST_PLANS)
        ]
    once = [plan for index, plan in enumerate(plans) if plan and plan not in plans[:index]]
    yield from islice((plan for plan in once if not _splits_square(inputs, plan)), _MOST_PLANS)


def _rows_of(tensor: Tensor, size: int) -> list[int | None]:
    """Where an input may have its rows: the first axis of that size, the next ones, or nowhere."""
    axes = [axis for axis, found in enumerate(tensor.shape) if found == size][:2]
    return [*axes, None] if size != 1 or not axes else [axes[0], None]


def _size(inputs: Tensors, place: Place) -> int:
    return inputs[place[0]].shape[place[1]]


def _other_rows(call: Call, places: Mapping[str, int]) -> Tensors:
    """Inputs with other rows: their elements mixed; where the model does not take that, the same rows in another order."""
    mixed = {name: other_values(t) if name in places else t for name, t in call.inputs.items()}
    if call.tried(mixed) is not None:
        return mixed
    return {name: t.roll(1, places[name]) if name in places else t for name, t in call.inputs.items()}


def other_values(tensor: Tensor) -> Tensor:
    """Other values of the same kind: the elements in another order, and moved a little where they are all alike."""
    rng = torch.Generator().manual_seed(tensor.numel())
    mixed = tensor.flatten()[torch.randperm(tensor.numel(), generator=rng).to(tensor.device)].reshape(tensor.shape)
    if tensor.is_floating_point() and bool((mixed == tensor).all()):
        return tensor + torch.rand(tensor.shape, generator=rng).to(tensor)
    return mixed


def _axis_doubled(value: Any, found: Any) -> int | None:
    if not (isinstance(value, Tensor) and isinstance(found, Tensor) and value.ndim == found.ndim):
        return None
    changed = [axis for axis, size in enumerate(value.shape) if found.shape[axis] != size]
    return changed[0] if len(changed) == 1 and found.shape[changed[0]] == 2 * value.shape[changed[0]] else None


def _rows_inside(first: Mapping[str, Any], second: Mapping[str, Any], both: Mapping[str, Any], rows: int) -> list[str] | None:
    """The outputs that join the rows, as the inner axis, with another one; ``None`` where rows change each other.

    Args:
        first: What half of the rows gave.
        second: What the other half gave.
        both: What all rows gave.
        rows: How many are half.
    """
    inside = []
    for name, value in first.items():
        axis = _axis_doubled(value, both[name])
        if axis is None or _is_both(value, second[name], both[name], axis):
            continue
        if value.shape[axis] % rows:
            return None
        apart = [
            each.unflatten(axis, (-1, count)) for each, count in ((value, rows), (second[name], rows), (both[name], 2 * rows))
        ]
        if not _is_both(apart[0], apart[1], apart[2], axis + 1):
            return None
        inside.append(name)
    return inside


def _is_both(first: Tensor, second: Tensor, both: Tensor, axis: int) -> bool:
    """Whether the halves of an output along an axis are two others."""
    size = first.shape[axis]
    return close(both.narrow(axis, 0, size), first) and close(both.narrow(axis, size, size), second)


def _has_square(inputs: Tensors, places: Mapping[str, int]) -> bool:
    """Whether an input has the size of the rows twice, as a matrix of neighbours has."""
    return any(
        list(inputs[name].shape).count(inputs[name].shape[axis]) > 1 and inputs[name].ndim == 2 for name, axis in places.items()
    )


def _splits_square(inputs: Tensors, places: Mapping[str, int]) -> bool:
    """Whether only one side of a matrix would be rows whose other side is the first axis of another input, as of neighbours."""
    sizes = {t.shape[0] for name, t in inputs.items() if t.ndim and name not in places}
    return any(inputs[name].shape[axis] in sizes for name, axis in places.items()) and _has_square(inputs, places)


def same(outputs: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    """Whether every tensor that was returned was returned again."""
    return all(close(again.get(name), value) for name, value in outputs.items() if isinstance(value, Tensor))


def close(a: Any, b: Any) -> bool:
    """Whether two tensors are equal up to what another number of rows changes by rounding."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return bool((a == b).all())
    largest = b.abs().nan_to_num(0.0, 0.0).max().item() if b.numel() else 0.0
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4 * max(largest, 1e-6), equal_nan=True)


Takes = Callable[[int], bool]
"""Whether the model takes a size of the axis."""

_STEPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 24, 28, 32, 48, 64, 128)

_PROBES = (2, 4, 8, 16)
"""What is added to a size where one more works: half of each step that sizes are often multiples of."""

_DRAWN = 12
"""Sizes that the suite draws of an axis without an upper limit, in steps from the smallest one."""


@dataclass(frozen=True)
class Found:
    """The sizes of an axis.

    Attributes:
        least: The smallest.
        most: The largest; ``None`` where every size that was tried works.
        step: What sizes are multiples of.
    """

    least: int
    most: int | None
    step: int = 1

    def keys(self) -> dict[str, int]:
        """As the config says it."""
        keys = {
            "min": self.least if self.least > 1 else None,
            "max": self.most,
            "multiple_of": self.step if self.step > 1 else None,
        }
        return {key: value for key, value in keys.items() if value is not None}


def sizes_of(size: int, takes: Takes, reads: Takes, likely_most: int | None = None) -> Found | None:
    """The sizes of an axis; ``None`` where there is only the one of the example.

    Args:
        size: That of the example.
        takes: Tries one.
        reads: Whether the last element matters at a size, which that of a patch cut off at the edge does not.
        likely_most: A size that may be the largest, such as the rows of a table of positions.
    """
    step = _step_of(size, takes)
    if step == 1 and takes(size + 1) and not reads(size + 1) and reads(size):
        steps = (step for step in _steps(size) if takes(size + step) and reads(size + step))
        step = next(steps, None if _most(size, 1, size, takes) is not None else 1)
    if step == 1 and not all(takes(size + more) for more in _PROBES):
        # Some sizes work by luck, such as those that two strides round to the same; twice the size shows that there is no limit.
        rounded = (other for other in _steps(size) if all(takes(size + n * other) for n in (1, 2, 3)))
        step = next(rounded, 1) if takes(2 * size) else 1
    if step is None:
        return None
    least = least_of(size, step, takes)
    if likely_most is not None and likely_most >= size and takes(likely_most) and not takes(likely_most + step):
        return Found(least, likely_most, step)
    return Found(least, _most(size, step, least, takes), step)


def _step_of(size: int, takes: Takes) -> int | None:
    if takes(size + 1) or (size > 1 and takes(size - 1)):
        return 1
    return next((step for step in _steps(size) if takes(size + step) or (size > step and takes(size - step))), None)


def _steps(size: int) -> list[int]:
    return [step for step in dict.fromkeys((*_STEPS, size)) if size % step == 0 and step > 1]


def least_of(size: int, step: int, takes: Takes) -> int:
    """The smallest size, as far as all above it work.

    Args:
        size: One that works.
        step: What sizes are multiples of.
        takes: Tries one.
    """
    if takes(step):
        return step
    low, high = 1, size // step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(middle * step) else (middle, high)
    return high * step


def _most(size: int, step: int, least: int, takes: Takes) -> int | None:
    """The largest size; ``None`` where twice the example's and all that the suite draws work."""
    far = max(2 * size, least + _DRAWN * step) // step * step
    if takes(far):
        return None
    low, high = size // step, far // step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle * step) else (low, middle)
    return low * step
