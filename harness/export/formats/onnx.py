"""ONNX: through ``torch.export`` first, through the older tracing exporter where that does not work; and its 8-bit copy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.export.formats import Attempt, Exported, Exporter, ExportError, Inspection, Port, TritonBackend
from harness.tasks import TaskSpec

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter
    from harness.batches import Batch
    from harness.config import ExportConfig
    from harness.export.blame import Blame
    from harness.export.formats import QuantisationQuality, Run, WrongFile
    from harness.export.formats.exported_program import Captured
    from harness.export.onnx.quantisation import Kind
    from harness.export.program import Outputs, Program, Runner

_INLINE_BYTES = 1_500_000_000
"""Weights up to this size stay inside the file; protobuf ends at 2 GB."""

_REFUSED_ID = 2**31 - 1
"""Stands for a negative token id: no table is that long, so a lookup fails as it does in PyTorch."""

_DEFAULT_OPSET = 20
_RECURRENT = {"GRU", "LSTM", "RNN"}

_LAST_RESORT = "TorchScript-based exporter"
"""It traces, and so freezes every decision."""


def load_onnx(path: str, inputs: dict[str, str], threads: int = 0) -> Run:
    """An ONNX Runtime session on the CPU, as a function from named arrays to its outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [declared.name for declared in session.get_inputs()]
    unknown = [name for name in names if name not in inputs]
    if unknown:
        raise ValueError(f"it takes {', '.join(unknown)}, the model takes {', '.join(inputs)}")

    def run(arrays: dict[str, Any]) -> dict[str, Any]:
        outputs = [declared.name for declared in session.get_outputs()]
        return dict(zip(outputs, session.run(outputs, {name: arrays[name] for name in names})))  # noqa: B905

    return run


