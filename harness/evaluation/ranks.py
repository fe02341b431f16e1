"""The processes that share a dataset: which rows each one has, and how what they found is put together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from harness.data.order import BatchOrder
from harness.errors import DataError, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the rows.

    Attributes:
        rank: This process.
        size: How many there are.
        rows: Rows of the whole dataset; ``None`` for a process alone, which sees them all anyway.
    """

    rank: int = 0
    size: int = 1
    rows: int | None = None

    @classmethod
    def of(cls, order: BatchOrder) -> Ranks:
        """The processes among which an order deals out the rows.

        Raises:
            ValueError: They are not those of ``torch.distributed``.
        """
        if order.world_size == 1:
            return cls()
        running = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        if running != order.world_size:
            raise ValueError(f"the loader deals rows to {order.world_size} processes, of which torch.distributed knows {running}")
        return cls(order.rank, order.world_size, len(order.dataset))

    @property
    def own_rows(self) -> int | None:
        """Rows that count on this rank: not the ones dealt a second time; ``None`` for all."""
        return None if self.rows is None else len(range(self.rank, self.rows, self.size))

    def row_number(self, place: int) -> int:
        """The number in the dataset, counted from 0, of the row at a place among this rank's."""
        return place * self.size + self.rank

    def gather(self, value: T) -> list[T]:
        """What each rank gave, in the order of ranks; a collective call."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    @property
    def synchronisation(self) -> dict[str, Any]:
        """Arguments of a torchmetrics metric: it must put together nothing where every process evaluates for itself.

        Its own ``gather_all_tensors`` would need the counts on the device of the process group's backend.
        """
        return {
            "sync_on_compute": self.size > 1,
            "distributed_available_fn": lambda: self.size > 1,
            "dist_sync_fn": self._gather_tensor,
        }

    def _gather_tensor(self, tensor: Tensor, group: object = None) -> list[Tensor]:
        return self.gather(tensor)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """A block at whose end every rank raises if one did, instead of waiting for it in the next collective call.

        Raises:
            UserError: Another rank raised; ``DataError`` where that one did.
        """
        try:
            yield
        except Exception as error:
            self.gather((isinstance(error, DataError), str(error) or type(error).__name__))
            raise
        failures = self.gather(None)
        for rank, failure in enumerate(failures):
            if failure is not None:
                is_data, message = failure
                raise (DataError if is_data else UserError)(f"rank {rank}: {message}")
