"""Batches of real examples from a dataset, for the properties."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor

from harness.batches import Batch, Sizes, make_batch
from harness.config import EvalConfig, SuiteConfig
from harness.data import Example
from harness.data.dataset import Dataset, Rows
from harness.data.declared_rows import Field, input_fields, label_fields
from harness.data.opening import open_dataset
from harness.data.readers.npz import read_npz
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH
from harness.tasks.signature import Signature
from harness.tasks.values import LengthsOf, MaskOf

__all__ = ["Maker", "example_maker", "read_npz"]

Maker = Callable[[TaskSpec, Sizes, int], Batch]
"""From a task, sizes and a seed to a batch."""

_POOL = 128
"""Rows that the batches are dealt from."""

_SMALL = 1 << 20
"""Bytes of a file up to which its rows are taken from all over it, rather than from its beginning."""

_REMEMBERED = 8

_opened: dict[tuple[object, ...], list[Example]] = {}


def example_maker(config: SuiteConfig) -> Maker:
    """A maker of batches: real rows where the config names a dataset, drawn ones otherwise.

    Raises:
        DataError: The data is missing, unreadable, or does not fit the task.
    """
    data = config.eval or config.train
    if data is None or not data.is_named:
        return make_batch
    key = (config.path, config.fingerprint, *(_stamp(config, each) for each in (config.train, config.eval)))
    if key not in _opened:
        for oldest in list(_opened)[: 1 - _REMEMBERED]:
            del _opened[oldest]
        _opened[key] = _pool(config, data)
    return partial(_deal, _opened[key])


def _pool(config: SuiteConfig, data: EvalConfig) -> list[Example]:
    """Some rows of a dataset, without reading all of a large file."""
    task, folder = config.task_spec(), config.path.parent
    open_some = partial(open_dataset, task=task, folder=folder, memory_limit=_SMALL)
    like: Dataset | None = None
    if data is config.eval and config.train is not None and config.train.is_named and not data.dataset_id:
        like = open_some(config.train.beside(data))
    few = min(_POOL, data.max_eval_examples or _POOL)
    split = "validation" if data is config.eval else "train"
    is_production = data is config.eval and config.tiers == (5,)
    data = data.beside(config.train) if data is config.eval else data
    dataset = open_some(data.model_copy(update={"max_eval_examples": few}), split=split, like=like, lenient=is_production)
    return [dataset[number] for number in range(len(dataset))] if isinstance(dataset, Rows) else list(dataset)


def _stamp(config: SuiteConfig, data: EvalConfig | None) -> object:
    """Changes when the file does."""
    code = (data.dataset or data.datamodule or "").rpartition(":")[0] if data else ""
    named = data.path or (code if code.endswith(".py") else "") if data else ""
    path = config.resolve(named) if named else Path()
    return (path, path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else path


def _deal(pool: Sequence[Example], task: TaskSpec, sizes: Sizes, seed: int) -> Batch:
    """Rows in random order; drawn values for what they lack, and for fields of another shape than is asked for."""
    batch = make_batch(task, sizes, seed)
    turn = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist()
    if not task.is_text:
        rows = [pool[number] for number in turn]
        return task.signature.relabelled(_deal_fields(rows, task.signature, sizes.by_axis(task), batch))
    rows = [_row(pool, turn[place % len(turn) :] + turn[: place % len(turn)], task, sizes) for place in range(sizes.batch)]
    for name, drawn in batch.items():
        real = [row[name] for row in rows if name in row]
        if len(real) == len(rows) and all(tensor.shape == drawn.shape[1:] for tensor in real):
            batch[name] = torch.stack(real).to(drawn.dtype)
    return batch


def _deal_fields(rows: Sequence[Example], signature: Signature, sizes: Mapping[str, int], drawn: Batch) -> Batch:
    """A drawn batch, with real values in place of drawn ones wherever the rows have them.

    Rows are repeated or cut along axes that are asked for in another size. Positions, lengths and masks speak of sizes, and stay as drawn.
    """
    whole, batch = signature.complete(sizes), dict(drawn)
    fields = [*input_fields(signature), *label_fields(signature)]
    chosen = list(islice(cycle(rows), whole.get(BATCH, 1)))
    lengths = [_real_lengths(row, fields) for row in chosen]
    for field in fields:
        if field.name not in batch or field.values.axis or any(field.name not in row for row in chosen):
            continue
        fitted = [_fitted(row[field.name], field, whole, real) for row, real in zip(chosen, lengths, strict=True)]
        made = torch.stack(fitted) if field.has_rows else fitted[0]
        if made.shape == batch[field.name].shape:
            batch[field.name] = made.to(batch[field.name].dtype)
    return batch


def _real_lengths(row: Example, fields: Iterable[Field]) -> dict[str, int]:
    """How many elements along an axis are real, where the row says so."""
    found: dict[str, int] = {}
    for field in fields:
        if field.name in row and isinstance(field.values, LengthsOf):
            found[field.values.axis] = int(row[field.name])
        elif field.name in row and isinstance(field.values, MaskOf):
            found[field.values.axis] = int((row[field.name].bool() ^ field.values.inverted).sum())
    return found


def _fitted(value: Tensor, field: Field, sizes: Mapping[str, int], real: Mapping[str, int]) -> Tensor:
    """A value of a row, repeated or cut to the sizes of its axes; what is padding along one is left out."""
    for place, axis in enumerate(field.row_axes):
        there = value.shape[place]
        if isinstance(axis, str) and axis in sizes and there:
            value = value.index_select(place, torch.arange(sizes[axis]) % max(1, min(there, real.get(axis, there))))
    return value


def _row(pool: Sequence[Example], order: Sequence[int], task: TaskSpec, sizes: Sizes) -> Example:
    """A row; a text is lengthened by the ones after it, of the same class where it has one, until no position is padding."""
    row = pool[order[0]]
    alike = [pool[number] for number in order]
    if "labels" in row and not row["labels"].ndim:
        alike = [other for other in alike if torch.equal(other["labels"], row["labels"])]
    lengths = {"input_ids": sizes.seq, "decoder_input_ids": sizes.target_seq}
    lengths["labels"] = sizes.target_seq if task.is_seq2seq else sizes.seq
    long = {
        name: _joined((other[name] for other in cycle(alike)), length)
        for name, length in lengths.items()
        if row.get(name, torch.tensor(0)).ndim
    }
    return {**row, **long}


def _joined(parts: Iterator[Tensor], length: int) -> Tensor:
    """The parts one after the other, as many as fill ``length`` tokens."""
    found = list[Tensor]()
    while sum(map(len, found)) < length:
        found += islice(parts, 1)
    return torch.cat(found)[:length]