class ONNXExporter(Exporter):
    """ONNX for ONNX Runtime and everything else that reads it.

    Args:
        opset_version: Version of the operators; by default one that current runtimes share.
        optimize: Whether constants are folded and patterns simplified.
        validate: Whether the file goes through ``onnx.checker`` before it counts.
    """

    name = "onnx"
    filename = "model.onnx"
    packages = ("onnx", "onnxruntime", "onnxscript")
    runs_with = ("onnxruntime",)
    by_default = True
    tolerance = 1e-4
    last_resort = _LAST_RESORT
    may_crash = True
    standalone = (load_onnx,)
    triton = TritonBackend("onnxruntime", "onnxruntime_onnx", "model.onnx")
    mlflow_flavour = "onnx"

    def __init__(self, opset_version: int | None = None, optimize: bool = True, validate: bool = True) -> None:
        self.opset_version = opset_version
        self.optimize = optimize
        self.validate = validate

    @classmethod
    def from_options(cls, options: ExportConfig) -> ONNXExporter:
        """The exporter with the opset of a config."""
        return cls(options.opset_version)

    @property
    def settings(self) -> tuple[Any, ...]:
        """The opset that was asked for."""
        return (self.opset_version,)

    def export(self, program: Program | nn.Module, *arguments: Path | str | TaskSpec | Adapter | None) -> Exported:
        """Writes the file by the first way that gives what was asked for.

        A model is taken as well: ``ONNXExporter(16, True, True).export(model, task_spec, "model.onnx")``.

        Args:
            program: What is exported: a program, or a model, which is left as it is.
            arguments: The path of the file; for a model its task too, and an adapter where it is not the task's own. They are told by what
                they are, so their order is free.

        Raises:
            ExportError: No way worked; the message has the reason of each. Or there is no path, or no task for a model.
        """
        from torch import nn

        paths = [Path(value) for value in arguments if isinstance(value, (str, Path))]
        tasks = [value for value in arguments if isinstance(value, TaskSpec)]
        if len(paths) != 1 or (isinstance(program, nn.Module) and len(tasks) != 1):
            raise ExportError("export() takes a model, its TaskSpec and the path of the file to write")
        if isinstance(program, nn.Module):
            program = _program_of(program, tasks[0], next((value for value in arguments if hasattr(value, "logits")), None))
            paths[0].parent.mkdir(parents=True, exist_ok=True)
        return self._export(program, paths[0])

    def _export(self, program: Program, path: Path) -> Exported:
        from harness.export import one_line
        from harness.export.clean_process import try_other_sizes
        from harness.export.formats.exported_program import capture, failures
        from harness.export.onnx import operators

        attempts: list[Attempt] = []
        captured: Captured | None = None
        frozen: list[str] = []
        try:
            captured = capture(program)
        except ExportError as error:
            attempts.append(Attempt("torch.export", str(error).removeprefix("torch.export: ")))
        ways: list[tuple[str, Callable[[], None]]] = [
            (_LAST_RESORT, lambda: frozen.extend(self._from_trace(program, path))),
            (f"{_LAST_RESORT}, without constant folding", lambda: frozen.extend(self._from_trace(program, path, folding=False))),
        ]
        if captured is not None:
            graph = captured
            ways.insert(0, ("dynamo", lambda: self._from_graph(graph, program, path)))
        for way, write in ways:
            try:
                write()
                self._check(path)
                if way != "dynamo" and operators(path) & _RECURRENT:
                    try_other_sizes(type(self), path, program, outputs=False)
            except Exception as error:
                attempts.append(Attempt(way, str(error) if isinstance(error, ExportError) else one_line(error)))
                continue
            described = captured if captured is not None and way == "dynamo" else None
            attempts = [*(described.attempts if described else ()), *attempts]
            if described is not None and described.static and self._thaws(program, path, frozen):
                attempts.append(Attempt(way, "; ".join(described.static.values())))
                described, way = None, _LAST_RESORT
            return self._described(program, path, described, (*attempts, Attempt(way)), frozen)
        raise ExportError(failures(attempts))

    def _thaws(self, program: Program, path: Path, frozen: list[str]) -> bool:
        """Puts a traced file in the place of one whose sizes came out fixed, where it gives the model's logits at other sizes.

        ``torch.export`` unrolls a recurrent layer over the steps of its example; the tracing exporter has an operator for it.
        """
        from harness.export.clean_process import try_other_sizes

        traced = path.with_name(f"traced-{path.name}")
        try:
            found = self._from_trace(program, traced)
            self._check(traced)
            try_other_sizes(type(self), traced, program, outputs=True)
            os.replace(traced, path)
        except Exception:  # then the other file stays, with the line that fixed its sizes
            return False
        finally:
            traced.unlink(missing_ok=True)
        frozen.extend(found)
        return True

    def risk(self, path: Path) -> str:
        """Weights in other files: a path may lead anywhere."""
        from harness.export.onnx import names_of_weight_files

        names = sorted(names_of_weight_files(path))
        return f"it keeps weights in other files ({', '.join(names[:3])})" if names else ""

    def check_contained(self, path: Path) -> None:
        """Refuses weights that lie elsewhere than beside the file."""
        from harness.export.onnx import read

        read(path)

    def inspect(self, path: Path, program: Program) -> Inspection:
        """Runs the checker, counts the operators, and holds opset, inputs and outputs against what was asked for."""
        from harness.export.onnx import inspect_onnx

        return inspect_onnx(path, program, self.opset_version)

    def load(self, path: Path, program: Program) -> Runner:
        """Opens an ONNX Runtime session."""
        from harness.export.onnx import read, runner, session

        read(path)
        return runner(session(path))

    def static_axes(self, path: Path, program: Program) -> dict[str, str]:
        """Axes that were to stay free and have a number in the file."""
        from harness.export.onnx import static_axes

        return static_axes(path, program)

    def ports(self, path: Path) -> tuple[list[Port], list[Port]]:
        """Inputs and outputs as the file declares them."""
        import onnx

        from harness.export.onnx import dimensions

        graph = onnx.load(path, load_external_data=False).graph

        def port(value: onnx.ValueInfoProto) -> Port:
            dims = tuple(size if isinstance(size, int) and size > 0 else -1 for size in dimensions(value))
            return Port(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)), dims)

        return [port(value) for value in graph.input], [port(value) for value in graph.output]

    def run_in_float64(self, path: Path, batch: Batch) -> Outputs:
        """The outputs of the file with every float32 tensor widened."""
        from harness.export.onnx import run_in_float64

        return run_in_float64(path, batch)

    def blame(self, wrong: WrongFile) -> Blame:
        """Compares the file with the model operator by operator, and asks other runs of the model what is at fault."""
        from harness.export.blame.onnx_files import blame_onnx

        return blame_onnx(
            wrong.path,
            wrong.program,
            wrong.batch,
            wrong.bound,
            wrong.save_to,
            wrong.is_ours,
            wrong.original,
            place=wrong.place,
        )

    def _from_graph(self, captured: Captured, program: Program, path: Path) -> None:
        import torch

        from harness.export.formats.exported_program import quiet
        from harness.export.onnx import tidy
        from harness.runtime import seeded

        # The exporter names values after the operators of the graph, and does not look whether an input or output has such a name.
        operators = {node.name for node in captured.program.graph.nodes if node.op == "call_function"}
        unlike = {name: f"{name}__port" for name in (*program.fields, *program.outputs) if name in operators}
        with quiet(), seeded(0):
            exported: Any = torch.onnx.export(
                captured.program,
                program.arguments,
                dynamo=True,
                input_names=[unlike.get(name, name) for name in program.fields],
                output_names=[unlike.get(name, name) for name in program.outputs],
                opset_version=self.opset_version or _DEFAULT_OPSET,
                optimize=self.optimize,
                verbose=False,
            )
            exported.save(str(path), external_data=program.weight_bytes > _INLINE_BYTES)
        tidy(path, captured.symbols, {port: name for name, port in unlike.items()})

    def _from_trace(self, program: Program, path: Path, folding: bool = True) -> list[str]:
        """Writes the file; returns what of the user's code the tracer says it froze."""
        import torch

        from harness.export.formats.exported_program import tracing
        from harness.export.onnx import tidy
        from harness.runtime import seeded

        # A traced graph takes no number for a name, such as that of an output which is the second of a tuple.
        ports = {name: f"output_{name}" if name.isdigit() else name for name in program.outputs}
        axes = {**program.axes, **{ports[name]: free for name, free in program.output_axes.items()}}
        with tracing() as frozen, seeded(0), torch.no_grad():
            torch.onnx.export(
                program.forward,
                program.arguments,
                str(path),
                dynamo=False,
                input_names=list(program.fields),
                output_names=list(ports.values()),
                dynamic_axes={name: free for name, free in axes.items() if free},
                opset_version=self.opset_version or _DEFAULT_OPSET,
                do_constant_folding=self.optimize and folding,
            )
        unlike = {port: name for name, port in ports.items() if port != name}
        if unlike:
            tidy(path, {}, unlike)
        return frozen

    def _check(self, path: Path) -> None:
        import onnx

        from harness.export.onnx import opset, read

        model = read(path)
        if self.opset_version is not None and opset(model) != self.opset_version:
            raise ExportError(f"gives opset {opset(model)}, asked for {self.opset_version}")
        if self.validate:
            onnx.checker.check_model(str(path), full_check=True)

    def _described(
        self, program: Program, path: Path, captured: Captured | None, attempts: tuple[Attempt, ...], frozen: list[str]
    ) -> Exported:
        from harness.export.onnx import refuse_negative_ids

        guarded = [name for name in program.fields if _is_index(program, name) and _refuses_negative(program, name)]
        if guarded:
            refuse_negative_ids(path, guarded, _REFUSED_ID)
        notes: dict[str, Any] = {"refuses_negative": guarded, **({"frozen": frozen} if frozen else {})}
        if captured is None:
            return Exported(attempts, notes=notes)
        return Exported(attempts, captured.limits, captured.static, {**notes, "guards": captured.guards})


