"""Exports of small models in a folder: as they are, written by hand, edited, truncated."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from harness.adapters import make_adapter
from harness.catalogue import CATALOGUE
from harness.config import ExportConfig, load_config
from harness.evidence import Evidence
from harness.export.checks import judge_export
from harness.export.export_model import exports_of_config
from harness.export.exports import Exports
from harness.files import file_hash
from harness.properties.places import located
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.tasks import TaskSpec

from ..setups import Setup, factory_name
from .models import TABLE, TEXT, DataBranch, RowsAtOnce, Scores, language_model

Prepare = Callable[[Path], Exports]
"""Makes exports in an empty folder."""


@dataclass(frozen=True)
class Exported(Setup):
    """A model and its exported files.

    Attributes:
        prepare: Exports the model into an empty folder.
        format: The format that is judged; empty where only the model is.
    """

    prepare: Prepare
    format: str = ""

    @property
    def name(self) -> str:
        model = self.prepare.model if isinstance(self.prepare, FreshExports) else self.prepare
        return "-".join(filter(None, (factory_name(model), self.format)))

    def judge(self, properties: Collection[str], folder: Path) -> dict[str, Evidence]:
        exports = self.prepare(folder)
        return {
            name: self._verdict(name, exports, properties) for name in properties if self.format or not CATALOGUE[name].formats
        }

    def _verdict(self, name: str, exports: Exports, properties: Collection[str]) -> Evidence:
        found = judge_export(name, exports, self.format if CATALOGUE[name].formats else "", properties)
        return located(found.investigated(), exports.subject.model)


def make_exports(model: nn.Module, folder: Path | None, *formats: str, task: TaskSpec | None = None, **options: Any) -> Exports:
    """The exports of a model object."""
    task = task or (TEXT if hasattr(model, "embed") else TABLE)
    config = ExportConfig.model_validate({"formats": list(formats) or ["onnx"], **options})
    return Exports(Subject(model.eval(), make_adapter(task), task), config, folder)


def onnx_by_hand(model: nn.Module, path: Path, *, training: bool = False, **options: Any) -> None:
    """What many projects do: a bare call of the older exporter."""
    fields = ("input_ids", "attention_mask") if hasattr(model, "embed") else ("features",)
    example = {
        "input_ids": torch.arange(1, 21).view(4, 5) % 31,
        "attention_mask": torch.ones(4, 5, dtype=torch.long),
        "features": torch.randn(4, 5),
    }
    model.train(training)
    axes = {name: {0: "batch", 1: "seq"} if name != "features" else {0: "batch"} for name in fields}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(example[name] for name in fields),
            str(path),
            dynamo=False,
            input_names=list(fields),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": axes[fields[0]]},
            training=torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL,
            **options,
        )
    model.eval()


def change_onnx(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def scale_an_initializer(name_part: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(entry for entry in model.graph.initializer if name_part in entry.name)
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name))

    return change


def subtract_instead_of_adding(model: onnx.ModelProto) -> None:
    additions = [node for node in model.graph.node if node.op_type == "Add"]
    additions[len(additions) // 2].op_type = "Sub"


@dataclass(frozen=True)
class FreshExports:
    """Exports of a model built under a seed; see ``of``."""

    model: Callable[[], nn.Module]
    formats: tuple[str, ...]
    options: dict[str, Any]

    def __call__(self, folder: Path) -> Exports:
        with seeded(0):
            built = self.model()
        return make_exports(built, folder, *self.formats, **self.options)


def of(model: Callable[[], nn.Module], *formats: str, **options: Any) -> Prepare:
    """Exports of a model built under a seed, to some formats (to ONNX where none is named)."""
    return FreshExports(model, formats, options)


def by_hand(model: Callable[[], nn.Module], **options: Any) -> Prepare:
    """Exports whose ONNX file was there already, written by a bare call."""

    def prepare(folder: Path) -> Exports:
        with seeded(0):
            built = model()
            onnx_by_hand(built, folder / "model.onnx", **options)
        return make_exports(built, folder, "onnx")

    return prepare


def edited(
    change: Callable[[onnx.ModelProto], None],
    format: str = "onnx",
    model: Callable[[], nn.Module] = language_model,
    **options: Any,
) -> Prepare:
    """Exports whose file was changed afterwards."""

    def prepare(folder: Path) -> Exports:
        exports = of(model, "onnx", **options)(folder)
        path = exports.artifact(format).path
        change_onnx(path, change)
        return of(model, "onnx", **options)(folder)

    return prepare


def traced_by_hand(folder: Path) -> Exports:
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = DataBranch().eval()
        torch.jit.trace(model, torch.randn(3, 5), check_trace=False).save(str(folder / "model.ts"))
    return make_exports(model, folder, "torchscript", trust=[file_hash(folder / "model.ts")])


def truncated(name: str) -> Prepare:
    def prepare(folder: Path) -> Exports:
        exports = of(Scores, name)(folder)
        path = exports.artifact(name).path
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return of(Scores, name, trust=[file_hash(path)])(folder)

    return prepare


def opset_nine(folder: Path) -> Exports:
    with seeded(0):
        model = RowsAtOnce().eval()
        onnx_by_hand(model, folder / "model.onnx", opset_version=9)
    return make_exports(model, folder, "onnx", opset_version=18)


def destroyed_scale(folder: Path) -> Exports:
    prepare = edited(scale_an_initializer("scale", 20.0), "onnx_int8", quantization="dynamic")
    return prepare(folder)


def from_config(code: str) -> Prepare:
    """Exports of a config's model, which a fresh process can rebuild."""

    def prepare(folder: Path) -> Exports:
        (folder / "model.py").write_text(code)
        config = {"task_type": "tabular_classification", "num_features": 5, "num_classes": 3, "model_file": "model.py"}
        (folder / "cfg.json").write_text(json.dumps({**config, "export": {"formats": ["pytorch"]}}))
        return exports_of_config(load_config(folder / "cfg.json"), folder / "files")

    return prepare


KEEPS = """
import torch
from torch import nn

class Model(nn.Linear):
    def __init__(self):
        super().__init__(5, 3)
        self.register_buffer("shift", torch.randn(3))

    def forward(self, features):
        return super().forward(features) + self.shift

build_model = Model
"""
FORGETS = KEEPS.replace('self.register_buffer("shift", torch.randn(3))', "self.shift = torch.tensor(id(self) % 1000 / 100)")


def weights_left_behind(folder: Path) -> Exports:
    """A file that was moved without the file that holds its weights."""
    with seeded(0):
        model = Scores().eval()
        onnx_by_hand(model, folder / "model.onnx")
    content = onnx.load(folder / "model.onnx")
    onnx.save(content, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    return make_exports(model, folder, "onnx", trust=[file_hash(folder / "model.onnx")])
