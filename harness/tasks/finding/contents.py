"""What an input holds, from its values in the example, its name, and what the model does with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.tasks.axes import BATCH, Size
from harness.tasks.finding.calling import Call, Place
from harness.tasks.finding.free_axes import other_values, same

_FEW = 16
"""Elements from which on a range of the values says something."""

_LARGEST_TABLE = 2**22
_BYTE = 256


@dataclass(frozen=True)
class Content:
    """What an input holds.

    Attributes:
        values: As the config says it.
        why: What that was read from.
        dtype: The dtype, where the values do not imply it.
    """

    values: Any
    why: str
    dtype: str = ""


def content_of(name: str, axes: Sequence[Size], shapes: Mapping[str, tuple[Sequence[Size], Tensor]], call: Call) -> Content:
    """What an input holds.

    Args:
        name: The input.
        axes: Its axes.
        shapes: The axes and the tensor of every input.
        call: The call.
    """
    tensor = shapes[name][1]
    found = _lengths(name, axes, shapes, call) or _spoken(name, axes, call)
    if found is None:
        is_float, values = tensor.is_floating_point(), call.values_of(name)
        found = _codes(tensor, call) or _numbers(values) if is_float else _whole(name, tensor, values, call)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Content(found.values, found.why, dtype)


def index_axis(name: str, shapes: Mapping[str, Tensor]) -> str | None:
    """The input along whose first axis an input of whole numbers has positions, as edges have; ``None`` where the name says nothing of it."""
    tensor, last = shapes[name], name.rpartition(".")[2].lower()
    if tensor.is_floating_point() or tensor.dtype == torch.bool or not tensor.numel():
        return None
    is_named = "edge" in last or last.startswith("adj") or (last.isdigit() and len(tensor) == 2)  # beside the nodes in a tuple
    is_edges = is_named and 2 in tensor.shape[:1] + tensor.shape[-1:] and tensor.ndim == 2
    if not is_edges:
        return None
    large = [other for other, each in shapes.items() if each.ndim and each.shape[0] > int(tensor.max())]
    held = [other for other in large if "edge" not in other.lower() and not is_group_of_each(other, shapes)]
    kinds = [other for other in held if not shapes[other].is_floating_point() and shapes[other].ndim == 1]
    return next((other for other in held if shapes[other].is_floating_point()), next(iter(kinds), None))


_GROUPS = re.compile(r"batch|graphs?|(?:batch|graph|node)_?(?:index|idx|ids?|batch|graph)")


def is_group_of_each(name: str, shapes: Mapping[str, Tensor]) -> bool:
    """Whether an input says which group each element of another one belongs to, as of the graphs of a batch.

    Its name says so, and it holds ascending numbers from 0 on.
    """
    tensor = shapes[name]
    if tensor.is_floating_point() or tensor.dtype == torch.bool or tensor.ndim != 1 or len(tensor) < 2:
        return False
    if not _GROUPS.fullmatch(name.rpartition(".")[2].lower()):
        return False
    steps = tensor.diff()
    ascends = int(tensor[0]) == 0 and bool(((steps == 0) | (steps == 1)).all())
    return ascends and any(other != name and each.shape[:1] == tensor.shape for other, each in shapes.items())


def _lengths(name: str, axes: Sequence[Size], shapes: Mapping[str, tuple[Sequence[Size], Tensor]], call: Call) -> Content | None:
    """Lengths of rows, where the name says so, or else the calls: the largest one is the size of an axis, and nothing beyond is read."""
    tensor, last, held = shapes[name][1], name.rpartition(".")[2].lower(), call.values_of(name)
    if list(axes) != [BATCH] or tensor.is_floating_point() or tensor.dtype == torch.bool or not held.numel():
        return None
    places = [
        (other, place)
        for other, (inner, _) in shapes.items()
        for place, axis in enumerate(inner)
        if other != name and BATCH in inner and isinstance(axis, str) and axis != BATCH
    ]
    longest = int(tensor.max())
    sizes = {place: shapes[place[0]][1].shape[place[1]] for place in places}
    fitting = [place for place, size in sizes.items() if size >= longest]
    axis_of = {place: str(shapes[place[0]][0][place[1]]) for place in fitting}
    if "len" in last and fitting:
        alike = [each for each in fitting if axis_of[each].partition("_")[0] in last or last.partition("_")[0] in axis_of[each]]
        best = min(fitting, key=lambda place: (sizes[place] != longest, place not in alike, sizes[place]))
        why = f"its name, and values of at most {longest} along an axis of {sizes[best]}"
        return Content({"lengths_of": axis_of[best]}, why)
    if int(held.min()) < 1 or any(_is_same(indices, tensor) for indices, _, _ in call.trace.tables):
        return None
    calls = call.recorded or [call.inputs]
    for place in fitting:
        pairs = [(int(each[name].max()), each[place[0]].shape[place[1]]) for each in calls if name in each and place[0] in each]
        if any(largest > size for largest, size in pairs):
            continue
        if len(set(pairs)) > 1 and all(largest == size for largest, size in pairs):
            return Content({"lengths_of": axis_of[place]}, f"its largest value is the size of `{axis_of[place]}` in each call")
        if _reads_up_to(call, name, place, list(shapes[place[0]][0]).index(BATCH)):
            return Content({"lengths_of": axis_of[place]}, f"so many elements along `{axis_of[place]}` are read of each row")
    return None


def _reads_up_to(call: Call, lengths: str, place: Place, rows: int) -> bool:
    """Whether what is in the second half of an axis has an influence where an input says whole rows, and none where it says half.

    Args:
        call: The call.
        lengths: The input that may say it.
        place: The axis.
        rows: The axis of rows, of the same input.
    """
    tensor, said = call.inputs[place[0]], call.inputs[lengths]
    size = tensor.shape[place[1]]
    half = max(1, size // 2)
    shape = [1] * tensor.ndim
    shape[place[1]] = size
    is_beyond = (torch.arange(size) >= half).to(tensor.device).reshape(shape).expand_as(tensor).clone()
    is_beyond.select(rows, 0).fill_(False)  # that row stays whole, as some models need one
    changed = torch.where(is_beyond, other_values(tensor), tensor)

    def matters(length: int) -> tuple[bool, bool]:
        """Whether it changes the first half of an output, and any of it."""
        given = torch.full_like(said, length)
        given[0] = size
        before, after = (call.tried({**call.inputs, lengths: given, place[0]: each}) for each in (tensor, changed))
        if before is None or after is None:
            return False, False
        first, again = ({key: _first(value, size, half) for key, value in each.items()} for each in (before, after))
        return not same(first, again), not same(before, after)

    return any(whole and not part for whole, part in zip(matters(size), matters(half), strict=True))


def _first(value: Any, size: int, count: int) -> Any:
    """The first elements along the axes of an output that have a size."""
    for axis in range(value.ndim if isinstance(value, Tensor) else 0):
        value = value.narrow(axis, 0, count) if value.shape[axis] == size else value
    return value


def _spoken(name: str, axes: Sequence[Size], call: Call) -> Content | None:
    """Neighbours and masks, where a name and the values say so."""
    tensor, last = call.inputs[name], name.rpartition(".")[2].lower()
    if re.fullmatch(r"adj|adjacency(?:_matrix)?|adj_?mat(?:rix)?", last) and len(axes) > 1 and axes[-1] == axes[-2]:
        return Content({"one_of": [0.0, 1.0]}, "its name: neighbours or not")
    is_named, seen = "mask" in last, [each[name] for each in call.recorded if name in each] or [tensor]
    if (is_named or not tensor.is_floating_point()) and len(axes) == 2 and axes[0] == BATCH and isinstance(axes[1], str):
        orders = set(map(_mask_order, seen))
        if None not in orders and not {1, -1} <= orders and (is_named or (call.recorded and orders != {0})):
            inverted = -1 in orders or (orders == {0} and not bool(tensor.any()))
            values = {"mask_of": axes[1], "inverted": True} if inverted else {"mask_of": axes[1]}
            return Content(
                values,
                f"its {'name, and the ' if is_named else ''}values: 1 at the {'end' if inverted else 'start'} of rows",
            )
    return None


def _mask_order(mask: Tensor) -> int | None:
    """1 where ones come first in every row, -1 where they come last, 0 where all are the same; ``None`` for no mask of lengths."""
    values = mask.float()
    if not bool(((values == 0) | (values == 1)).all()):
        return None
    steps = values.diff(dim=-1)
    falls, rises = bool((steps < 0).any()), bool((steps > 0).any())
    if falls and rises:
        return None
    return 1 if falls else (-1 if rises else 0)


def _numbers(tensor: Tensor) -> Content:
    """Normal numbers, or a range."""
    low, high = (tensor.min().item(), tensor.max().item()) if tensor.numel() else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        return Content("normal", "the default, as the example holds NaN or infinity")
    if low == high:
        return Content("normal", f"the default, as the example holds nothing but {low:g}")
    if tensor.numel() >= _FEW and bool(((tensor == 0) | (tensor == 1)).all()):
        return Content({"one_of": [0.0, 1.0]}, "the example holds only 0 and 1")
    if tensor.numel() >= _FEW and low >= 0 and high <= 1:
        return Content({"range": [0.0, 1.0]}, "all values of the example lie between 0 and 1")
    mean, spread = tensor.float().mean().item(), tensor.float().std().item() if tensor.numel() > 1 else 1.0
    if tensor.numel() < _FEW or (abs(mean) < 1 and 0.2 < spread < 3):
        return Content("normal", "the values of the example look like normal numbers")
    bounds = [_outward(low, math.floor), _outward(high, math.ceil)]
    return Content({"range": bounds}, f"the values of the example lie between {low:g} and {high:g}")


def _outward(value: float, rounding: Any) -> float:
    """A bound of two significant digits that is no nearer."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{rounding(value / unit) * unit:.6g}")


