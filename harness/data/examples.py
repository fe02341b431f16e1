"""Real examples from a file, dealt out as batches for the properties."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.batches import Batch, Sizes, make_batch
from harness.config import SuiteConfig
from harness.errors import DataError
from harness.tasks import TaskSpec

Maker = Callable[[TaskSpec, Sizes, int], Batch]
"""From a task, sizes and a seed to a batch."""


def example_maker(config: SuiteConfig) -> Maker:
    """A maker of batches: real rows where the config names a file of them, drawn ones otherwise.

    Raises:
        DataError: The file is missing, unreadable, or does not fit the task.
    """
    data = config.eval or config.train
    if data is None or data.path is None:
        return make_batch
    path = config.resolve(data.path)
    table = read_npz(path)
    _check(table, config.task_spec(), path)
    return lambda task, sizes, seed: _deal(table, task, sizes, seed)


@lru_cache(maxsize=8)
def read_npz(path: Path) -> dict[str, Tensor]:
    """Reads an ``.npz`` file with an array for each of the task's fields and for ``labels``; the first axis counts rows.

    Raises:
        DataError: The file is missing or unreadable.
    """
    if path.suffix != ".npz":
        raise DataError(f"`path`: {path.name}: this version reads .npz files with an array for each field")
    if not path.is_file():
        raise DataError(f"`path`: no such file {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            table = {name: torch.from_numpy(np.ascontiguousarray(archive[name])) for name in archive.files}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"`path`: {path} cannot be read: {error}") from None
    return {name: tensor.float() if name in ("pixel_values", "features") else tensor for name, tensor in table.items()}


def _check(table: dict[str, Tensor], task: TaskSpec, path: Path) -> None:
    field = task.facts.inputs[0]
    missing = [name for name in (field, "labels") if name not in table]
    if missing:
        raise DataError(f"`path`: {path.name} has arrays {sorted(table)}, but no `{missing[0]}`")
    rows = {name: len(tensor) for name, tensor in table.items()}
    if len(set(rows.values())) != 1 or not table[field].shape[0]:
        raise DataError(f"`path`: {path.name}: every array needs the same number of rows, at least one; got {rows}")
    expected = {"pixel_values": task.image_size, "features": (task.num_features,)}.get(field)
    if expected is not None and tuple(table[field].shape[1:]) != tuple(expected):
        raise DataError(
            f"`path`: {path.name}: `{field}` has rows of shape {tuple(table[field].shape[1:])}, the task says {tuple(expected)}"
        )
    if not bool(torch.isfinite(table[field].float()).all()):
        raise DataError(f"`path`: {path.name}: `{field}` holds NaN or infinity")
    if task.num_classes is not None and not task.is_text:
        labels = table["labels"]
        if labels.is_floating_point() or int(labels.min()) < 0 or int(labels.max()) >= task.num_classes:
            raise DataError(f"`path`: {path.name}: `labels` must be integers from 0 to {task.num_classes - 1}")


def _deal(table: dict[str, Tensor], task: TaskSpec, sizes: Sizes, seed: int) -> Batch:
    """Rows of the table where their shape is the one asked for, and drawn values for what the table lacks."""
    batch = make_batch(task, sizes, seed)
    rng = torch.Generator().manual_seed(seed)
    index = torch.randint(len(table["labels"]), (sizes.batch,), generator=rng)
    for name, drawn in batch.items():
        if name not in table:
            continue
        real = table[name][index]
        if name in ("input_ids", "decoder_input_ids") and real.shape[1] >= drawn.shape[1]:
            real = real[:, : drawn.shape[1]]
        if real.shape == drawn.shape:
            batch[name] = real.to(drawn.dtype)
    return batch
