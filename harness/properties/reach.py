"""The sizes that a large model is judged at: as large as calls of a few seconds allow.

Tier 1 calls a model hundreds of times, some of them with five rows at full length. Of a model of a hundred million parameters such a call
takes seconds, and the time budget would be spent on a few properties. So a large model is judged with fewer rows first, and where two rows
are still too much, at a shorter length. The property ``full_length`` calls it at full length whatever that takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from harness.batches import Sizes, largest_sizes, smallest_sizes
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH

if TYPE_CHECKING:
    from harness.properties.subject import Subject

MOST_ROWS = 5
"""Rows of the largest batches that are judged."""

_DRAWN, _LARGEST = 2e10, 1.5e11
"""Most floating-point operations of a call whose sizes are drawn, and of one at the largest sizes: about 0.3 and 2 s on one core."""

_LONGER = (8, 64)
"""How many times longer inputs are made along an axis without a limit than its largest size that is drawn."""

_SMALL_INPUTS = 2**16
"""Most elements of inputs that are made longer."""


@dataclass(frozen=True)
class Reach:
    """Which sizes are judged.

    Attributes:
        task: What the sizes are of.
        typical: Sizes that are always judged.
        work: Floating-point operations of a call by row and position; 0 where every call is cheap.
    """

    task: TaskSpec
    typical: Sizes
    work: float = 0.0

    @classmethod
    def of(cls, subject: Subject) -> Reach:
        """Counts the operations of a large model's call at typical sizes."""
        cheap = cls(subject.task, subject.typical)
        if not subject.is_large:
            return cheap
        from torch.utils.flop_counter import FlopCounterMode

        try:
            with FlopCounterMode(display=False) as counter:
                subject.raw_logits(subject.batch(), subject.fresh())
        except Exception:  # that it cannot be called is found, and said, by the properties
            return cheap
        return replace(cheap, work=counter.get_total_flops() / cheap._elements(subject.typical))

    @property
    def anchors(self) -> tuple[tuple[Sizes, int], ...]:
        """Sizes and seeds that the properties of shape, finiteness and determinism always judge, before any are drawn."""
        few, many = self.largest(2), self.largest(MOST_ROWS)
        return (
            (self.typical, 0),
            (self.typical, 1),
            (smallest_sizes(self.task), 0),
            (few, 0),
            *([] if self.work and few == many else [(many, 1)]),
            *((sizes, 0) for sizes in self._with_an_empty_group()),
        )

    def _with_an_empty_group(self) -> Iterator[Sizes]:
        """Sizes with more groups, such as graphs, than elements, where a batch of few may have them."""
        if self.task.declared is None or BATCH not in self.task.signature.grouping:
            return
        least = self.task.declared.smallest_sizes()
        axes = [axis for axis, each in self.task.signature.grouped_axes.items() if each.values.axis == BATCH]
        rows = min((least[axis] for axis in axes if axis in least), default=MOST_ROWS) + 1
        if rows <= MOST_ROWS and self.task.declared.allows({**least, BATCH: rows}):
            yield smallest_sizes(self.task, rows)

    def allows(self, values: Mapping[str, Any]) -> bool:
        """Whether drawn values of a property make cheap calls."""
        if not self.work:
            return True
        drawn = [value for value in (values.get("sizes"), *values.get("calls", ())) if isinstance(value, Sizes)]
        most = max(_DRAWN, self._work(self.typical))
        return all(self._work(sizes) <= most for sizes in drawn)

    def is_dear(self, sizes: Sizes) -> bool:
        """Whether calls of these sizes are so dear that few of them are made."""
        return self._work(sizes) > _DRAWN

    def largest_cheap(self, rows: int) -> Sizes:
        """The largest sizes that many calls are made at, where more than the length matters."""
        return self.largest(rows, _DRAWN)

    def largest(self, rows: int, most: float | None = None) -> Sizes:
        """The largest sizes that are judged, of so many rows or, of a large model, fewer.

        Args:
            rows: How many rows; one is not made fewer.
            most: Floating-point operations that a call may take; by default as many as one at the largest sizes.
        """
        most = _LARGEST if most is None else most
        sizes = largest_sizes(self.task, rows)
        fewer = (replace(sizes, batch=count) for count in range(sizes.batch - 1, 1, -1))
        allowed = (each for each in fewer if self.task.declared is None or self.task.declared.allows(each.by_axis(self.task)))
        if found := next((each for each in (sizes, *allowed) if self._work(each) <= most), None):
            return found
        if self.task.declared is not None or not self.task.is_text:
            return self.typical
        length = max(self.typical.seq + 1, int(most / self.work / 2 / (1 + self.task.is_seq2seq)))
        return Sizes(2, min(length, sizes.seq), min(length, sizes.seq))

    def longer(self) -> Iterator[Sizes]:
        """The largest sizes that are judged, then longer ones of axes without a limit, as far as inputs stay small."""
        yield (largest := self.largest(self.typical.batch))
        task = self.task.declared
        if task is None:
            return
        endless = [axis for axis in task.free_axes if axis.most is None and not axis.sizes and axis.name != BATCH]
        for times in _LONGER if endless else ():
            sizes = largest.by_axis(self.task) | {axis.name: times * axis.choices()[-1] for axis in endless}
            known = task.complete(sizes)
            elements = sum(
                prod(known.get(size, 1) if isinstance(size, str) else size for size in each.axes) for each in task.inputs
            )
            if elements > _SMALL_INPUTS or not task.allows(sizes):
                return
            yield Sizes.of(sizes)

    def _work(self, sizes: Sizes) -> float:
        return self.work * self._elements(sizes)

    def _elements(self, sizes: Sizes) -> int:
        if self.task.declared is None and self.task.is_text:
            return sizes.batch * (sizes.seq + (sizes.target_seq if self.task.is_seq2seq else 0))
        return prod(sizes.by_axis(self.task).values()) or 1
