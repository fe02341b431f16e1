"""What the axes of every tensor are made of, followed through a call operator by operator; and the views that mix axes.

A view keeps the order in memory: all it can do is to split axes and to merge them. For every tensor that depends on an input it is kept which
axes, or pieces of axes, each of its axes is made of. The sizes have to tell axes apart: a view of [8, 4] as [4, 8] may as well join every two
steps. What shifts rows against each other on purpose, as attention with relative positions does, pads or cuts them beside the view, and is left
alone. A table that is resized to the input's sizes is followed as well.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import prod
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from harness.compat import TorchDispatchMode, tree_leaves, without_compiler
from harness.evidence import Blame
from harness.properties.places import users_line
from harness.properties.tracing import path_of

_VIEWS = ("view", "_unsafe_view", "_reshape_alias", "reshape")
_MOVES = ("permute", "transpose", "t", "numpy_T", "unsqueeze", "squeeze", "select")
_KEEPS = (
    *("_softmax", "_log_softmax", "native_layer_norm", "native_batch_norm", "native_group_norm", "native_dropout", "clone"),
    *("_to_copy", "detach", "alias", "lift_fresh", "cumsum", "slice", "split", "split_with_sizes", "cat", "constant_pad_nd"),
    *("expand", "tril", "triu", "_scaled_dot_product_flash_attention_for_cpu", "_safe_softmax"),
    *("_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "_fused_rms_norm", "copy_", "masked_fill_"),
)
"""Operators that leave every axis whose size they keep as it is."""

_SLICES = ("slice", "split", "split_with_sizes")
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


@dataclass(frozen=True)
class Part:
    """An axis as some operator made it, or a piece of it that a view split off.

    Attributes:
        axis: Which one.
        inner: How many of its places one step of the part is.
        outer: How many of its places the whole part spans.
    """

    axis: int
    inner: int
    outer: int

    @property
    def size(self) -> int:
        """How many steps it has."""
        return self.outer // self.inner


Layout = tuple[tuple[Part, ...], ...]
"""What each axis of a tensor is made of, the outermost part first."""


@dataclass(frozen=True)
class Reshape:
    """A view that mixes axes.

    Attributes:
        blame: The module that runs, and the user's line.
        before: Shape of what it is given.
        after: The shape it gives.
        old: Sizes of the axes, or parts of axes, that are mixed.
        new: Sizes of the axes they become.
        rows: Where among the old ones the axis of rows is; ``None`` where it is not.
    """

    blame: Blame
    before: tuple[int, ...]
    after: tuple[int, ...]
    old: tuple[int, ...]
    new: tuple[int, ...]
    rows: int | None = None

    @property
    def mixes_rows(self) -> bool:
        """Whether what belongs to one row comes to another."""
        return self.rows is not None and (self.rows > 0 or self.new[0] % self.old[0] > 0)

    @property
    def moved(self) -> tuple[int, ...]:
        """The sizes of old axes that new ones have as well, in another place."""
        return tuple(size for size in self.new if size in self.old)

    @property
    def steps_in_one(self) -> int:
        """How many steps of an old axis are in one step of the new axis of its size; 1 where no axis has the place of another."""
        held = [1]
        for size in self.moved:
            old, new = self.old.index(size), self.new.index(size)
            places = torch.arange(prod(self.old)).view(self.new).select(new, 0).flatten() // prod(self.old[old + 1 :]) % size
            held.append(len(places.unique()))
        return max(held)


@dataclass(frozen=True)
class Unlike:
    """Two tensors that meet element by element, an axis of one made of the same two axes as that of the other, in the other order.

    Attributes:
        blame: The module that runs, and the user's line.
        sizes: Of the two axes, as the first tensor has them.
    """

    blame: Blame
    sizes: tuple[int, int]


@dataclass(eq=False)
class _Known:
    """What is known of a tensor that depends on an input.

    Attributes:
        layout: Its axes.
        padded: Whether zeros or the like were put beside it.
        skewed: Whether it was shifted row by row, by a view of padded rows.
        swapped: The reshapes just before, each of two axes that are seen in each other's place.
        cut: The same, of what this one is a slice of.
        holds: The reshapes that mixed anything it was computed from.
    """

    layout: Layout
    padded: bool = False
    skewed: bool = False
    swapped: tuple[Reshape, ...] = ()
    cut: tuple[Reshape, ...] = ()
    holds: frozenset[Reshape] = frozenset()


@without_compiler
class Reshapes(TorchDispatchMode):
    """Follows what axes are made of through the operators that run while it is active.

    Attributes:
        views: How many views there were of what depends on an input.
        unlike: Where axes in another order meet, in order.

    Args:
        model: The model that runs.
        inputs: What it is given, each with the place of its axis of rows; ``None`` where it has none.
    """

    supports_higher_order_operators = True  # they are let through: what they call comes by one by one

    def __init__(self, model: nn.Module, inputs: Sequence[tuple[Tensor, int | None]]) -> None:
        super().__init__()
        self.views = 0
        self.unlike: dict[Unlike, None] = {}
        self._excused: set[Reshape] = set()
        self._paths = {id(module): path_of(name) for name, module in model.named_modules()}
        self._found: dict[Reshape, None] = {}
        self._ids = count()
        self._tensors: dict[int, tuple[weakref.ref[Tensor], _Known]] = {}
        self._rows = set[int]()
        for tensor, rows in inputs:
            layout = self._fresh(tensor.shape)
            self._note(tensor, _Known(layout))
            self._rows |= set() if rows is None else {part.axis for part in layout[rows]}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator and notes what the axes of its results are."""
        given = [(leaf, known) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and (known := self._of(leaf))]
        shape = given[0][0].shape if given else ()
        result = func(*args, **(kwargs or {}))
        if not given and "upsample" in str(func) and isinstance(result, Tensor):
            self._note(result, _Known(self._fresh(result.shape)))  # a table of positions, resized to the input's sizes
        if given:
            name, holds = func.overloadpacket.__name__, frozenset[Reshape]().union(*(known.holds for _, known in given))
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and (tensor is not given[0][0] or tensor.shape != shape):
                    known = self._made(func, name, args, given, tensor)
                    self._note(tensor, replace(known, holds=known.holds | holds))
        return result

    def mixing(self, returned: Any) -> list[Reshape]:
        """The views that mix axes of what a call returns, in order.

        Args:
            returned: What the model returned, or some of it.
        """
        known = (self._of(leaf) for leaf in tree_leaves(returned) if isinstance(leaf, Tensor))
        held = frozenset[Reshape]().union(*(each.holds for each in known if each))
        return [each for each in self._found if each in held - self._excused]

    def _of(self, tensor: Tensor) -> _Known | None:
        reference, known = self._tensors.get(id(tensor), (None, None))
        return known if reference is not None and reference() is tensor else None

    def _note(self, tensor: Tensor, known: _Known) -> None:
        self._tensors[id(tensor)] = weakref.ref(tensor), known

    def _fresh(self, shape: Sequence[int]) -> Layout:
        return tuple(() if size == 1 else (Part(next(self._ids), 1, size),) for size in shape)

    def _made(self, func: Any, name: str, args: Any, given: list[tuple[Tensor, _Known]], result: Tensor) -> _Known:
        """What is known of an operator's result, beside what it holds."""
        (first, known), fresh, overload = given[0], self._fresh(result.shape), str(func).rpartition(".")[2]
        if name in _VIEWS and overload != "dtype" and result.numel():
            return self._viewed(first, known, result)
        if name in _MOVES:
            return replace(known, layout=_moved(name, overload, args, known.layout, result) or fresh)
        if name in _PRODUCTS:
            left, right = (self._of(each) for each in args[-2:])
            rows = left.layout[:-1] if left else fresh[:-1]
            if right and not left and len(fresh) == 3:
                rows = (right.layout[0], *rows[1:])
            return _Known((*rows, right.layout[-1] if right else fresh[-1]))
        if name == "embedding" and (ids := self._of(args[1])):
            return _Known((*ids.layout, fresh[-1]))
        if name == "convolution":
            return _Known(tuple(axis if place != 1 else fresh[1] for place, axis in enumerate(_kept(given, fresh, result.shape))))
        if torch.Tag.pointwise not in func.tags and name not in _KEEPS:
            return _Known(fresh)
        if len(given) > 1 and (sizes := next(_in_other_order(given), None)):
            self.unlike.setdefault(Unlike(self._running(sys._getframe(2)), sizes))
        made = _Known(_kept(given, fresh, result.shape), any(k.padded for _, k in given), any(k.skewed for _, k in given))
        if name == "clone":
            return replace(made, swapped=known.swapped, cut=known.cut)
        if name in _SLICES and first.shape != result.shape:
            skewed = known.skewed or _cuts_pieces(known.layout, first.shape, result.shape)
            return replace(made, skewed=skewed, cut=known.swapped)
        is_padded = name == "constant_pad_nd" or (name == "cat" and len(given) < len(args[0]))
        return replace(made, padded=made.padded or is_padded)

    def _viewed(self, source: Tensor, known: _Known, result: Tensor) -> _Known:
        self.views += 1
        layout, groups = relaid(known.layout, tuple(result.shape), self._ids)
        made = replace(known, layout=layout)
        for old, new in groups:
            sizes = tuple(part.size for part in old)
            swaps = len(old) == 2 and sizes == new[::-1]
            if known.cut or known.skewed or (known.padded and swaps):
                # Rows shifted against each other: they are seen as rows of another length, cut, and seen as rows again.
                self._excused |= set(known.cut)
                made = replace(made, skewed=True, cut=())
            else:
                rows = next((place for place, part in enumerate(old) if part.axis in self._rows), None)
                blame = self._running(sys._getframe(3))
                found = Reshape(blame, tuple(source.shape), tuple(result.shape), sizes, new, rows)
                self._found.setdefault(found)
                made = replace(made, swapped=(*made.swapped, found) if swaps else (), holds=made.holds | {found})
        return made

    def _running(self, frame: FrameType | None) -> Blame:
        """The innermost module that runs, and the user's line."""
        place = users_line(frame)
        while frame is not None and id(frame.f_locals.get("self")) not in self._paths:
            frame = frame.f_back
        return Blame("" if frame is None else self._paths[id(frame.f_locals["self"])], place)


