"""Which examples make up which batch. It depends only on the seed, the epoch and the rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from random import Random
from typing import Any, NamedTuple, TypeVar

from harness.data.dataset import Stream

T = TypeVar("T")

BUFFER = 1024
"""Rows among which a stream is shuffled."""


class Pick(NamedTuple):
    """An example that is due.

    Attributes:
        seed: Of whatever is random about it, such as which tokens are masked.
        key: Its number, or for a stream its row.
    """

    seed: str
    key: Any


class BatchOrder:
    """The batches of an epoch for one rank, as lists of picks: the ``batch_sampler`` of a DataLoader.

    Every rank gets as many batches; where the examples do not divide evenly, the first ones are dealt a second time, as
    ``DistributedSampler`` does.

    Args:
        dataset: ``Rows`` or another sized dataset, or a ``Stream``.
        batch_size: Examples a batch; the last one may have fewer.
        seed: Of the order.
        rank: This process.
        world_size: How many processes share the dataset.
        shuffle: Whether the order is mixed; a stream's within a buffer.

    Attributes:
        start: Batches that are skipped.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = False,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"batch_size {batch_size} and rank {rank} of {world_size} are impossible")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.start = 0

    @property
    def sampler(self) -> BatchOrder:
        """Itself: Lightning tells the epoch to the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of an epoch; where it is already in it, it stays where it is."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Batches of a whole epoch; for a stream, the first time, this reads through the file."""
        own = -(-len(self.dataset) // self.world_size)
        return -(-own // self.batch_size)

    def __iter__(self) -> Iterator[list[Pick]]:
        """The batches from ``start`` on."""
        start = self.start  # now, and not when the first batch is asked for
        keys = self._stream_keys(self.dataset) if isinstance(self.dataset, Stream) else self._numbers(len(self.dataset))
        stamp = f"{self.seed}:{self.epoch}"
        picks = (Pick(f"{stamp}:{turn * self.world_size + self.rank}", key) for turn, key in enumerate(keys))
        return _chunks(islice(picks, start * self.batch_size, None), self.batch_size)

    def _rng(self) -> Random:
        return Random(f"{self.seed}:{self.epoch}")

    def _numbers(self, count: int) -> Iterator[int]:
        order = permutation(count, self._rng()) if self.shuffle else list(range(count))
        total = -(-count // self.world_size) * self.world_size
        return (order[place % count] for place in range(self.rank, total, self.world_size))

    def _stream_keys(self, stream: Stream) -> Iterator[Any]:
        own = shard(stream.records(), self.rank, self.world_size)
        return shuffled(own, self._rng(), BUFFER) if self.shuffle else own


def permutation(count: int, rng: Random) -> list[int]:
    """The numbers below ``count`` in random order; made only of ``random()``, whose numbers Python promises never to change."""
    return sorted(range(count), key=[rng.random() for _ in range(count)].__getitem__)


def shard(rows: Iterable[T], rank: int, world_size: int) -> Iterator[T]:
    """Every ``world_size``-th row; ranks that would get one fewer get one of the first rows once more."""
    first: list[T] = []
    count = 0
    for row in rows:
        if count < world_size:
            first.append(row)
        if count % world_size == rank:
            yield row
        count += 1
    surplus = count % world_size
    if surplus and rank >= surplus:
        yield first[(rank - surplus) % len(first)]


def shuffled(rows: Iterator[T], rng: Random, size: int) -> Iterator[T]:
    """Mixes rows within a buffer: each leaves it at a random time, and makes room for the next."""
    buffer = list(islice(rows, size))
    for row in rows:
        place = int(rng.random() * len(buffer))
        yield buffer[place]
        buffer[place] = row
    yield from (buffer[place] for place in permutation(len(buffer), rng))


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    return ([first, *islice(items, size - 1)] for first in chain(items))