def _codes(tensor: Tensor, call: Call) -> Content | None:
    """Ids that are passed as floating point, as in tables of categories, where each place of the last axis reads a table."""
    is_whole = bool(tensor.numel()) and bool(((tensor >= 0) & (tensor == tensor.round())).all())
    if not is_whole or not tensor.ndim or not call.trace.tables or tensor.shape[-1] > _FEW * 4:
        return None
    counts = [_column_count(tensor, place, call) for place in range(tensor.shape[-1])]
    if None in counts:
        return None
    ids = counts[0] if len(set(counts)) == 1 else counts
    return Content({"ids": ids}, "whole numbers as floating point; each place of the last axis reads a table")


def _whole(name: str, tensor: Tensor, held: Tensor, call: Call) -> Content:
    """Truth values, or ids of a table."""
    if tensor.dtype == torch.bool:
        return Content({"one_of": [False, True]}, "truth values in the example")
    if held.numel() and int(held.min()) < 0:
        choices = sorted(set(held.tolist()))
        return Content({"one_of": choices}, "the whole numbers of the example, some of them negative")
    if tensor.dtype == torch.uint8:
        return Content({"ids": _BYTE}, "bytes in the example")
    direct = [(count, pad) for indices, count, pad in call.trace.tables if _is_same(indices, tensor)]
    if direct:
        count, pad = min(direct, key=lambda table: table[0])
        values = {"ids": count} if pad is None else {"ids": count, "pad": pad}
        return Content(values, f"it reads a table of {count} rows" + ("" if pad is None else f", whose row {pad} is padding"))
    if tensor.ndim > 1 and tensor.shape[-1] <= _FEW * 4:
        counts = [_column_count(tensor, place, call) for place in range(tensor.shape[-1])]
        counts = _offset_counts(tensor, call) if None in counts else counts
        if counts and len(set(counts)) == 1:
            return Content({"ids": counts[0]}, f"each place of the last axis reads a table of {counts[0]} rows")
        if counts:
            return Content({"ids": counts}, "each place of the last axis reads a table, or a part of one")
    largest = int(held.max()) if held.numel() else 0
    limit = _largest_id(name, call, largest)
    if limit is None:
        return Content({"ids": largest + 1}, f"whole numbers up to {largest} in the example; larger ones work too")
    return Content({"ids": limit + 1}, f"the model takes no larger number than {limit}")