def relaid(layout: Layout, shape: tuple[int, ...], ids: Iterator[int]) -> tuple[Layout, list[tuple[list[Part], tuple[int, ...]]]]:
    """What the axes of a view are made of, and what it mixes: parts as they were, and sizes of the axes that they become.

    Args:
        layout: Of what is viewed.
        shape: The new shape.
        ids: Names for the axes that are mixed.
    """
    parts = [part for axis in layout for part in axis]
    axes: list[tuple[Part, ...]] = []
    mixed = []
    for old, new in _groups(parts, shape):
        made = _dealt(old, new)
        if made is None:
            mixed.append((old, tuple(size for size in new if size > 1)))
            made = [() if size == 1 else (Part(next(ids), 1, size),) for size in new]
        axes += made
    return tuple(axes), mixed


def _groups(parts: list[Part], shape: tuple[int, ...]) -> Iterator[tuple[list[Part], tuple[int, ...]]]:
    """The shortest runs of parts and of new axes that hold the same number of elements."""
    old, new, place = list[Part](), list[int](), 0
    for part in parts:
        old.append(part)
        while place < len(shape) and (prod(new) < prod(each.size for each in old) or (shape[place] == 1 and not new)):
            new.append(shape[place])
            place += 1
        if prod(new) == prod(each.size for each in old):
            yield old, tuple(new)
            old, new = [], []
    if old or place < len(shape):
        yield old, (*new, *shape[place:])


