"""What is measured of one field of the rows, an input or labels: by what it holds and by its axes, a bounded number of figures a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import Example
from harness.monitoring.features.values import Ids, Numbers, Values, Vectors
from harness.tasks import values as held
from harness.tasks.axes import BATCH, Axis, Size
from harness.tasks.kinds import IGNORED
from harness.tasks.signature import Signature

MOST_CHANNELS = 16
"""Beside other inputs, one of three axes whose first is fixed is an image up to this length of it."""

MOST_FIGURES = 32
"""With at most this many channels, classes or labels, each has its figures; with more, only all together have."""

_MOST_COLUMNS = 256
"""Beside other inputs, at most this many numbers of a row are a feature each; more than that are one vector."""

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Field:
    """One field of the rows.

    Attributes:
        key: Its name in an example.
        name: What its features are named by; empty for the only input.
        axes: Of one row.
        values: What it holds.
        are_tokens: Whether its ids are the tokens of a sequence, rather than a class at each position.
        is_set: Whether the order along its positions means nothing.
        names: What its ids, or its columns, are called.
        along: The axis along which some elements may be padding; empty for none.
    """

    key: str
    name: str
    axes: tuple[Size, ...]
    values: held.Values
    are_tokens: bool = True
    is_set: bool = False
    names: tuple[str, ...] = ()
    along: str = ""

    def feature(self, part: str) -> str:
        """The name of one of its features."""
        return f"{self.name}.{part}" if self.name and part else self.name or part


def row_axes(axes: Sequence[Size]) -> tuple[Size, ...]:
    """The axes of one row."""
    return tuple(axis for axis in axes if axis != BATCH)


def size_along(signature: Signature, example: Example, axis: str) -> int:
    """The size of an example along an axis; 0 where no input has the axis."""
    for each in signature.inputs:
        axes = row_axes(each.axes)
        if axis in axes and each.name in example:
            return int(example[each.name].shape[axes.index(axis)])
    return 0


def real_elements(signature: Signature, example: Example, axis: str) -> NDArray[np.bool_] | None:
    """Which elements along an axis are real in an example, as a mask, a length or the padding id says; ``None`` where nothing does."""
    inputs = [each for each in signature.inputs if each.name in example]
    for each in inputs:
        if isinstance(each.values, held.MaskOf) and each.values.axis == axis:
            return example[each.name].bool().numpy() ^ each.values.inverted
    for each in inputs:
        if isinstance(each.values, held.LengthsOf) and each.values.axis == axis:
            size, length = size_along(signature, example, axis), int(example[each.name])
            return at_end(signature.axes[axis], length, size)
    for each in inputs:
        if isinstance(each.values, held.Ids) and each.values.pad is not None and row_axes(each.axes) == (axis,):
            return np.asarray(example[each.name].numpy() != each.values.pad)
    return None


def at_end(axis: Axis, length: int, size: int) -> NDArray[np.bool_]:
    """Where the real elements of a row stand along an axis with padding, bool ``[size]``."""
    places = np.arange(size)
    return places >= size - length if axis.padding == "left" else places < length


def measure_field(field: Field, rows: Arrays, real: Sequence[NDArray[np.bool_] | None]) -> Mapping[str, Values]:
    """The features of a field.

    Args:
        field: What it is.
        rows: An array a row, in the shape of its axes.
        real: Which elements along its padded axis are real; ``None`` for all of them.
    """
    if isinstance(field.values, held.Ids):
        return _ids(field, rows, real)
    if isinstance(field.values, held.IndexOf):
        return _indices(field, rows)
    if isinstance(field.values, held.OneOf):
        return _choices(field, rows)
    if isinstance(field.values, (held.LengthsOf, held.MaskOf)):
        return {field.feature(""): Numbers(np.array([float(np.mean(row)) for row in rows]))}
    return _numbers(field, [(np.abs(row) if np.iscomplexobj(row) else row).astype(np.float64) for row in rows], real)


def tokens_of(rows: Arrays, size: int, names: tuple[str, ...] = ()) -> Values:
    """The ids of several rows, which belong together by row."""
    ids = np.concatenate([np.empty(0, np.int64), *(row.ravel() for row in rows)]).astype(np.int64)
    return Ids(ids, size, np.repeat(np.arange(len(rows)), [row.size for row in rows]), names)


def lengths_of(rows: Arrays) -> Values:
    """How many ids each row has."""
    return Numbers(np.array([row.size for row in rows], np.float64))


def share_of_each(counts: Sequence[int], rows: Arrays) -> Values:
    """Counts as shares of each row's elements; NaN for a row without any."""
    lengths = np.array([row.size for row in rows], np.float64)
    return Numbers(np.divide(counts, lengths, out=np.full(len(rows), np.nan), where=lengths > 0))


