"""ONNX files: read, checked, inspected, run, changed, and computed in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from harness.batches import Batch
from harness.export import runtime_message
from harness.export.formats import ExportError, Inspection
from harness.export.program import Outputs, Program, Runner, module_path

_SILENT = 4
"""ONNX Runtime's log level for only fatal errors."""

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
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        where = "the model" if isinstance(model, bytes) else Path(model).name
        raise ExportError(f"ONNX Runtime does not take {where}: {runtime_message(error)}") from error


def runner(opened: ort.InferenceSession) -> Runner:
    """A session as a function from a batch to its outputs by name."""
    inputs = {value.name: _DTYPES.get(value.type) for value in opened.get_inputs()}
    outputs = [value.name for value in opened.get_outputs()]

    def run(batch: Batch) -> Outputs:
        feed = {
            name: np.ascontiguousarray(batch[name].detach().cpu().numpy()).astype(dtype or batch[name].numpy().dtype, copy=False)
            for name, dtype in inputs.items()
            if name in batch
        }
        missing = inputs.keys() - feed.keys()
        if missing:
            raise ExportError(f"the file asks for {', '.join(sorted(missing))}, which is not a field of the model")
        try:
            found = opened.run(outputs, feed)
            return {name: torch.from_numpy(np.asarray(array)) for name, array in zip(outputs, found, strict=True)}
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
        raise ExportError(
            f"{path.name} is not an ONNX file: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        ) from error
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


def operators(path: Path) -> set[str]:
    """The kinds of operators in a file."""
    return {node.op_type for node in walk(read(path).graph)}


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


_STACK_TRACE = "pkg.torch.onnx.stack_trace"


def tidy(path: Path, symbols: dict[str, str], ports: Mapping[str, str]) -> None:
    """Gives free axes their names, such as ``batch`` for ``s77``, and leaves out the stack traces, which show paths and code of the maker.

    Args:
        path: The file; changed in place.
        symbols: Names of the axes by their symbols.
        ports: Names of inputs and outputs by those that they have so far, where that is another; values inside that have them give way.
    """
    model = onnx.load(path, load_external_data=False)
    if ports:
        _rename(model.graph, {**{name: f"{name}__value" for name in ports.values()}, **ports})
    for node in walk(model.graph):
        kept = [entry for entry in node.metadata_props if entry.key != _STACK_TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = symbols[dim.dim_param]
    onnx.save(model, path)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Gives values other names, in branches and loops too."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for side in (node.input, node.output):
            for place, name in enumerate(side):
                side[place] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    _rename(inner, names)


def refuse_negative_ids(path: Path, fields: Sequence[str], refused: int) -> None:
    """Makes a file fail on negative token ids, as PyTorch does.

    ONNX counts a negative index from the end, so a corrupted id would silently give the logits of another token. Negative ids are
    mapped to one beyond every table, on which the lookup raises.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for number, name in enumerate(field for field in fields if field in types):
        dtype = helper.tensor_dtype_to_np_dtype(types[name])
        zero, large, negative, checked = (f"{name}_{part}" for part in ("zero", "refused", "is_negative", "checked"))
        for node in graph.node:
            for index, used in enumerate(node.input):
                if used == name:
                    node.input[index] = checked
        graph.initializer.extend(
            [numpy_helper.from_array(np.array(0, dtype), zero), numpy_helper.from_array(np.array(refused, dtype), large)]
        )
        graph.node.insert(2 * number, helper.make_node("Less", [name, zero], [negative], name=f"node_{negative}"))
        graph.node.insert(2 * number + 1, helper.make_node("Where", [negative, large, name], [checked], name=f"node_{checked}"))
    onnx.save(model, path)


_NEEDS_FLOAT = {("Resize", 1), ("Resize", 2)}
"""Inputs that the standard wants in float32 whatever the data is: operator and position."""


def run_in_float64(path: Path, batch: Batch) -> Outputs:
    """The outputs of a file whose float32 tensors were all widened.

    ONNX Runtime has float64 kernels for most operators; where one is missing, the reference evaluator takes over.

    Raises:
        ExportError: Neither can run it.
    """
    model = widened(read(path))
    doubled = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
    try:
        found: Outputs = runner(session(model.SerializeToString(), optimised=False))(doubled)
        return found
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


def _run_by_reference(model: onnx.ModelProto, batch: Batch) -> Outputs:
    names = [value.name for value in model.graph.input]
    try:
        found: Any = ReferenceEvaluator(model).run(None, {name: batch[name].numpy() for name in names})
    except Exception as error:  # operators raise what they like
        raise ExportError(f"cannot be computed in float64: {type(error).__name__}") from error
    outputs = (value.name for value in model.graph.output)
    return {name: torch.from_numpy(np.asarray(array)) for name, array in zip(outputs, found, strict=True)}


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
        problems.append(f"asks for {', '.join(strange)}, which is not a field of the model")
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
    """Whether a stored tensor holds NaN or infinity; only infinity, or infinity and zeros, is how a mask says "never"."""
    values = numpy_helper.to_array(tensor)
    if not np.issubdtype(values.dtype, np.floating):
        return False
    finite = values[np.isfinite(values)]
    return bool(np.isnan(values).any() or (np.isinf(values).any() and finite.any()))