def _dealt(parts: list[Part], sizes: tuple[int, ...]) -> list[tuple[Part, ...]] | None:
    """The parts that each new axis is made of; ``None`` where they cannot be dealt out by splitting and merging."""
    left, axes, cuts = list(parts), list[tuple[Part, ...]](), False
    for size in reversed(sizes):
        taken, begins_in_the_middle, cuts = list[Part](), cuts, False
        while size > 1:
            if not left:
                return None
            part = left.pop()
            if size % part.size and part.size % size:
                return None
            if part.size > size:
                inner = part.inner * size
                left.append(Part(part.axis, inner, part.outer))
                part = Part(part.axis, part.inner, inner)
                cuts = True
            size //= part.size
            if taken and taken[0].axis == part.axis and taken[0].outer == part.inner:
                part = Part(part.axis, taken.pop(0).inner, part.outer)
            taken.insert(0, part)
        if begins_in_the_middle and cuts and len(taken) > 1:
            return None  # pieces of two axes
        axes.insert(0, tuple(taken))
    return axes if not left else None


def _cuts_pieces(layout: Layout, before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether a slice cuts an axis that is made of pieces of several, as where rows are shifted against each other."""
    return len(before) == len(after) and any(
        old != new and len(parts) > 1 for parts, old, new in zip(layout, before, after, strict=True)
    )


def _moved(name: str, overload: str, args: Any, layout: Layout, result: Tensor) -> Layout | None:
    """The layout of a tensor whose axes are only moved, added or taken away."""
    rank, axes = len(layout), list(layout)
    if name == "permute":
        return tuple(layout[place] for place in args[1])
    if name == "transpose":
        one, other = args[1] % rank, args[2] % rank
        axes[one], axes[other] = axes[other], axes[one]
    elif name in ("t", "numpy_T"):
        axes.reverse()
    elif name == "unsqueeze":
        axes.insert(args[1] % (rank + 1), ())
    elif name == "select":
        del axes[args[1] % rank]
    elif overload == "default":
        axes = [axis for axis in axes if axis]
    else:
        dims = {dim % rank for dim in (args[1] if isinstance(args[1], (list, tuple)) else [args[1]])}
        axes = [axis for place, axis in enumerate(axes) if place not in dims or axis]
    return tuple(axes) if len(axes) == result.ndim else None


def _in_other_order(given: list[tuple[Tensor, _Known]]) -> Iterator[tuple[int, int]]:
    """Sizes of the two parts of an axis that another operand is made of in the other order."""
    (first, known), *others = given
    for tensor, other in others:
        for back in range(1, min(tensor.ndim, first.ndim) + 1):
            if max(back - len(known.layout), back - len(other.layout)) <= 0:
                left, right = ([part.size for part in each.layout[-back]] for each in (known, other))
                if len(left) == 2 and left == right[::-1] and left != right:
                    yield left[0], left[1]


def _kept(given: list[tuple[Tensor, _Known]], fresh: Layout, shape: Sequence[int]) -> Layout:
    """The axes of a result, each as it was in the operand where it has the fewest parts."""
    axes = list(fresh)
    for tensor, known in given:
        for back in range(1, min(tensor.ndim, len(shape)) + 1):
            place = len(shape) - back
            same = tensor.shape[-back] == shape[place] > 1 and len(known.layout) == tensor.ndim
            if same and (axes[place] is fresh[place] or len(known.layout[-back]) < len(axes[place])):
                axes[place] = known.layout[-back]
    return tuple(axes)
