"""An ONNX file computed in float64, to tell rounding from a real difference: the one vanishes, the other stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from harness.batches import Batch
from harness.export.formats.exporter import ExportError
from harness.export.onnx.file import read, runner, session, walk

_NEEDS_FLOAT = {("Resize", 1), ("Resize", 2)}
"""Inputs that the standard wants in float32 whatever the data is: operator and position."""


def run_in_float64(path: Path, batch: Batch) -> Tensor:
    """The first output of a file whose float32 tensors were all widened.

    ONNX Runtime has float64 kernels for most operators; where one is missing, the reference evaluator takes over.

    Raises:
        ExportError: Neither can run it.
    """
    model = widened(read(path))
    doubled = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
    try:
        return runner(session(model.SerializeToString(), optimised=False))(doubled)
    except (ExportError, ValueError):
        return _run_by_reference(model, doubled)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float64 in place of float32."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    kept = {node.input[at] for node in walk(wide.graph) for op, at in _NEEDS_FLOAT if node.op_type == op and at < len(node.input)}
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in wide.graph.initializer:
        if tensor.name not in kept:
            _widen(tensor)
    for node in walk(wide.graph):
        if not set(node.output) & kept:
            _widen_attributes(node)
    return wide


def _widen_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _widen(attribute.t)
        elif attribute.name == "value_float":
            tensor = numpy_helper.from_array(np.array(attribute.f, np.float64))
            attribute.CopyFrom(AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor))
        elif (attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT) or attribute.name == "stash_type":
            attribute.i = TensorProto.DOUBLE
        for graph in (attribute.g, *attribute.graphs):
            for tensor in graph.initializer:
                _widen(tensor)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _run_by_reference(model: onnx.ModelProto, batch: Batch) -> Tensor:
    names = [value.name for value in model.graph.input]
    try:
        outputs: Any = ReferenceEvaluator(model).run(None, {name: batch[name].numpy() for name in names})
    except Exception as error:  # operators fail in ways of their own
        raise ExportError(f"cannot be computed in float64: {type(error).__name__}") from error
    return torch.from_numpy(np.asarray(outputs[0]))
