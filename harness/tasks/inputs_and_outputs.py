"""One input of forward, and one output: their axes, and what they hold or mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.tasks.axes import ANY_SIZE, BATCH, Size, rows_first
from harness.tasks.kinds import ClassScores, Kind, LabelShape
from harness.tasks.values import Drawing, Made, Normal, Uniform, Values

if TYPE_CHECKING:
    from torch import Tensor

Sizes = Mapping[str, int]
"""The size of every free axis."""


@dataclass(frozen=True)
class Input:
    """One input of forward.

    Attributes:
        name: Its name; a dotted one stands for a nested dict.
        axes: Its axes, in order; empty for a scalar.
        values: What it holds.
        dtype: Name of its dtype.
        optional: Whether forward works without it.
        state: The output that it continues; empty for an input that continues none.
        initial: What the first call passes of a state: nothing, or zeros.
    """

    name: str
    axes: tuple[Size, ...]
    values: Values
    dtype: str
    optional: bool = False
    state: str = ""
    initial: Literal["absent", "zeros"] = "absent"

    @property
    def is_flat(self) -> bool:
        """Whether a row of it is a number or a row of features: at most one axis beside the rows, and that one fixed."""
        rest = [axis for axis in self.axes if axis != BATCH]
        return len(rest) <= 1 and all(isinstance(axis, int) for axis in rest)

    @property
    def holds_numbers(self) -> bool:
        """Whether it holds numbers of any value, rather than ids, indices, lengths, masks or one of a few."""
        return isinstance(self.values, (Normal, Uniform, Made))

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Its shape for sizes of the axes, the rows first."""
        return shape_of(self.axes, sizes)

    def make(self, drawing: Drawing) -> Tensor:
        """Random values of its shape and dtype; of a state that begins as zeros those."""
        import torch

        if self.state:
            return torch.zeros(self.shape(drawing.sizes), dtype=getattr(torch, self.dtype))
        made = self.values.make(self.shape(drawing.sizes), drawing)
        return made.to(getattr(torch, self.dtype)) if self.dtype else made


@dataclass(frozen=True)
class Output:
    """One output of forward.

    Attributes:
        name: Its name.
        axes: Its axes, in order.
        kind: What it means.
        at: Its place in a tuple; ``None`` where it goes by name.
        bounds: Smallest and largest value, where they are promised.
        loss: Name of its loss, or ``file.py:function``; empty for none.
        weight: Its share in the loss.
        fits: Whether the model can learn arbitrary targets by heart.
        constant: Whether it depends on no input.
        joined: Its axes as forward returns them, where it returns the rows and another axis as one, such as all words of a batch.
    """

    name: str
    axes: tuple[Size, ...]
    kind: Kind
    at: int | None = None
    bounds: tuple[float, float] | None = None
    loss: str = ""
    weight: float = 1.0
    fits: bool = True
    constant: bool = False
    joined: tuple[Size, ...] = ()

    @property
    def returned_axes(self) -> tuple[Size, ...]:
        """Its axes as forward returns them."""
        return self.joined or self.axes

    def taken_apart(self, axes: tuple[Size, ...]) -> Output:
        """The output with other axes, of which two are one in what forward returns; the place of its classes is said as both have it."""
        if axes == self.axes:
            return self
        at = next(place for place, axis in enumerate(self.axes) if axis != axes[place])
        key = "symbols" if hasattr(self.kind, "symbols") else "classes"
        position, kind, count = getattr(self.kind, key, None), self.kind, len(self.axes)
        if position is not None and -count <= position < count:
            place = position % count
            kind = replace(kind, **{key: place if place < at else place - count})  # type: ignore[type-var]
        return replace(self, axes=axes, joined=self.axes, kind=kind)

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Its shape for sizes of the axes, the rows first."""
        return shape_of(self.axes, sizes)

    @property
    def classes(self) -> int | None:
        """Position of the axis of the classes, counted from the end, with the rows first; ``None`` for an output without one."""
        position = getattr(self.kind, "classes", None)
        return None if position is None else rows_first(self.axes).index(position % len(self.axes)) - len(self.axes)

    def drawn_from(self, labels: LabelShape) -> Values:
        """The values of random labels: numbers lie in the range that is promised of the output, as it could come to no others."""
        if self.bounds is None or not isinstance(labels.values, Normal):
            return labels.values
        low, high = self.bounds
        return Uniform(low if low > -math.inf else min(high, 0.0) - 1.0, high if high < math.inf else max(low, 0.0) + 1.0)

    def in_steps(self, scores: Tensor) -> Tensor:
        """Scores of symbols along time as ``[B, T, C]``, of a value with the rows first."""
        symbols = rows_first(self.axes).index(getattr(self.kind, "symbols", -1) % len(self.axes))
        return scores.movedim(symbols, -1)

    @property
    def has_class_scores(self) -> bool:
        """Whether it holds unnormalised scores of classes."""
        return isinstance(self.kind, ClassScores)

    @property
    def is_per_token(self) -> bool:
        """Whether it has scores of classes at each place along one free axis, as at each token of a text."""
        free = [axis for axis in self.axes if isinstance(axis, str) and axis != BATCH]
        return self.has_class_scores and BATCH in self.axes and len(free) == 1

    @property
    def class_count(self) -> int | None:
        """How many classes there are; ``None`` where there are none, or any number."""
        position = getattr(self.kind, "classes", None)
        size = None if position is None else self.axes[position]
        return size if isinstance(size, int) else None

    def class_count_at(self, sizes: Sizes) -> int | None:
        """How many classes there are where the axes have these sizes, as classes may be positions; ``None`` where only a call tells."""
        count = ANY_SIZE if self.classes is None else self.shape(sizes)[self.classes]
        return None if count == ANY_SIZE else count


@dataclass(frozen=True)
class Group:
    """Inputs that forward takes as one object of a class.

    Attributes:
        source: The class, as ``file.py:Class``.
        load: Loads it; called when inputs are passed.
    """

    source: str
    load: Callable[[], Callable[..., Any]] = field(compare=False, repr=False)


def shape_of(axes: Sequence[Size], sizes: Sizes) -> tuple[int, ...]:
    """The sizes of axes, the rows first."""
    return tuple(size if isinstance(size, int) else sizes[size] for size in (axes[place] for place in rows_first(axes)))
