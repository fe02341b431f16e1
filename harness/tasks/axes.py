"""The axes of inputs and outputs: the sizes each may have, and what is promised along it."""

from __future__ import annotations

import ast
import operator
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

Order = Literal["causal", "none"]
Side = Literal["right", "left", "both", "anywhere"]

Size = int | str
"""Of an axis in a shape: a number where it is fixed, else the axis' name."""

BATCH = "batch"
"""The axis of rows, which needs no declaration."""

MEASURED = "measured"
"""In place of a formula: the size of an output's axis is whatever a call gives."""

ANY_SIZE = -1
"""The size of an axis that is measured, in a shape that is promised."""

_MOST_DRAWN = 8
"""The largest size that is drawn of an axis without an upper limit, in multiples of the smallest."""

_NEAR = 64
"""Sizes of an axis that are tried where a limit forbids the typical one."""

_USUAL = 12
"""How many sizes above the smallest are drawn of an axis without an upper limit."""

_SEVERAL = 3
"""Elements of an axis that follows from another: of a single one, much says nothing, as attention to it is always whole."""

_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.FloorDiv: ("//", operator.floordiv),
}


@dataclass(frozen=True)
class Formula:
    """A size that follows from others: whole numbers and axes, joined by ``+``, ``-``, ``*``, ``//`` and parentheses.

    Attributes:
        text: As it was written, such as ``(time - 1) // 2 + 1``.
    """

    text: str

    def __post_init__(self) -> None:
        """Refuses what is no formula.

        Raises:
            ValueError: It cannot be parsed, or holds something else than whole numbers, names and the four operators.
        """
        for node in ast.walk(self._tree):
            known = isinstance(node, (ast.BinOp, ast.Name, ast.expr_context, ast.operator)) or (
                isinstance(node, ast.Constant) and type(node.value) is int
            )
            if not known or (isinstance(node, ast.operator) and type(node) not in _OPERATORS):
                raise ValueError(f"{self.text!r} is not a formula: it may hold axes, whole numbers, + - * // and parentheses")

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes it is made of, each once, in order."""
        names = (node for node in ast.walk(self._tree) if isinstance(node, ast.Name))
        return tuple(dict.fromkeys(node.id for node in sorted(names, key=lambda node: node.col_offset)))

    @property
    def factors(self) -> tuple[str, ...]:
        """What it is the product of, in order; itself where it is none."""
        found, node = [], self._tree
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            found.append(ast.unparse(node.right))
            node = node.left
        return ast.unparse(node), *reversed(found)

    def value(self, sizes: Mapping[str, Any]) -> Any:
        """The size for the sizes of the axes; a tensor of sizes (int64 ``[B]``) where they are tensors, as the lengths of rows are."""
        return _value(self._tree, sizes)

    @cached_property
    def _tree(self) -> ast.expr:
        try:
            return ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError):
            raise ValueError(
                f"{self.text!r} is not a formula: it may hold axes, whole numbers, + - * // and parentheses"
            ) from None


def _value(node: ast.expr, sizes: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)][1](_value(node.left, sizes), _value(node.right, sizes))
    return sizes[node.id] if isinstance(node, ast.Name) else node.value  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Limit:
    """What must hold across axes, such as ``past + time <= 48``.

    Attributes:
        left: Left of the sign.
        right: Right of it.
        text: As it was written.
    """

    left: Formula
    right: Formula
    text: str

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Reads ``formula <= formula``.

        Raises:
            ValueError: It is something else.
        """
        left, sign, right = text.partition("<=")
        if not sign:
            raise ValueError(f"{text!r} is not a limit: expected two formulas with <= between them")
        return cls(Formula(left.strip()), Formula(right.strip()), text)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether the sizes keep it; those of axes it does not know do not matter."""
        return bool(self.left.value(sizes) <= self.right.value(sizes))


@dataclass(frozen=True)
class Axis:
    """A free axis of a task, or one whose size follows from others.

    Attributes:
        name: Its name.
        least: Smallest size.
        most: Largest size; ``None`` for no limit.
        sizes: The only sizes it may have; empty for all from ``least`` to ``most``.
        multiple_of: What its sizes are multiples of.
        order: ``causal`` where nothing looks ahead along it, ``none`` where it is a set, ``None`` where nothing is promised.
        duplicates: Of a set: whether repeating an element changes nothing.
        padding: The side on which rows may be shorter; ``None`` where they may not.
        empty: Whether a row may have no real element.
        source: The formula its size follows from, or ``measured``.
        independent: Of ``batch``: whether rows are independent in forward.
        drawn: How many sizes above the smallest are drawn where there is no upper limit.
    """

    name: str
    least: int = 1
    most: int | None = None
    sizes: tuple[int, ...] = ()
    multiple_of: int = 1
    order: Order | None = None
    duplicates: bool = False
    padding: Side | None = None
    empty: bool = False
    source: Formula | Literal["measured"] | None = None
    independent: bool = True
    drawn: int = _USUAL

    @property
    def is_free(self) -> bool:
        """Whether its size can be chosen."""
        return self.source is None

    @property
    def takes_any(self) -> bool:
        """Whether it may have any size from 1 on."""
        return self.least <= 1 and self.most is None and not self.sizes and self.multiple_of == 1

    @property
    def shortest(self) -> int:
        """The fewest real elements that a row may have along it."""
        return 0 if self.empty else max(1, self.least)

    @property
    def mostly_padding(self) -> str:
        """A row of the fewest real elements, in words."""
        return "all padding" if self.empty else f"all padding but {self.shortest}"

    def follows(self, axis: str) -> bool:
        """Whether it is an axis, by name, or has a size that is worked out from it."""
        return self.name == axis or (isinstance(self.source, Formula) and axis in self.source.axes)

    def allows(self, size: int) -> bool:
        """Whether it may have a size."""
        in_range = self.least <= size and (self.most is None or size <= self.most)
        return in_range and size % self.multiple_of == 0 and (not self.sizes or size in self.sizes)

    def choices(self) -> Sequence[int]:
        """The sizes to draw from, smallest first; of one without an upper limit the first ``drawn``. They may be billions: a range."""
        if self.sizes:
            return sorted(size for size in self.sizes if self.allows(size))
        most = self.most if self.most is not None else self.least + self.drawn * self.multiple_of
        first = -(-self.least // self.multiple_of) * self.multiple_of
        return range(first, most + 1, self.multiple_of)

    def drawn_for(self, formulas: Collection[Formula]) -> Axis:
        """The axis, of which so many sizes are drawn that those that follow from it alone are several elements long.

        Args:
            formulas: Sizes that follow from this axis.
        """
        if self.most is not None or self.sizes or not formulas:
            return self
        whole = replace(self, drawn=most_drawn(self.least, self.multiple_of) // self.multiple_of)
        needed = whole.first_of_several(formulas)
        return self if needed is None else replace(self, drawn=max(self.drawn, (needed - self.least) // self.multiple_of + 1))

    def first_of_several(self, formulas: Collection[Formula]) -> int | None:
        """The smallest size to draw at which those that follow from it are several elements long; ``None`` where there is none."""
        choices = self.choices()
        first = bisect_left(choices, True, key=lambda size: all(each.value({self.name: size}) >= _SEVERAL for each in formulas))
        return choices[first] if first < len(choices) else None

    def typical(self, taken: Collection[int] = (), formulas: Collection[Formula] = ()) -> int:
        """A size of the middle that no other axis has, so that an axis can be told by its length.

        Args:
            taken: Sizes that other axes have.
            formulas: Sizes that follow from this axis, and are several elements long where it allows.
        """
        choices = self.choices()
        middle = choices[bisect_left(choices, max(self.first_of_several(formulas) or 0, min(_USUAL - 1, choices[-1] // 2))) :]
        return next((size for size in middle if size not in taken and size > 1), choices[-1])

    def near(self, size: int, taken: Collection[int] = ()) -> list[int]:
        """A size, and the others that it may have in the order in which they would stand for it.

        Args:
            size: The size.
            taken: Sizes that other axes have, which come last.
        """
        others = sorted(self.choices()[:_NEAR], key=lambda other: (other in taken, abs(other - size)))
        return [size, *others]


def most_drawn(least: int, multiple_of: int = 1) -> int:
    """How far above the smallest size of an axis without an upper limit sizes are drawn, so that what follows from it is not a single one."""
    return _MOST_DRAWN * max(least, _USUAL * multiple_of)


def formulas_of(axis: Axis, axes: Mapping[str, Axis]) -> list[Formula]:
    """The sizes that follow from only this axis."""
    sources = (each.source for each in axes.values())
    return [source for source in sources if isinstance(source, Formula) and source.axes == (axis.name,)]


def keep_limits(limits: Iterable[Limit], known: Mapping[str, int]) -> bool:
    """Whether the limits across axes of which every size is known hold."""
    told = (limit for limit in limits if {*limit.left.axes, *limit.right.axes} <= known.keys())
    return all(limit.holds(known) for limit in told)


def fits_shape(found: Sequence[int], promised: Sequence[int]) -> bool:
    """Whether a shape is the one that is promised; an axis that is measured may have any size."""
    return len(found) == len(promised) and all(size in (ANY_SIZE, given) for given, size in zip(found, promised, strict=True))


def shape_text(promised: Sequence[int]) -> str:
    """A promised shape in words."""
    sizes = ["any size" if size == ANY_SIZE else str(size) for size in promised]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def rows_first(axes: Sequence[Size]) -> list[int]:
    """The places of axes in the order in which the suite holds a tensor: the rows first, wherever forward has them."""
    places = list(range(len(axes)))
    if BATCH in axes:
        places.insert(0, places.pop(list(axes).index(BATCH)))
    return places
