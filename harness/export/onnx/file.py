"""ONNX files: read, checked, run, and looked into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from harness.batches import Batch
from harness.export.formats.exporter import ExportError
from harness.export.program import Runner
from harness.export.reason import runtime_message

_SILENT = 4
"""ONNX Runtime's log level for fatal errors alone."""

_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int32)": np.int32}


def session(model: Path | bytes, optimised: bool = True) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, with as many threads as torch has.

    Raises:
        ExportError: It is no ONNX file that ONNX Runtime takes.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        where = "the model" if isinstance(model, bytes) else Path(model).name
        raise ExportError(f"ONNX Runtime does not take {where}: {runtime_message(error)}") from error


def runner(opened: ort.InferenceSession) -> Runner:
    """A session as a function from a batch to its first output."""
    inputs = {value.name: _DTYPES.get(value.type) for value in opened.get_inputs()}
    output = opened.get_outputs()[0].name

    def run(batch: Batch) -> Tensor:
        feed = {
            name: np.ascontiguousarray(batch[name].detach().cpu().numpy()).astype(dtype or batch[name].numpy().dtype, copy=False)
            for name, dtype in inputs.items()
            if name in batch
        }
        missing = inputs.keys() - feed.keys()
        if missing:
            raise ExportError(f"the file asks for {', '.join(sorted(missing))}, which is no field of the model")
        try:
            return torch.from_numpy(opened.run([output], feed)[0])
        except Exception as error:
            raise ExportError(f"ONNX Runtime raised {runtime_message(error)}") from error

    return run


def read(path: Path) -> onnx.ModelProto:
    """Reads a file that keeps its weights inside, or beside it in the same folder.

    Raises:
        ExportError: It is damaged, or its weights lie elsewhere.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise ExportError(f"{path.name} is no ONNX file: {type(error).__name__}: {str(error).splitlines()[0][:120]}") from error
    for name in external_files(model):
        if Path(name).name != name or name in (".", ".."):
            raise ExportError(f"{path.name} keeps weights in {name!r}, outside its own folder: refused")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise ExportError(f"{path.name}: its weights cannot be read: {str(error).splitlines()[0][:160]}") from error
    return model


def external_files(model: onnx.ModelProto) -> set[str]:
    """Names of the files that hold a model's weights; empty where all are inside."""
    return {
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def names_of_weight_files(path: Path) -> set[str]:
    """Names of the files that hold a file's weights; none where it cannot be read, which loading it will say."""
    try:
        return external_files(onnx.load(path, load_external_data=False))
    except Exception:
        return set()


def walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from walk(inner)


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    """The axes of an input or output: a name where it is free, a size where it is fixed."""
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _tensors(inner)