def shares_of_levels(field: Field, rows: Arrays, size: int) -> dict[str, Values]:
    """The share of each level among a row's elements, where there are few levels; else how many of them a row has."""
    if not 0 < size <= MOST_FIGURES:
        return {field.feature("levels"): Numbers(np.array([float(np.unique(row).size) for row in rows]))}
    names = field.names or tuple(map(str, range(size)))
    return {
        field.feature(f"share.{name}"): share_of_each([int((row == level).sum()) for row in rows], rows)
        for level, name in zip(range(size), names, strict=False)
    }


def _ids(field: Field, rows: Arrays, real: Sequence[NDArray[np.bool_] | None]) -> dict[str, Values]:
    assert isinstance(field.values, held.Ids)
    count = field.values.count
    if isinstance(count, tuple):
        return {
            field.feature(f"feature_{place}"): _one_or_several([row[..., place] for row in rows], size)
            for place, size in enumerate(count)
        }
    rows = [_kept(row, keep, field.axes, field.along) for row, keep in zip(rows, real, strict=True)]
    if not field.axes:
        return {field.feature(""): Ids(_learnt(np.array(rows, np.int64)), count, names=field.names)}
    if len(field.axes) > 1:
        return shares_of_levels(field, rows, count)
    if not field.are_tokens:
        return {field.feature(""): tokens_of(rows, count, field.names)}
    return {
        field.feature("tokens"): tokens_of(rows, count),
        field.feature("length"): lengths_of(rows),
    }


def _indices(field: Field, rows: Arrays) -> dict[str, Values]:
    """Of indices how many there are, and how unevenly they are spread: the largest share that one element has of them."""
    most = [float(np.bincount(row.ravel()).max() / row.size) if row.size else np.nan for row in rows]
    distinct = [np.unique(row).size for row in rows]
    return {
        field.feature("count"): lengths_of(rows),
        field.feature("distinct"): share_of_each(distinct, rows),
        field.feature("most"): Numbers(np.array(most)),
    }


def _choices(field: Field, rows: Arrays) -> dict[str, Values]:
    """Each value by its place among the choices; where a row has several, in figures of the row."""
    assert isinstance(field.values, held.OneOf)
    choices = np.array(field.values.choices)
    names = field.names or tuple(f"{choice:g}" if isinstance(choice, float) else str(choice) for choice in field.values.choices)
    places = [_places_of(row, choices) for row in rows]
    if not field.axes:
        return {field.feature(""): Ids(_learnt_places(rows, places), len(choices), names=names)}
    fixed = field.axes[0]
    if len(field.axes) == 1 and isinstance(fixed, int) and fixed <= MOST_FIGURES:
        columns = np.stack(places).T
        return {
            field.feature(str(place)): Ids(_learnt_places(np.stack(rows)[:, place], column), len(choices), names=names)
            for place, column in enumerate(columns)
        }
    kept = [row[row >= 0] for row in places]
    return shares_of_levels(Field(field.key, field.name, field.axes, field.values, names=names), kept, len(choices))


def _places_of(row: NDArray[Any], choices: NDArray[Any]) -> NDArray[np.int64]:
    """The place of each value among the choices; -1 for a value that is none of them."""
    is_choice = row[..., None] == choices
    return np.where(is_choice.any(-1), is_choice.argmax(-1), -1)


