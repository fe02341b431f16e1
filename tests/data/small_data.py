"""Small tasks, and rows written to files of every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import EvalConfig
from harness.config_values import PRESETS
from harness.data.opening import open_dataset
from harness.tasks import TaskSpec, TaskType

PADDING = 0


def task_of(kind: str, **keys: Any) -> TaskSpec:
    """A task by its type, with sizes that fit what is tested."""
    sizes: dict[str, Any] = {
        "text": {"vocab_size": 300, "max_seq_len": 24, "pad_token_id": PADDING, "num_classes": 3},
        "vision": {"image_size": (3, 8, 8), "num_classes": 3},
        "tabular": {"num_features": 2, "num_classes": 3},
    }[TaskSpec(TaskType(kind)).facts.modality]
    modality = TaskSpec(TaskType(kind)).facts.modality
    return TaskSpec(TaskType(kind), task_name="t", modality=modality, **{**sizes, **keys})


def preset_task(name: str, **keys: Any) -> TaskSpec:
    """A preset's task, as a config would give it."""
    found = {**PRESETS[name], **keys}
    if "image_size" in found:
        found["image_size"] = tuple(found["image_size"])
    return TaskSpec(task_name=name, **{**found, "task_type": TaskType(found["task_type"])})


def opened(path: Path, task: TaskSpec, **keys: Any) -> Any:
    """The dataset of a file; ``memory_limit`` and ``like`` go to ``open_dataset``, the rest are data keys."""
    options = {name: keys.pop(name) for name in ("memory_limit", "like") if name in keys}
    return open_dataset(EvalConfig(path=str(path), **keys), task, **options)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows to a file in the format that its suffix says."""
    WRITERS[path.suffix](path, rows)
    return path


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def _npz(path: Path, rows: list[dict[str, Any]]) -> None:
    np.savez(path, **{name: np.array([row[name] for row in rows]) for name in rows[0]})


WRITERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, ".npz": _npz}


def write_images(folder: Path, classes: dict[str, int], size: tuple[int, int] = (8, 8)) -> Path:
    """An image folder with so many images of each class; an image's grey is its number, its red the class."""
    from PIL import Image

    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, (50 * number, index, 7)).save(folder / name / f"{index}.png")
    return folder
