"""Batches from a dataset, by a DataLoader that knows how far it got."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from harness.batches import Batch
from harness.data.collation import collate
from harness.data.dataset import Stream
from harness.data.masking import mask_tokens
from harness.data.order import BatchOrder, Pick
from harness.errors import DataError, UserError
from harness.tasks import TaskSpec, TaskType


class Loader(DataLoader[Batch]):
    """A DataLoader whose batches depend on seed, epoch and rank alone, however many workers there are, and that can be resumed.

    Lightning saves and restores the position by ``state_dict`` and ``load_state_dict`` (leave its ``use_distributed_sampler`` off:
    the ranks are shared out here).
    """

    def __init__(
        self, dataset: Any, task: TaskSpec, order: BatchOrder, num_workers: int, pin_memory: bool, length: int | None
    ) -> None:
        super().__init__(
            _Examples(dataset, task, length),  # type: ignore[arg-type]  # it fetches whole batches and is no Dataset by name
            batch_sampler=order,  # type: ignore[arg-type]  # picks instead of bare numbers
            collate_fn=_as_it_is,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(order.seed),  # or else each epoch would move the global one
        )
        self.order = order
        self._given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a plain iterator is all that anyone needs
        """The batches of the epoch, from where a restored state left off.

        Raises:
            DataError: A row of a stream is wrong; its line is named.
        """
        self._given = self.order.start
        batches = super().__iter__()  # with workers, this iterates over the order twice
        self.order.start = 0
        for batch in batches:
            if isinstance(batch, UserError):
                # Raised itself, it and this frame would hold each other, and the workers be stopped late and slowly, by the collector.
                raise type(batch)(*batch.args)
            self._given += 1
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration goes through; a position within it, if restored, is kept."""
        self.order.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the batches given out in it; the same on every rank."""
        return {"epoch": self.order.epoch, "batch": self._given, **self._dealing()}

    def _dealing(self) -> dict[str, Any]:
        """What must be the same for the batches to be the same."""
        order = self.order
        return {
            "seed": order.seed,
            "batch_size": order.batch_size,
            "world_size": order.world_size,
            "shuffle": order.shuffle,
            "drop_last": order.drop_last,
            "rows": len(order.dataset),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration go on where a state was taken.

        Raises:
            DataError: The state is of batches that were dealt differently.
        """
        for name, now in self._dealing().items():
            if state[name] != now:
                raise DataError(f"the data cannot be resumed: `{name}` was {state[name]!r} and is now {now!r}")
        self.order.epoch, self.order.start = state["epoch"], state["batch"]
        self._given = state["batch"]


def make_loader(
    dataset: Any,
    task: TaskSpec,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    pin_memory: bool = False,
    length: int | None = None,
) -> Loader:
    """A loader of batches as ``harness.batches`` describes them.

    Args:
        dataset: What ``open_dataset`` gave, or anything with a length whose items are examples.
        task: What the examples are for.
        batch_size: Examples a batch and rank; the last one may have fewer.
        seed: Of the order, and of the masks of masked LMs.
        epoch: Where to begin; ``set_epoch`` goes on.
        rank: This process.
        world_size: How many processes share the dataset.
        num_workers: Processes that encode, decode and collate; the batches stay the same.
        shuffle: Whether each epoch has an order of its own.
        drop_last: Whether a last batch of fewer examples is left out.
        pin_memory: Whether batches are put where a GPU copies fast from.
        length: Tokens that sequences are padded to; by default as many as the longest row of the batch has.
    """
    order = BatchOrder(dataset, batch_size, seed, epoch, rank, world_size, shuffle, drop_last)
    return Loader(dataset, task, order, num_workers, pin_memory, length)


@dataclass(frozen=True)
class _Examples:
    """Makes whole batches, in a worker where there are any."""

    dataset: Any
    task: TaskSpec
    length: int | None

    def __getitems__(self, picks: Sequence[Pick]) -> Batch | UserError:
        # A worker's exception arrives with its traceback as the message; returned, the one line stays one.
        try:
            return collate(self.task, [self._example(pick) for pick in picks], self.length)
        except UserError as error:
            return error

    def _example(self, pick: Pick) -> Any:
        example = self.dataset.encode(pick.key) if isinstance(self.dataset, Stream) else self.dataset[pick.key]
        return mask_tokens(example, self.task, pick.seed) if self.task.task_type is TaskType.MASKED_LM else example


def _as_it_is(batch: Any) -> Any:
    return batch
