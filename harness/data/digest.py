"""What tells two sets of examples apart: scores can be compared sample by sample only on one and the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.data.dataset import Dataset

_SHOWN = 12
_PIECE = 1 << 20


def dataset_id(dataset: Dataset) -> str:
    """A name for a dataset's content: its source, its part, the number of rows, and a hash of what the examples are made from.

    The hash is that of the file's bytes, or of the files of a folder, together with the tokenizer, the classes and the sizes that turn
    rows into examples; a built-in set is made from its sizes alone.

    Args:
        dataset: What ``open_dataset`` returned.
    """
    origin = dataset.origin
    content = hashlib.sha256()
    classes = origin.classes.names if origin.classes else ()
    for part in (_sizes(dataset), origin.tokenizer and origin.tokenizer.fingerprint, classes, origin.encoder.columns):
        content.update(f"{part!r}\0".encode())
    for file in _files(origin.path):
        content.update(f"{file.name}\0".encode())
        with file.open("rb") as stream:
            while piece := stream.read(_PIECE):
                content.update(piece)
    return f"{origin.name}:{origin.part}:{len(dataset)}:{content.hexdigest()[:_SHOWN]}"


def _sizes(dataset: Dataset) -> tuple[object, ...]:
    task = dataset.origin.task
    return (
        task.task_type.value,
        task.vocab_size,
        task.max_seq_len,
        task.pad_token_id,
        task.image_size,
        task.num_classes,
        task.num_features,
        *((task.target_vocab_size,) if task.target_vocab_size else ()),
    )


def _files(path: Path | None) -> list[Path]:
    if path is None:
        return []
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