def _is_same(indices: Tensor, tensor: Tensor) -> bool:
    """Whether a table was read at the very places that an input holds, in any shape."""
    return indices.numel() == tensor.numel() and bool((indices.flatten() == tensor.flatten().to(indices.dtype)).all())


def _column_count(tensor: Tensor, place: int, call: Call) -> int | None:
    """Rows of the table that one place of the last axis reads, in the order in which tables are read."""
    column = tensor[..., place]
    tables = [count for indices, count, _ in call.trace.tables if _is_same(indices, column)]
    alike = sum(bool((tensor[..., other] == column).all()) for other in range(place))
    return tables[min(alike, len(tables) - 1)] if tables else None


def _offset_counts(tensor: Tensor, call: Call) -> list[int | None]:
    """Rows of the parts of one table that the places of the last axis read, each from its offset on."""
    for indices, rows, _ in call.trace.tables:
        if indices.numel() == tensor.numel() and tensor.shape[-1] > 1:
            offsets = (indices.reshape(tensor.shape) - tensor).reshape(-1, tensor.shape[-1])
            starts = offsets[0].tolist()
            if bool((offsets == offsets[0]).all()) and starts == sorted(set(starts)) and starts[0] == 0:
                return [end - start for start, end in zip(starts, [*starts[1:], rows], strict=True)]
    return []


def _largest_id(name: str, call: Call, known: int) -> int | None:
    """The largest id that the model takes; ``None`` where it takes any."""

    def takes(number: int) -> bool:
        changed = call.inputs[name].clone()
        changed.view(-1)[:1] = number
        return call.tried({**call.inputs, name: changed}) is not None

    low, high = known, 2 * known + 2
    while takes(high):
        low, high = high, 4 * high
        if high > _LARGEST_TABLE or call.is_over:
            return None
    while high - low > 1 and not call.is_over:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) else (low, middle)
    return low
