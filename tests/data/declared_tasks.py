"""Declared tasks of several kinds, for tests of their data."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

from harness.config import EvalConfig
from harness.data.opening import open_dataset
from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature

Keys = dict[str, Any]

SEGMENTATION: Keys = {
    "inputs": {"image": {"axes": ["batch", 3, "height", "width"]}},
    "outputs": {"mask": {"axes": ["batch", 4, "height", "width"], "kind": "class_scores", "classes": 1}},
    "axes": {"height": {"min": 8, "max": 32, "multiple_of": 8}, "width": {"min": 8, "max": 32, "multiple_of": 8}},
}
POLICY: Keys = {
    "inputs": {"observation": {"axes": ["batch", 5]}},
    "outputs": {"actions": {"axes": ["batch", 3], "kind": "class_scores"}, "value": {"axes": ["batch"]}},
}
CLICK: Keys = {
    "inputs": {"item.ids": {"axes": ["batch", 2], "values": {"ids": [20, 6]}}, "item.price": {"axes": ["batch"]}},
    "outputs": {"click": {"axes": ["batch"], "kind": "binary_scores"}},
}
SPEECH: Keys = {
    "inputs": {
        "audio": {"axes": ["batch", "time", 6]},
        "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    "outputs": {"symbols": {"axes": ["frames", "batch", 7], "kind": "ctc_scores"}},
    "axes": {"time": {"min": 7, "max": 40, "padding": "right"}, "frames": {"from": "(time - 3) // 2 + 1"}},
}
GRAPH: Keys = {
    "inputs": {"x": {"axes": ["nodes", 5]}, "edges": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
    "outputs": {"scores": {"axes": ["nodes", 4], "kind": "class_scores"}},
    "axes": {"nodes": {"min": 3, "max": 10, "order": "none"}, "edges": {"min": 2, "max": 12}},
}
TIME_FIRST: Keys = {
    "inputs": {"signal": {"axes": ["time", "batch", 2]}},
    "outputs": {"forecast": {"axes": ["time", "batch"]}},
    "axes": {"time": {"min": 2, "max": 9}},
}


def task_of(keys: Keys) -> TaskSpec:
    """The task that keys declare."""
    return TaskSpec(TaskType.DECLARED, declared=read_signature(keys))


def written(folder: Path, *parts: str) -> Path:
    """A folder with ``data.py``, which has ``torch`` and holds some code."""
    (folder / "data.py").write_text("import torch\n" + "".join(map(dedent, parts)), encoding="utf-8")
    return folder


def opened(folder: Path, task: TaskSpec, name: str = "rows", default: str = "train", **keys: Any) -> Any:
    """The dataset that a function of ``data.py`` returns; ``lenient`` goes to ``open_dataset``, the rest are data keys."""
    lenient = keys.pop("lenient", False)
    return open_dataset(EvalConfig(dataset=f"data.py:{name}", **keys), task, folder, default, lenient=lenient)