class QuantisedONNXExporter(ONNXExporter):
    """The ONNX export with 8-bit weights, quantised by ONNX Runtime."""

    name = "onnx_int8"
    filename = "model.int8.onnx"
    runs_as = ONNXExporter.name
    quantised_from = ONNXExporter.name
    by_default = False

    def __init__(self, kind: Kind = "dynamic", opset_version: int | None = None) -> None:
        super().__init__(opset_version)
        self.quantisation = kind

    @classmethod
    def from_options(cls, options: ExportConfig) -> QuantisedONNXExporter:
        """The exporter with the kind and the opset of a config."""
        return cls(options.quantization or "dynamic", options.opset_version)

    @property
    def settings(self) -> tuple[Any, ...]:
        """The opset and the kind of quantisation."""
        return (self.opset_version, self.quantisation)

    def quality(self, plain: Path, path: Path, batches: Sequence[Batch], expected: Sequence[Outputs]) -> QuantisationQuality:
        """Signal over quantisation noise of the logits, and the weights that lost most."""
        from harness.export.onnx.quantisation import measure_quality

        return measure_quality(plain, path, batches, tuple(batches[0]) if batches else (), expected)

    def _export(self, program: Program, path: Path) -> Exported:
        """Exports to ONNX and quantises the file; static quantisation is calibrated with the program's samples."""
        from harness.export.onnx.quantisation import quantise

        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / ONNXExporter.filename
            exported = super()._export(program, plain)
            facts = quantise(plain, path, self.quantisation, program.samples or (program.example,), program.fields)
        attempts = (*exported.attempts[:-1], Attempt(f"{exported.attempts[-1].way}, {self.quantisation} quantisation"))
        return Exported(attempts, exported.limits, exported.static, {**exported.notes, "quantisation": asdict(facts)})


def _program_of(model: nn.Module, task: TaskSpec, adapter: object) -> Program:
    """A model as exporters take it."""
    from harness.adapters import make_adapter
    from harness.export.program import program_of
    from harness.models.wrapped import taken
    from harness.properties.subject import Subject

    return program_of(Subject(taken(model), cast("Adapter | None", adapter) or make_adapter(task), task))


def _is_index(program: Program, field: str) -> bool:
    """Whether a field holds rows of a table or positions."""
    from harness.tasks.values import Ids, IndexOf

    is_whole = not program.example[field].is_floating_point() and program.example[field].numel() > 0
    return is_whole and isinstance(program.task.signature.input(field).values, (Ids, IndexOf))


def _refuses_negative(program: Program, field: str) -> bool:
    """Whether the model itself raises at a negative id, the first or the last: what is looked up may be only some of them."""
    import torch

    for place in (0, -1):
        ids = program.example[field].clone(memory_format=torch.contiguous_format)
        ids.view(-1)[place] = -1
        try:
            program.eager_outputs({**program.example, field: ids})
        except Exception:
            return True
    return False
