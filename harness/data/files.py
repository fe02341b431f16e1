"""From the ``path`` of a config to the rows it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.data.arrays import array_table
from harness.data.image_folder import image_folder
from harness.data.parquet_file import ParquetTable
from harness.data.record import Source
from harness.data.splits import Split, split_of_folder
from harness.data.text_files import CsvTable, JsonLines, PlainText
from harness.errors import DataError, did_you_mean
from harness.tasks import TaskSpec, TaskType

READERS: dict[str, Callable[[Path], Source]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".csv": CsvTable,
    ".tsv": CsvTable,
    ".parquet": ParquetTable,
    ".npz": array_table,
    ".txt": PlainText,
    ".text": PlainText,
}
"""What reads a file, by its suffix."""


def locate(path: Path, split: Split) -> Path:
    """The file, or the folder of images, that holds a split.

    Args:
        path: A file; or a folder with one for each split, or with images.
        split: Which split.

    Raises:
        DataError: There is no such file, or none for the split.
    """
    if path.is_dir():
        return split_of_folder(path, split, tuple(READERS))
    if not path.exists():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"`path`: no such file {path}.{did_you_mean(path.name, near)}")
    return path


def file_source(path: Path, task: TaskSpec, *, lenient: bool = False) -> Source:
    """The rows of a file or of a folder of images.

    Args:
        path: The file or folder.
        task: What the rows are for.
        lenient: Whether they are production data, which need not hold every class.

    Raises:
        DataError: It is of no kind that is read, or of one that does not fit the task.
    """
    vision = task.task_type is TaskType.IMAGE_CLASSIFICATION
    if path.is_dir():
        if not vision or task.image_size is None:
            raise DataError(f"`path`: {path} is a folder of images, the task is {task.task_type.value}")
        return image_folder(path, task.image_size, lenient=lenient)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        near = did_you_mean(path.suffix, READERS)
        raise DataError(
            f"`path`: {path.name}: no reader for {path.suffix or 'a file without a suffix'!r}.{near} Read are {', '.join(READERS)}"
        )
    if reader is PlainText and task.task_type not in (TaskType.CAUSAL_LM, TaskType.MASKED_LM):
        raise DataError(f"`path`: {path.name}: plain text has no labels for {task.task_type.value}; give JSONL, CSV or Parquet")
    return reader(path)
