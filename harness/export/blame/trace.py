"""What came up while something was computed: every tensor, what made it, and what it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

LAYOUT = frozenset(
    [
        "alias",
        "cast",
        "castlike",
        "clone",
        "concat",
        "cat",
        "contiguous",
        "detach",
        "expand",
        "flatten",
        "identity",
        "lift_fresh_copy",
        "permute",
        "reshape",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "stack",
        "t",
        "to",
        "_to_copy",
        "transpose",
        "unflatten",
        "unsafe_view",
        "_unsafe_view",
        "unsqueeze",
        "view",
    ]
)
"""Operators that pass values on without computing any."""


@dataclass
class Value:
    """A tensor that came up while something was computed.

    Attributes:
        operator: What made it, such as ``aten.add.Tensor`` or ``Add``; empty where nothing did.
        tensor: A copy of it.
        inputs: The values it was made from, by their index.
        name: Its own name, or that of the node that made it.
        module: Path of the module in which it came up.
        lines: The user's lines that led to it, innermost first.
        given: Whether it is right by definition: an input, a weight, or a weight in another layout.
    """

    operator: str
    tensor: Tensor
    inputs: tuple[int, ...] = ()
    name: str = ""
    module: str = ""
    lines: tuple[str, ...] = ()
    given: bool = False

    @property
    def passes_on(self) -> bool:
        """Whether its operator only moves values."""
        return self.operator.removeprefix("aten.").partition(".")[0].lower() in LAYOUT


@dataclass
class Trace:
    """The values of one run, in the order in which they came up, and which of them are the logits."""

    values: list[Value]
    output: int

    @property
    def logits(self) -> Tensor:
        """The logits."""
        return self.values[self.output].tensor

    @property
    def live(self) -> list[int]:
        """The values that led to the logits."""
        return self.led_to(self.output, range(len(self.values)))

    def made_from(self, starts: Iterable[int], among: Iterable[int]) -> list[int]:
        """The values of ``among`` that are one of ``starts`` or made from one."""
        found = set(starts)
        for index in sorted(among):
            if not found.isdisjoint(self.values[index].inputs):
                found.add(index)
        return sorted(found)

    def led_to(self, end: int, among: Iterable[int]) -> list[int]:
        """The values of ``among`` that are ``end`` or that it was made from, through such values."""
        allowed, found, open_ = set(among), {end}, [end]
        while open_:
            fresh = {i for i in self.values[open_.pop()].inputs if i in allowed} - found
            found |= fresh
            open_ += fresh
        return sorted(found)
