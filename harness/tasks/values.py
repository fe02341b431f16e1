"""What an input holds: a class for each kind of values, which makes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Drawing:
    """What the values of one batch are drawn from.

    Attributes:
        sizes: The size of every axis.
        lengths: The real length of each row along an axis whose rows may be shorter (int64 ``[B]``); all of it where an axis is not named.
        rng: The source of randomness.
        grouping: Axes that only group the elements of others, as the graphs of a batch do.
    """

    sizes: Mapping[str, int]
    rng: torch.Generator
    lengths: Mapping[str, Tensor] = field(default_factory=dict)
    grouping: frozenset[str] = frozenset()

    def lengths_along(self, axis: str, rows: int) -> Tensor:
        """The real length of each row (int64 ``[rows]``)."""
        import torch

        return self.lengths.get(axis, torch.full((rows,), self.sizes[axis]))


class Values(ABC):
    """One kind of values.

    Attributes:
        axis: The axis that the values speak of, as lengths and masks do; empty for values that speak of none.
    """

    axis: str = ""

    @abstractmethod
    def dtype(self) -> str:
        """Name of the dtype where the config names none, such as ``float32``."""

    @abstractmethod
    def make(self, shape: tuple[int, ...], drawing: Drawing) -> Tensor:
        """Random values of a shape, in any dtype that holds them."""

    @abstractmethod
    def written(self) -> Any:
        """As the config says it."""

    def extreme(self, made: Tensor, content: str, large: float) -> Tensor:
        """Values that are unusual, and allowed all the same; by default those that were made.

        Args:
            made: Usual values.
            content: One of ``EXTREMES``.
            large: What counts as a large number, where numbers have no range.
        """
        return made


EXTREMES = ("constant_zero", "constant_large", "constant_negative", "spike", "first_id", "last_id", "alternating")
"""What ``extreme`` can be asked for; each becomes what the values allow."""


@dataclass(frozen=True)
class Normal(Values):
    """Numbers from the standard normal distribution."""

    def dtype(self) -> str:
        """Floating point."""
        return "float32"

    def make(self, shape: tuple[int, ...], drawing: Drawing) -> Tensor:
        """Standard normal numbers."""
        import torch

        return torch.randn(shape, generator=drawing.rng)

    def extreme(self, made: Tensor, content: str, large: float) -> Tensor:
        """All the same, from one to another in turn, or a single large one."""
        return _extreme_numbers(made, content, -large, large, (-1.0, 1.0))

    def written(self) -> Any:
        """The default."""
        return "normal"


@dataclass(frozen=True)
class Uniform(Values):
    """Numbers evenly from a range.

    Attributes:
        low: Smallest number.
        high: Largest number.
    """

    low: float
    high: float

    def dtype(self) -> str:
        """Floating point."""
        return "float32"

    def make(self, shape: tuple[int, ...], drawing: Drawing) -> Tensor:
        """Numbers between ``low`` and ``high``."""
        import torch

        return self.low + (self.high - self.low) * torch.rand(shape, generator=drawing.rng)

    def extreme(self, made: Tensor, content: str, large: float) -> Tensor:
        """The ends of the range: all at one, in turn, or a single one at the upper end."""
        return _extreme_numbers(made, content, self.low, self.high, (self.low, self.high))

    def written(self) -> Any:
        """With both ends."""
        return {"range": [self.low, self.high]}


@dataclass(frozen=True)
class Ids(Values):
    """Rows of a table: 0 to ``count`` - 1, without the one that fills.

    Attributes:
        count: How many rows the table has; several for the places of the last axis, each of which has a table.
        pad: The id that fills padded places; ``None`` where there is none.
    """

    count: int | tuple[int, ...]
    pad: int | None = None

    def dtype(self) -> str:
        """Whole numbers."""
        return "int64"

    def make(self, shape: tuple[int, ...], drawing: Drawing) -> Tensor:
        """Ids other than the padding id."""
        import torch

        if isinstance(self.count, tuple):
            columns = [torch.randint(count, shape[:-1], generator=drawing.rng) for count in self.count]
            return torch.stack(columns, -1)
        if self.pad is None or self.count == 1:
            return torch.randint(self.count, shape, generator=drawing.rng)
        ids = torch.randint(self.count - 1, shape, generator=drawing.rng)
        return ids + (ids >= self.pad).long()

    def extreme(self, made: Tensor, content: str, large: float) -> Tensor:
        """The first or the last real id everywhere, in turn, or a single last one."""
        import torch

        if isinstance(self.count, tuple):
            tables = enumerate(self.count)
            return torch.stack([Ids(count).extreme(made[..., place], content, large) for place, count in tables], -1)
        candidates = (0, 1, self.count - 2, self.count - 1)
        real = [i for i in candidates if 0 <= i < self.count and (i != self.pad or self.count == 1)]
        return _extreme_ids(made, content, real[0], real[-1])

    def written(self) -> Any:
        """With the padding id where there is one."""
        count = list(self.count) if isinstance(self.count, tuple) else self.count
        return {"ids": count} if self.pad is None else {"ids": count, "pad": self.pad}


@dataclass(frozen=True)
class IndexOf(Values):
    """Positions along an axis, as the ends of edges are; or, of an axis that groups, the group of each element."""

    axis: str

    def dtype(self) -> str:
        """Whole numbers."""
        return "int64"

    def make(self, shape: tuple[int, ...], drawing: Drawing) -> Tensor:
        """Random positions; groups in ascending order, so that each has an element where there are enough."""
        import torch

        size = drawing.sizes[self.axis]
        if self.axis in drawing.grouping:
            count = max(0, shape[-1] - size)
            groups = torch.cat((torch.arange(min(size, shape[-1])), torch.randint(size, (count,), generator=drawing.rng)))
            return groups.sort().values.expand(shape).clone()
        return torch.randint(size, shape, generator=drawing.rng)

    def written(self) -> Any:
        """With its axis."""
        return {"index_of": self.axis}


def within_groups(positions: Tensor, groups: Tensor, rng: torch.Generator, *, of_each: bool) -> Tensor:
    """Positions none of which leads from one group, such as a graph, to another.

    Args:
        positions: Pairs of them (int64 ``[2, E]``), of which the second are drawn again; or those of each element (int64 ``[N, …]``).
        groups: The group of each element (int64 ``[N]``), in rising order.
        rng: What is drawn from.
        of_each: Whether each element has positions, as in a list of neighbours.
    """
    import torch

    if not of_each and (positions.ndim != 2 or len(positions) != 2):
        return positions
    own = groups if of_each else groups[positions[0]]
    begins = torch.searchsorted(groups, own)
    counts = torch.searchsorted(groups, own, right=True) - begins
    if not of_each:
        drawn = begins + (torch.rand(counts.shape, generator=rng) * counts).long()
        return torch.stack((positions[0], drawn))
    begins, counts = (each.view(-1, *[1] * (positions.ndim - 1)) for each in (begins, counts))
    return begins + (torch.rand(positions.shape, generator=rng) * counts).long()


@dataclass(frozen=True)
class LengthsOf(Values):
    """The real length of each row along an axis."""

    axis: str

    def dtype(self) -> str:
        """Whole numbers."""
        return "int64"

    def make(self, shape: tuple[int, ...], drawing: Drawing) -> Tensor:
        """The lengths of the drawing."""
        return drawing.lengths_along(self.axis, shape[0]).clone()

    def written(self) -> Any:
        """With its axis."""
        return {"lengths_of": self.axis}


@dataclass(frozen=True)
class MaskOf(Values):
    """Which elements along an axis are real.

    Attributes:
        axis: The axis.
        inverted: Whether 1 and true stand where an element is padding.
    """

    axis: str
    inverted: bool = False

    def dtype(self) -> str:
        """Whole numbers, as a Hugging Face mask has; ``dtype: bool`` where forward wants that."""
        return "int64"

    def make(self, shape: tuple[int, ...], drawing: Drawing) -> Tensor:
        """1 at the real elements (0 where it is inverted), which stand first."""
        import torch

        real = torch.arange(shape[-1]) < drawing.lengths_along(self.axis, shape[0])[:, None]
        return (real ^ self.inverted).long()

    def written(self) -> Any:
        """With its axis."""
        return {"mask_of": self.axis, "inverted": True} if self.inverted else {"mask_of": self.axis}


@dataclass(frozen=True)
class OneOf(Values):
    """One of a few numbers or truth values.

    Attributes:
        choices: The values.
    """

    choices: tuple[Any, ...]

    def dtype(self) -> str:
        """As the values are: ``bool``, ``int64`` or ``float32``."""
        kinds = {type(choice) for choice in self.choices}
        return "bool" if kinds == {bool} else ("int64" if kinds == {int} else "float32")

    def make(self, shape: tuple[int, ...], drawing: Drawing) -> Tensor:
        """Values drawn evenly."""
        import torch

        return torch.tensor(self.choices)[torch.randint(len(self.choices), shape, generator=drawing.rng)]

    def extreme(self, made: Tensor, content: str, large: float) -> Tensor:
        """The first or the last choice everywhere, in turn, or a single last one."""
        import torch

        places = _extreme_ids(torch.zeros(made.shape, dtype=torch.long), content, 0, len(self.choices) - 1)
        return torch.tensor(self.choices)[places].to(made)

    def written(self) -> Any:
        """With the values."""
        return {"one_of": list(self.choices)}


@dataclass(frozen=True)
class Made(Values):
    """What a function of the user's makes.

    Attributes:
        source: Where it is, ``data.py:function``.
        load: Loads it; called when values are made.
    """

    source: str
    load: Callable[[], Callable[[tuple[int, ...], torch.Generator], Tensor]] = field(compare=False, repr=False)

    def dtype(self) -> str:
        """Whatever the function makes: nothing is converted."""
        return ""

    def make(self, shape: tuple[int, ...], drawing: Drawing) -> Tensor:
        """What the function returns for the shape and the generator.

        Raises:
            ValueError: It has another shape.
        """
        made = self.load()(shape, drawing.rng)
        if tuple(made.shape) != shape:
            raise ValueError(f"{self.source} made a tensor of shape {list(made.shape)}; asked for {list(shape)}")
        return made

    def written(self) -> Any:
        """With its place."""
        return {"from": self.source}


def _extreme_numbers(made: Tensor, content: str, low: float, high: float, turns: tuple[float, float]) -> Tensor:
    import torch

    if content == "spike":
        spiked = torch.zeros_like(made).clamp(low, high)
        _first_of_each_row(spiked).fill_(high)
        return spiked
    if content == "alternating":
        odd = torch.arange(made.numel(), device=made.device).reshape(made.shape) % 2
        return torch.where(odd.bool(), turns[1], turns[0]).to(made.dtype)
    value = {"constant_large": high, "constant_negative": low, "last_id": 1.0}.get(content, 0.0)
    return torch.full_like(made, min(max(value, low), high))


def _extreme_ids(made: Tensor, content: str, first: int, last: int) -> Tensor:
    import torch

    if content == "alternating" and made.ndim:
        odd = torch.arange(made.shape[-1], device=made.device) % 2
        return torch.where(odd.bool(), last, first).to(made.dtype).expand(made.shape).clone()
    if content == "spike":
        spiked = torch.full_like(made, first)
        _first_of_each_row(spiked).fill_(last)
        return spiked
    return torch.full_like(made, last if content in ("last_id", "constant_large") else first)


def _first_of_each_row(tensor: Tensor) -> Tensor:
    """A view of the first element of each row; of a tensor of one axis its first element."""
    return tensor.flatten(1)[:, :1] if tensor.ndim > 1 else tensor.view(-1)[:1]
