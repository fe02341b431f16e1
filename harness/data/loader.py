"""Batches from a dataset: rows stacked or padded, with masks, by a DataLoader that knows its position in the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from harness.batches import IGNORED, Batch
from harness.data import Example
from harness.data.columns import UNKNOWN_CLASS
from harness.data.dataset import Rows, Stream
from harness.data.declared_rows import Field, input_fields, is_padded, label_fields
from harness.data.order import BatchOrder, Pick
from harness.data.tokens import IdSpace
from harness.errors import DataError, UserError
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH, Axis, Formula
from harness.tasks.signature import Signature
from harness.tasks.values import Ids, LengthsOf, MaskOf


def collate(signature: Signature, examples: Sequence[Example]) -> Batch:
    """A batch of examples: stacked, and padded where the declaration allows it.

    Rows of several sizes are filled with the padding id, with zeros, or with -100 where they are labels. Lengths and masks that the data does
    not give follow from the sizes.

    Args:
        signature: What the fields hold.
        examples: One or more rows with the same fields, or one example of a signature without rows.

    Raises:
        DataError: Examples differ along an axis that has no padding, or in an input that a batch has only once.
    """
    if not signature.deals_rows:
        return dict(examples[0])
    return _Collation(signature, examples).batch()


class _Collation:
    def __init__(self, signature: Signature, examples: Sequence[Example]) -> None:
        self._signature = signature
        self._examples = examples
        fields = (*input_fields(signature), *label_fields(signature))
        shared = {
            name: next(field for field in fields if field.name == source) for name, source in signature.label_sources.items()
        }
        self._there = {field.name: field for field in fields} | {
            name: replace(field, name=name, is_needed=False, is_label=True) for name, field in shared.items()
        }
        self._missing = [field for name, field in self._there.items() if name not in examples[0]]
        self._fields = [field for name, field in self._there.items() if all(name in example for example in examples)]
        self._sizes = [self._sizes_of(example) for example in examples]
        self._longest = self._largest_sizes()

    def batch(self) -> Batch:
        made = {field.name: self._stacked(field) for field in self._fields}
        for field in self._missing:
            if isinstance(field.values, (LengthsOf, MaskOf)) and field.values.axis in self._longest:
                made[field.name] = self._told_by_sizes(field)
        # The rows of a batch are counted by its first field.
        order = sorted(self._there, key=lambda name: not self._there[name].has_rows)
        return {name: made[name] for name in order if name in made}

    def _sizes_of(self, example: Example) -> dict[str, int]:
        return {
            axis: size
            for field in self._fields
            for axis, size in zip(field.row_axes, example[field.name].shape, strict=False)
            if isinstance(axis, str)
        }

    def _largest_sizes(self) -> dict[str, int]:
        longest: dict[str, int] = {}
        for axis in dict.fromkeys(name for sizes in self._sizes for name in sizes):
            found = [sizes[axis] for sizes in self._sizes if axis in sizes]
            longest[axis] = self._rounded(axis, max(found), min(found))
        for axis in longest:
            declared = self._signature.axes.get(axis)
            if declared is not None and isinstance(declared.source, Formula) and set(declared.source.axes) <= set(longest):
                longest[axis] = max(longest[axis], int(declared.source.value(longest)))
        return longest

    def _rounded(self, axis: str, most: int, least: int) -> int:
        declared = self._signature.axes.get(axis)
        if declared is None or not declared.is_free:
            return most
        if is_padded(declared):
            return next((size for size in _upwards(declared, most) if declared.allows(size)), most)
        if most != least:
            raise DataError(
                f"rows with {least} and {most} along {axis!r} cannot be put into one batch: declare `axes.{axis}.padding`, "
                "give the data one size, or set `batch_size` 1"
            )
        return most

    def _stacked(self, field: Field) -> Tensor:
        parts = [example[field.name] for example in self._examples]
        if not field.has_rows:
            if any(not torch.equal(part, parts[0]) for part in parts):
                raise DataError(
                    f"`{field.name}` has no axis {BATCH!r} and differs between rows, so they cannot be put into one batch: set `batch_size` 1"
                )
            return parts[0]
        stacked = torch.stack([self._padded(part, field) for part in parts])
        # A class that the model does not know has no loss.
        is_class = field.is_label and isinstance(field.values, Ids)
        return stacked.masked_fill(stacked <= UNKNOWN_CLASS, IGNORED) if is_class else stacked

    def _padded(self, part: Tensor, field: Field) -> Tensor:
        sizes = zip(field.row_axes, part.shape, strict=False)
        shape = [self._longest[axis] if isinstance(axis, str) else size for axis, size in sizes]
        # Of unchecked rows, which are refused where they are used.
        if list(part.shape) == shape or part.ndim != len(field.row_axes):
            return part
        whole = part.new_full(shape, _fill(field))
        view = whole
        for place, (axis, size) in enumerate(zip(field.row_axes, part.shape, strict=False)):
            declared = self._signature.axes.get(axis) if isinstance(axis, str) else None
            start = shape[place] - size if declared is not None and declared.padding == "left" else 0
            view = view.narrow(place, start, size)
        view.copy_(part)
        return whole

    def _told_by_sizes(self, field: Field) -> Tensor:
        axis = field.values.axis
        lengths = torch.tensor([sizes[axis] for sizes in self._sizes])
        dtype = getattr(torch, field.dtype)
        if isinstance(field.values, LengthsOf):
            return lengths.to(dtype)
        places = torch.arange(self._longest[axis])
        declared = self._signature.axes[axis]
        real = places >= (self._longest[axis] - lengths[:, None]) if declared.padding == "left" else places < lengths[:, None]
        inverted = isinstance(field.values, MaskOf) and field.values.inverted
        return (real ^ inverted).to(dtype)


def _upwards(axis: Axis, size: int) -> Iterator[int]:
    """Sizes from one on, as far as one that the axis allows can be."""
    if axis.sizes:
        return (each for each in sorted(axis.sizes) if each >= size)
    return iter(range(size, max(size, axis.least) + axis.multiple_of))


def _fill(field: Field) -> int:
    """What stands where a row is shorter."""
    if field.is_label:
        return 0 if field.dtype == "bool" else IGNORED
    if isinstance(field.values, Ids):
        return field.values.pad or 0
    return int(isinstance(field.values, MaskOf) and field.values.inverted)


class Loader(DataLoader[Batch]):
    """A DataLoader whose batches depend only on seed, epoch and rank, however many workers there are, and that can be resumed.

    Lightning saves and restores the position by ``state_dict`` and ``load_state_dict`` (leave its ``use_distributed_sampler`` off:
    the ranks are shared out here).
    """

    def __init__(self, task: TaskSpec, order: BatchOrder, num_workers: int, pin_memory: bool) -> None:
        super().__init__(
            _Examples(order.dataset, task),  # type: ignore[arg-type]  # it fetches whole batches and is no Dataset by name
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
            "rows": len(order.dataset),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration continue where a state was taken.

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
    share: tuple[int, int] = (0, 1),
    num_workers: int = 0,
    shuffle: bool = False,
    pin_memory: bool = False,
) -> Loader:
    """A loader of batches as ``harness.batches`` describes them.

    Args:
        dataset: What ``open_dataset`` gave, or anything with a length whose items are examples.
        task: What the examples are for.
        batch_size: Examples a batch and rank; the last one may have fewer.
        seed: Of the order, and of the masks of masked LMs.
        share: This process's rank, and how many processes share the dataset.
        num_workers: Processes that encode, decode and collate; the batches stay the same.
        shuffle: Whether each epoch has its own order.
        pin_memory: Whether batches are put where a GPU copies fast from.
    """
    if not task.signature.deals_rows:
        batch_size = 1  # each example, such as a graph, is a batch
    order = BatchOrder(dataset, batch_size, seed, *share, shuffle)
    return Loader(task, order, num_workers, pin_memory)


@dataclass(frozen=True)
class _Examples:
    """Makes whole batches, in a worker where there are any."""

    dataset: Any
    task: TaskSpec

    def __getitems__(self, picks: Sequence[Pick]) -> Batch | UserError:
        # A worker's exception arrives with its traceback as the message; returned, the one line stays one.
        try:
            return collate(self.task.signature, [self._example(pick) for pick in picks])
        except UserError as error:
            return error

    def _example(self, pick: Pick) -> Any:
        if isinstance(self.dataset, Stream):
            example = self.dataset.encode(pick.key)
        else:
            example = self.dataset.drawn(pick.key, pick.seed) if isinstance(self.dataset, Rows) else self.dataset[pick.key]
        return mask_tokens(example, self.task, pick.seed) if self.task.has_random_labels else example


def _as_it_is(batch: Any) -> Any:
    return batch


_CHOSEN, _HIDDEN, _SWAPPED = 0.15, 0.8, 0.1


def mask_tokens(example: Example, task: TaskSpec, seed: str) -> Example:
    """Chooses 15% of the tokens, at least one; 80% of those are hidden, 10% swapped, 10% left (BERT, arXiv:1810.04805).

    Args:
        example: A row with ``input_ids``; one that has ``labels`` is left as it is.
        task: A masked LM's.
        seed: The same seed chooses the same tokens.

    Returns:
        A new example whose ``labels`` are the chosen tokens, and -100 elsewhere.
    """
    if "labels" in example:
        return example
    space = IdSpace.of(task)
    assert space.mask is not None
    rng = Random(seed)
    ids = example["input_ids"].tolist()
    chosen = [position for position in range(len(ids)) if rng.random() < _CHOSEN] or [int(rng.random() * len(ids))]
    labels = [IGNORED] * len(ids)
    for position in chosen:
        labels[position] = ids[position]
        fate = rng.random()
        if fate < _HIDDEN:
            ids[position] = space.mask
        elif fate < _HIDDEN + _SWAPPED:
            ids[position] = space.free[int(rng.random() * len(space.free))]
    return {**example, "input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
