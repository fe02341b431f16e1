"""NPZ, and PyTorch's own files: an array for each field."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from harness.data import TARGETS, Columns, IndexedReader, Record, flattened
from harness.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.tasks import TaskSpec


@dataclass(frozen=True)
class NpzFile(IndexedReader):
    """NumPy arrays of one length, which are held in memory.

    Attributes:
        is_whole: Whether the arrays are one example, as those of a graph are.
    """

    kind = "NPZ"
    suffixes: ClassVar[tuple[str, ...]] = (".npz",)
    layout = "a NumPy array for each field, as many rows in each"

    is_whole: bool = False

    @classmethod
    def open(cls, path: Path, task: TaskSpec, *, lenient: bool = False) -> NpzFile:
        """The arrays: those of many rows, or of the one example of a task without rows."""
        return cls(path, not task.signature.deals_rows)

    def _read(self) -> dict[str, Tensor]:
        return read_npz(self.path)

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        """A tensor for each field; the first axis counts rows.

        Raises:
            DataError: The file is unreadable, or its arrays differ in length.
        """
        arrays = self._read()
        if self.is_whole:
            return arrays
        rows = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
        if len(set(rows.values())) != 1 or 0 in rows.values():
            raise DataError(f"`path`: {self.name}: every array needs the same number of rows, at least one; got {rows}")
        return arrays

    def __len__(self) -> int:
        """How many rows there are."""
        return 1 if self.is_whole else len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Record:
        """A row."""
        fields = self.arrays if self.is_whole else {name: array[index] for name, array in self.arrays.items()}
        return Record(f"{self.name}, row {index + 1}", fields)

    def columns(self, rows: int) -> Iterator[Columns]:
        """The arrays of one or two axes, some rows at a time."""
        flat = {name: array.numpy() for name, array in self.arrays.items() if array.ndim <= 2}
        for start in range(0, len(self), rows):
            yield {name: array[start : start + rows] for name, array in flat.items()}

    def check(self, task: TaskSpec, *, lenient: bool = False) -> None:
        """Checks images, features and their labels at once, as reading row by row would take long.

        Raises:
            DataError: An array is missing, or does not fit the task.
        """
        name, arrays = self.name, self.arrays
        if task.facts.rows == "fields":
            return  # each row is checked against the signature
        field = task.facts.inputs[0]
        label = next((label for label in TARGETS if label in arrays), None)
        missing = field if field not in arrays else "labels" if label is None and not lenient else None
        if missing:
            raise DataError(f"`path`: {name} has arrays {sorted(arrays)}, but no `{missing}`")
        expected = {"pixel_values": task.image_size, "features": (task.num_features,)}[field]
        shape = tuple(arrays[field].shape[1:])
        if shape != expected:
            raise DataError(f"`path`: {name}: `{field}` has rows of shape {shape}, the task says {expected}")
        broken = (~arrays[field].isfinite().flatten(1).all(1)).nonzero().flatten()
        if len(broken) and not lenient:
            raise DataError(f"`path`: {name}, row {int(broken[0]) + 1}: `{field}` holds NaN or infinity")
        if label is not None:
            _check_labels(f"`path`: {name}", label, arrays[label], task.num_classes)


class PtFile(NpzFile):
    """A dict of tensors of one length, as ``torch.save`` writes it."""

    kind = "PyTorch"
    suffixes = (".pt", ".pth")
    layout = "a dict with a tensor for each field, as many rows in each"

    def _read(self) -> dict[str, Tensor]:
        import torch

        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file, or one that would run code, makes it raise whatever it likes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"`path`: {self.path} cannot be read as a dict of tensors: {reason}") from None
        fields = dict(flattened(found)) if isinstance(found, dict) else {}
        if not fields or not all(isinstance(value, torch.Tensor) for value in fields.values()):
            raise DataError(f"`path`: {self.name} holds a {type(found).__name__}, expected a dict with a tensor for each field")
        return fields


def _check_labels(where: str, name: str, labels: Tensor, classes: int | None) -> None:
    if labels.ndim != 1:
        raise DataError(f"{where}: `{name}` must have one number a row, its shape is {tuple(labels.shape)}")
    if classes is None:
        wrong = ~labels.isfinite()
    elif labels.is_floating_point():
        raise DataError(f"{where}: `{name}` must be integers from 0 to {classes - 1}, got {labels.dtype}")
    else:
        wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        allowed = "finite numbers" if classes is None else f"integers from 0 to {classes - 1}"
        raise DataError(f"{where}, row {row + 1}: `{name}` must be {allowed}, got {labels[row].item()}")


def read_npz(path: Path) -> dict[str, Tensor]:
    """Reads an ``.npz`` file with an array for each of the task's fields and for ``labels``; the first axis counts rows.

    Raises:
        DataError: The file is missing or unreadable.
    """
    if not path.is_file():
        raise DataError(f"`path`: no such file {path}")
    stamp = path.stat()
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int, _size: int) -> dict[str, Tensor]:
    import torch

    try:
        with np.load(path, allow_pickle=False) as archive:
            table = {name: torch.from_numpy(np.ascontiguousarray(archive[name])) for name in archive.files}
    # A header may claim any number of rows: MemoryError.
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        MemoryError,
        OverflowError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"`path`: {path} cannot be read: {error}") from None
    return {name: tensor.float() if name in ("pixel_values", "features") else tensor for name, tensor in table.items()}