def _numbers(field: Field, rows: Arrays, real: Sequence[NDArray[np.bool_] | None]) -> dict[str, Values]:
    if not field.axes:
        return {field.feature(""): Numbers(np.array(rows, np.float64))}
    if len(field.axes) == 1 and isinstance(field.axes[0], int):
        return _columns(field, np.stack(rows))
    if _is_image(field):
        measured = [measure_image(row) for row in rows]
    else:
        channel = next((place for place in reversed(range(len(field.axes))) if isinstance(field.axes[place], int)), None)
        measured = [_measure(row, channel, keep, field) for row, keep in zip(rows, real, strict=True)]
    names = dict.fromkeys(name for values in measured for name in values)
    return {field.feature(name): Numbers(np.array([values.get(name, np.nan) for values in measured])) for name in names}


def _columns(field: Field, table: NDArray[np.float64]) -> dict[str, Values]:
    """A feature a column; of very many columns, which are no table, mean, deviation and the vector."""
    if field.name and table.shape[1] > _MOST_COLUMNS:
        mean, std = Numbers(table.mean(1)), Numbers(table.std(1))
        return {field.feature("mean"): mean, field.feature("std"): std, field.feature("vector"): Vectors(table)}
    names = field.names or [f"feature_{number}" for number in range(table.shape[1])]
    return {field.feature(name): Numbers(np.ascontiguousarray(column)) for name, column in zip(names, table.T, strict=True)}


def _is_image(field: Field) -> bool:
    first = field.axes[0]
    return len(field.axes) == 3 and isinstance(first, int) and (first <= MOST_CHANNELS or not field.name)


def measure_image(pixels: NDArray[np.float64]) -> dict[str, float]:
    """Brightness, contrast and sharpness of an image ``[C, H, W]``, and mean and standard deviation of each channel.

    Brightness is the mean of the grey image (the mean of its channels), contrast its standard deviation, sharpness the variance of its
    Laplacian (Pech-Pacheco et al. 2000); images of less than three pixels a side have none. Of one image at a time, so that no number depends
    on the images beside it.
    """
    grey = pixels.mean(axis=0)
    measured = {"brightness": float(grey.mean()), "contrast": float(grey.std())}
    if min(grey.shape) > 2:
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        measured["sharpness"] = float((around - 4 * grey[1:-1, 1:-1]).var())
    for number, channel in enumerate(pixels):
        measured[f"channel_{number}.mean"] = float(channel.mean())
        measured[f"channel_{number}.std"] = float(channel.std())
    return measured


def _measure(row: NDArray[np.float64], channel: int | None, keep: NDArray[np.bool_] | None, field: Field) -> dict[str, float]:
    """Mean and deviation of each channel over a row's positions; and where these have an order, the mean step from one to the next."""
    along = row[..., None] if channel is None else np.moveaxis(row, channel, -1)
    positions = [axis for place, axis in enumerate(field.axes) if place != channel]
    along = _kept(along, keep, positions, field.along)
    flat = along.reshape(-1, along.shape[-1])
    if not len(flat):
        return {}
    measured: dict[str, float] = {}
    if flat.shape[1] > MOST_FIGURES or channel is None:
        measured |= {"mean": float(flat.mean()), "std": float(flat.std())}
    else:
        for number, column in enumerate(flat.T):
            measured[f"channel_{number}.mean"] = float(column.mean())
            measured[f"channel_{number}.std"] = float(column.std())
    if len(positions) == 1 and not field.is_set and len(flat) > 1:
        measured["step"] = float(np.abs(np.diff(flat, axis=0)).mean())
    return measured


def _kept(row: NDArray[Any], keep: NDArray[np.bool_] | None, axes: Sequence[Size], along: str) -> NDArray[Any]:
    return row if keep is None or along not in axes else np.compress(keep, row, axis=list(axes).index(along))


def _one_or_several(rows: Arrays, size: int) -> Values:
    return Ids(np.array(rows, np.int64), size) if not rows[0].ndim else tokens_of(rows, size)


def _learnt_places(rows: Arrays | NDArray[Any], places: Sequence[Any] | NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of values that count; -1, which is missing, for one that is no choice."""
    return np.array(places, np.int64)[np.array([float(row) for row in rows]) != IGNORED]


def _learnt(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids that count: a label that is to come is not missing."""
    return ids[ids != IGNORED]
