"""OpenVINO's own format: the graph in ``model.xml``, its weights in ``model.bin`` beside it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.export.formats import Attempt, Exported, Exporter, ExportError, Inspection, check_shapes
from harness.export.formats.onnx import ONNXExporter

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harness.batches import Batch
    from harness.export.formats import Run
    from harness.export.program import Program, Runner

_DTYPES = {
    "boolean": "bool",
    "i32": "int32",
    "i64": "int64",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
}
"""OpenVINO's types of inputs, with torch's names for them; NumPy has no bfloat16."""

_NOT_COUNTED = ("Parameter", "Constant", "Result")
_RANDOM = ("RandomUniform", "Multinomial")
_SHOWN = 3


def load_openvino(path: str, inputs: dict[str, str], threads: int = 0) -> Run:
    """An OpenVINO model on the CPU, as a function from named arrays to its outputs."""
    import openvino

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    names = [port.any_name for port in compiled.inputs]
    unknown = [name for name in names if name not in inputs]
    if unknown:
        raise ValueError(f"it takes {', '.join(unknown)}, the model takes {', '.join(inputs)}")
    call = compiled.create_infer_request()

    def run(arrays: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        # Not a plain call: on a single thread that drops errors, and it does not hold arrays to the limits of the axes.
        call.start_async({name: openvino.Tensor(arrays[name]) for name in names})
        call.wait()
        return {port.any_name: call.get_output_tensor(n).data.copy() for n, port in enumerate(compiled.outputs)}

    return run


class OpenVINOExporter(Exporter):
    """OpenVINO on the CPU, which computes in float32; weights keep their type, inputs and logits in bfloat16 become float32."""

    name = "openvino"
    filename = "model.xml"
    packages = ("openvino",)
    extra = "openvino"
    runs_with = ("openvino",)
    accepts_any_id = True
    may_crash = True
    standalone = (load_openvino,)

    def export(self, program: Program, path: Path) -> Exported:
        """Converts the graph of ``torch.export``, or the ONNX file where OpenVINO does not take the graph."""
        import openvino

        from harness.export.formats.exported_program import quiet

        failed: list[Attempt] = []
        for way, convert in (("graph of torch.export", _from_graph), ("ONNX", _from_onnx)):
            try:
                with quiet():
                    model, exported = convert(program)
                    _declare(model, program, exported)
                    openvino.save_model(_in_numpys_types(model), path, compress_to_fp16=False)
                    check_shapes(program, self.load(path, program)(program.example))  # some graphs convert and cannot be run
            except Exception as error:
                failed.append(Attempt(way, _message(error)))
                continue
            return replace(exported, attempts=(*failed, *exported.attempts))
        raise ExportError("; ".join(f"{attempt.way}: {attempt.error}" for attempt in failed))

    def inspect(self, path: Path, program: Program) -> Inspection:
        """Counts the operators, looks for NaN among the weights, and holds the inputs against the model's fields."""
        model = _read(path)
        operators = model.get_ops()
        counts = Counter(kind for operator in operators if (kind := operator.get_type_name()) not in _NOT_COUNTED)
        facts = {
            "operators": dict(counts.most_common()),
            "nodes": counts.total(),
            "inputs": {_name_of(port): str(port.partial_shape) for port in model.inputs},
            "outputs": {_name_of(port): str(port.partial_shape) for port in model.outputs},
            "file_bytes": sum(file.stat().st_size for file in (path, path.with_suffix(".bin")) if file.is_file()),
        }
        random = [operator for operator in operators if operator.get_type_name() in _RANDOM]
        training = tuple(f"{operator.get_type_name()} (node {operator.get_friendly_name()})" for operator in random)
        return Inspection(facts, _problems(model, program), training)

    def load(self, path: Path, program: Program) -> Runner:
        """Compiles the file for the CPU, with as many threads as torch has."""
        return _Loaded(path)


class _Loaded:
    """A file on the CPU, as a function from a batch to its outputs.

    Raises:
        ExportError: OpenVINO does not take it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._compile()

    def _compile(self) -> None:
        import openvino
        import torch

        model = _read(self.path)
        types = {_name_of(port): port.element_type.get_type_name() for port in model.inputs}
        strange = {*types.values(), *(port.element_type.get_type_name() for port in model.outputs)} - _DTYPES.keys()
        if strange:
            raise ExportError(f"{self.path.name} takes or gives {', '.join(sorted(strange))}, which NumPy has not")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
        try:
            self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:
            raise ExportError(f"OpenVINO does not take {self.path.name}: {_reason(error)}") from error
        self._outputs = [_name_of(port) for port in model.outputs]
        self._inputs = {name: getattr(torch, _DTYPES[kind]) for name, kind in types.items()}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The outputs by name.

        Three things of the CPU plugin (2026.4) are worked around. A synchronous call on a single thread drops errors of the graph and
        returns the logits of the call before. Only a ``Tensor``, not an array, is held to the limits of the axes. And after an error
        inside the graph a compiled model may give the same error at every call.

        Raises:
            ExportError: OpenVINO refuses the batch.
        """
        import openvino
        import torch

        missing = self._inputs.keys() - batch.keys()
        if missing:
            raise ExportError(f"the file asks for {', '.join(sorted(missing))}, which is not a field of the model")
        arrays = {name: batch[name].detach().cpu().to(dtype).contiguous().numpy() for name, dtype in self._inputs.items()}
        try:
            self._request.start_async({name: openvino.Tensor(array) for name, array in arrays.items()})
        except Exception as error:
            raise ExportError(f"OpenVINO refuses it: {_reason(error)}") from error
        try:
            self._request.wait()
            found = {name: self._request.get_output_tensor(place).data.copy() for place, name in enumerate(self._outputs)}
            return {name: torch.from_numpy(array) for name, array in found.items()}
        except Exception as error:
            self._compile()
            raise ExportError(f"OpenVINO raised {_reason(error)}") from error


