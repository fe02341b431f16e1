"""What an ONNX file says of itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from harness.export.formats.exporter import Inspection
from harness.export.onnx.file import dimensions, external_files, opset, read, walk
from harness.export.program import Program, module_path

_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_SHOWN = 3


def inspect_onnx(path: Path, program: Program, asked_opset: int | None) -> Inspection:
    """Runs the checker, counts the operators, and holds opset, inputs and axes against what was asked for."""
    model = read(path)
    problems: list[str] = []
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker's and the shape inference's errors share no base class
        problems.append(f"onnx.checker: {str(error).strip().splitlines()[0][:200]}")
    if asked_opset is not None and opset(model) != asked_opset:
        problems.append(f"has opset {opset(model)}, asked for {asked_opset}")
    weights = {entry.name for entry in model.graph.initializer}
    inputs = {value.name: dimensions(value) for value in model.graph.input if value.name not in weights}
    strange = sorted(inputs.keys() - set(program.fields))
    if strange:
        problems.append(f"asks for {', '.join(strange)}, which is no field of the model")
    bad = [entry.name for entry in model.graph.initializer if _is_broken(entry)]
    if bad:
        problems.append(f"weights that hold NaN or infinity: {', '.join(bad[:_SHOWN])}")
    nodes = list(walk(model.graph))
    facts = {
        "opset": opset(model),
        "ir_version": model.ir_version,
        "operators": dict(Counter(node.op_type for node in nodes).most_common()),
        "nodes": len(nodes),
        "inputs": inputs,
        "outputs": {value.name: dimensions(value) for value in model.graph.output},
        "file_bytes": path.stat().st_size,
        "external_data": sorted(external_files(model)),
    }
    return Inspection(facts, tuple(problems), tuple(_training(model, nodes)))


def static_axes(path: Path, program: Program) -> dict[str, str]:
    """Axes that were to stay free and have a number in the file."""
    inputs = {value.name: dimensions(value) for value in onnx.load(path, load_external_data=False).graph.input}
    return {
        axis: f"{axis} is always {inputs[name][position]}"
        for name, axes in program.axes.items()
        for position, axis in axes.items()
        if name in inputs and position < len(inputs[name]) and isinstance(inputs[name][position], int)
    }


def _training(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> list[str]:
    """Operators of training: an active Dropout, a norm over the batch, random numbers."""
    constants = {entry.name: entry for entry in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in nodes
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    found = []
    for node in nodes:
        flag = node.input[2] if node.op_type == "Dropout" and len(node.input) > 2 else ""
        active = flag in constants and bool(numpy_helper.to_array(constants[flag]).any())
        norm = node.op_type == "BatchNormalization" and any(a.name == "training_mode" and a.i for a in node.attribute)
        if active or norm or node.op_type in _RANDOM:
            found.append(f"{node.op_type}{_module_of(node)}")
    return found


def _module_of(node: onnx.NodeProto) -> str:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
    names = [part.strip(" '\"[]") for part in scopes.split(",")]
    return f" in `{module_path(names[-2])}`" if len(names) > 1 else f" (node {node.name})"


def _is_broken(tensor: onnx.TensorProto) -> bool:
    """Whether a stored tensor holds NaN or infinity; infinity alone, or beside zeros, is how a mask says "never"."""
    values = numpy_helper.to_array(tensor)
    if not np.issubdtype(values.dtype, np.floating):
        return False
    finite = values[np.isfinite(values)]
    return bool(np.isnan(values).any() or (np.isinf(values).any() and finite.any()))