def _from_graph(program: Program) -> tuple[Any, Exported]:
    import openvino

    from harness.export.formats.exported_program import capture

    captured = capture(program)
    model = openvino.convert_model(captured.program)
    fields = dict(zip(captured.program.graph_signature.user_inputs, program.fields, strict=True))
    for port in model.inputs:
        _name(port, fields[port.any_name])
    attempts = (*captured.attempts, Attempt("graph of torch.export"))
    return model, Exported(attempts, captured.limits, captured.static, {"guards": captured.guards})


def _from_onnx(program: Program) -> tuple[Any, Exported]:
    import openvino

    with TemporaryDirectory(prefix="modeltiers-openvino-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / ONNXExporter.filename
        exported = ONNXExporter().export(program, path)
        static = {**ONNXExporter().static_axes(path, program), **exported.static}
        attempts = (*exported.attempts, Attempt(f"{exported.attempts[-1].way}, by way of ONNX"))
        # The guard on negative ids is one of ONNX's lookup; OpenVINO's takes any id.
        notes = {key: value for key, value in exported.notes.items() if key != "refuses_negative"}
        return openvino.convert_model(str(path)), Exported(attempts, exported.limits, static, notes)


def _declare(model: Any, program: Program, exported: Exported) -> None:
    """Gives inputs and outputs their names, and every axis its size or limits.

    OpenVINO's conversion leaves axes open that the model fixes; an axis with limits is held to them at every call.
    """
    import openvino

    shapes: dict[Any, Any] = {}
    for port in model.inputs:
        field = port.any_name
        dimensions = []
        for position, size in enumerate(program.example[field].shape):
            axis = program.axes[field].get(position)
            if axis is None or axis in exported.static:
                dimensions.append(openvino.Dimension(size))
            else:
                low, high = exported.limits.get(axis, program.limits[axis])
                dimensions.append(openvino.Dimension(low, -1 if high is None else high))
        shapes[port] = openvino.PartialShape(dimensions)
    model.reshape(shapes)
    for port, name in zip(model.outputs, program.outputs, strict=True):
        _name(port, name)


def _name(port: Any, name: str) -> None:
    port.get_tensor().set_names({name})
    if port.get_node().get_type_name() == "Parameter":
        port.get_node().set_friendly_name(name)


def _name_of(port: Any) -> str:
    """The name of an input or output; a file from elsewhere may give it none but its node's."""
    return min(port.get_names(), default=port.get_node().get_friendly_name())


def _in_numpys_types(model: Any) -> Any:
    """The model with float32 in place of bfloat16 at its inputs and output, so that callers can use NumPy."""
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    for ports, step in ((model.inputs, steps.input), (model.outputs, steps.output)):
        for index, port in enumerate(ports):
            if port.element_type == Type.bf16:
                step(index).tensor().set_element_type(Type.f32)
    return steps.build()


def _read(path: Path) -> Any:
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # a mapped file that is overwritten takes the process down
    try:
        return core.read_model(path)
    except Exception as error:
        raise ExportError(f"{path.name} is not an OpenVINO file that can be read: {_reason(error)}") from error


def _problems(model: Any, program: Program) -> tuple[str, ...]:
    strange = sorted({_name_of(port) for port in model.inputs} - set(program.fields))
    bad = [operator.get_friendly_name() for operator in model.get_ops() if _holds_nan(operator)]
    found = {
        f"asks for {', '.join(strange)}, which is not a field of the model": strange,
        f"weights that hold NaN: {', '.join(bad[:_SHOWN])}": bad,
    }
    return tuple(problem for problem, names in found.items() if names)


def _holds_nan(operator: Any) -> bool:
    """Whether a constant holds NaN; infinity has its place in masks."""
    import torch

    if operator.get_type_name() != "Constant" or operator.get_element_type().get_type_name() not in ("f16", "f32", "f64"):
        return False
    return bool(torch.from_numpy(operator.data.copy()).isnan().any())


def _message(error: Exception) -> str:
    from harness.export import one_line

    if isinstance(error, ExportError):
        return str(error)
    return f"{type(error).__name__}: {_reason(error)}" if "openvino" in type(error).__module__ else one_line(error)


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's message, which says what is wrong; those before say where in its sources."""
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines() if line.strip()]
    return lines[-1][:240] if lines else type(error).__name__
