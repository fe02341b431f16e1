"""An ONNX model taken apart, every value or a part of it as a model; and the other ways to run a model, which show what is at fault."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from harness.batches import Batch
from harness.export import one_line, runtime_message
from harness.export.blame import NEW_EXPORT, PLAIN_RUNTIME, PROGRAM, REFERENCE, RUNTIME
from harness.export.blame.recording import LAYOUT, Trace, Value, is_shown, line_of
from harness.export.blame.torch_files import run_unguarded
from harness.export.formats import ExportError
from harness.export.formats.exported_program import capture, quiet
from harness.export.onnx import opset, session
from harness.export.program import Program, module_path
from harness.properties.noise import difference
from harness.runtime import seeded

Arrays = dict[str, Any]
"""NumPy arrays by the names of the values that hold them."""

_LARGEST = 1_900_000_000
"""Bytes up to which a model fits into one message; protobuf ends at 2 GiB."""

_FEW = 8
"""A vector of this many sizes at most is shape arithmetic rather than data."""

_TORCH_METADATA = "pkg.torch.onnx."


class OnnxGraph:
    """A model in the ONNX format, seen from its values.

    Args:
        model: The model, with its weights.
        output: The name of the output to look at, where the model has it.
        place: Its place among the outputs, where the model has none of that name.

    Attributes:
        model: The same.
        output: Name of the output that is looked at.
        maker: The node that makes a value, by the value's name.
        weights: The initialisers by name.
        places: The module and the lines that each node came from.
    """

    def __init__(self, model: onnx.ModelProto, output: str = "", place: int = 0) -> None:
        self.model = model
        names = [str(value.name) for value in model.graph.output]
        self.output = output if output in names else names[min(place, len(names) - 1)]
        self.maker = {name: node for node in model.graph.node for name in node.output if name}
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.places = [_place(node) for node in model.graph.node]

    def feeds(self, fields: tuple[str, ...], batch: Batch) -> Arrays:
        """A batch under the names of the model's inputs; by position where the model has other names for them.

        Raises:
            ExportError: It asks for something else.
        """
        inputs = [value for value in self.model.graph.input if value.name not in self.weights]
        names = [value.name for value in inputs]
        if not set(names) <= set(fields):
            if len(names) != len(fields):
                raise ExportError(f"the file asks for {', '.join(names)}; the model takes {', '.join(fields)}")
            batch = dict(zip(names, (batch[name] for name in fields), strict=True))
        dtypes = [helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in inputs]
        return {name: batch[name].detach().cpu().numpy().astype(dtype) for name, dtype in zip(names, dtypes, strict=True)}

    def run(self, feeds: Arrays, replaced: Mapping[str, Any] | None = None) -> Arrays:
        """Every value the model computes outside branches and loops, without optimisations.

        Raises:
            ExportError: ONNX Runtime does not run it.
        """
        replaced = replaced or {}
        if self.model.ByteSize() > _LARGEST:
            raise ExportError("it is too large to be taken apart")
        opened = session(self._exposed(replaced).SerializeToString(), optimised=False)
        names = [output.name for output in opened.get_outputs()]
        try:
            found = opened.run(names, {**feeds, **replaced})
        except Exception as error:
            raise ExportError(f"ONNX Runtime raised {runtime_message(error)}") from error
        return {**dict(zip(names, found, strict=True)), **replaced}

    def trace(self, feeds: Arrays, arrays: Arrays) -> Trace:
        """The values of a run in order, as they are compared with those of the model.

        Args:
            feeds: The inputs.
            arrays: What ``run`` returned.
        """
        return _Tracing(self, feeds, arrays).trace()

    def part(self, names: Iterable[str], end: str, arrays: Arrays) -> tuple[onnx.ModelProto, Arrays]:
        """The nodes that make some values as a separate model, and its inputs.

        Args:
            names: The values.
            end: The one that becomes the output.
            arrays: The values of a run and its inputs, from which the inputs are taken.
        """
        wanted = set(names)
        inside = [node for node in self.model.graph.node if wanted & set(node.output)]
        made = {name for node in inside for name in node.output}
        needed = dict.fromkeys(name for node in inside for name in self.inputs_of(node) if name not in made)
        weights = [self.weights[name] for name in needed if name in self.weights]
        constants = [self.maker[name] for name in needed if name in self.maker and self.maker[name].op_type == "Constant"]
        inputs = {
            name: arrays[name] for name in needed if name not in self.weights and name not in {c.output[0] for c in constants}
        }
        graph = helper.make_graph(
            [*constants, *inside],
            "part",
            [_described(name, array) for name, array in inputs.items()],
            [_described(end, arrays[end], free=True)],
            weights,
        )
        model = helper.make_model(graph, opset_imports=self.model.opset_import, functions=self.model.functions)
        model.ir_version = self.model.ir_version
        return model, inputs

    def inputs_of(self, node: onnx.NodeProto) -> list[str]:
        """The values a node reads, those that its branches take from outside too."""
        names = [name for name in node.input if name]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                own = {name for each in inner.node for name in each.output} | {value.name for value in inner.input}
                own |= {tensor.name for tensor in inner.initializer}
                names += [name for each in inner.node for name in self.inputs_of(each) if name not in own]
                names += [value.name for value in inner.output if value.name not in own]
        return names

    def _exposed(self, replaced: Mapping[str, Any]) -> onnx.ModelProto:
        """The model with every value as an output, and as an input what is to be replaced."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        outputs = {value.name for value in graph.output}
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.maker if name not in outputs)
        kept = [value for value in graph.output if value.name not in replaced]
        del graph.output[:]
        graph.output.extend(kept)
        for node in graph.node:
            for position, name in enumerate(node.output):
                if name in replaced:
                    node.output[position] = f"{name}__replaced"
        graph.input.extend(_described(name, array) for name, array in replaced.items())
        return model


def metadata(node: onnx.NodeProto, key: str) -> str:
    """What PyTorch's exporter wrote beside a node."""
    return next((entry.value for entry in node.metadata_props if entry.key == _TORCH_METADATA + key), "")


def label(node: onnx.NodeProto) -> str:
    """``Add (ONNX node `node_add_3`)``."""
    return f"{node.op_type} (ONNX node `{node.name or node.output[0]}`)"


class _Tracing:
    """Values of a run put in order."""

    def __init__(self, graph: OnnxGraph, feeds: Arrays, arrays: Arrays) -> None:
        self.graph = graph
        self.arrays = arrays
        self.values: list[Value] = []
        self.indices: dict[str, tuple[int, ...]] = {}
        self.sizes: set[str] = set()  # names of what was made only from shapes and constants
        for name, array in feeds.items():
            self._add(name, Value("", torch.from_numpy(array), name=name, given=True))
        for name, weight in graph.weights.items():
            self._add(name, Value("", _tensor(numpy_helper.to_array(weight)), name=name, given=True))

    def trace(self) -> Trace:
        for node, (module, lines) in zip(self.graph.model.graph.node, self.graph.places, strict=True):
            read = self.graph.inputs_of(node)
            inputs = tuple(dict.fromkeys(index for name in read for index in self.indices.get(name, ())))
            # Of its second input, CastLike reads only the type.
            data = read[:1] if node.op_type == "CastLike" else read
            is_size = node.op_type == "Shape" or all(name in self.sizes or name in self.graph.weights for name in data)
            for name in filter(None, node.output):
                array = self.arrays.get(name)
                if not isinstance(array, np.ndarray):
                    self.indices[name] = inputs  # a sequence, or nothing: what is made from it is made from its inputs
                    continue
                if is_size:
                    self.sizes.add(name)
                value = Value(node.op_type, _tensor(array), inputs, name, module, lines)
                value.given = self._is_given(node, value, is_size)
                self._add(name, value)
        return Trace(self.values, self.indices[self.graph.output][0])

    def _is_given(self, node: onnx.NodeProto, value: Value, is_size: bool) -> bool:
        if node.op_type == "Constant":
            return True
        if is_size and value.tensor.ndim <= 1 and value.tensor.numel() <= _FEW:
            return True
        return bool(value.inputs) and node.op_type.lower() in LAYOUT and all(self.values[i].given for i in value.inputs)

    def _add(self, name: str, value: Value) -> None:
        self.indices[name] = (len(self.values),)
        self.values.append(value)


def _place(node: onnx.NodeProto) -> tuple[str, tuple[str, ...]]:
    """The module and the lines from which an exporter made a node, innermost first."""
    scopes = metadata(node, "name_scopes").replace("'", '"')
    try:
        names = json.loads(scopes)
    except ValueError:
        names = []
    stack = re.findall(r'File "([^"]+)", line (\d+)', metadata(node, "stack_trace"))
    lines = tuple(line_of(filename, int(number)) for filename, number in reversed(stack) if is_shown(filename))
    return (module_path(names[-2]) if len(names) > 1 else ""), lines


def _tensor(array: Any) -> Tensor:
    try:
        return torch.from_numpy(np.array(array))
    except TypeError:  # bfloat16 and the like, which NumPy has from elsewhere; or text
        return torch.zeros(0) if array.dtype.kind in "OSU" else torch.from_numpy(array.astype(np.float32))


def _described(name: str, array: Any, free: bool = False) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, dtype, None if free else array.shape)


_MOST_WEIGHTS = 30_000_000
"""Weights up to which the reference evaluator, which is plain NumPy, answers within seconds."""


class ReferenceRuns:
    """An ONNX file and the other ways to run its model on one batch.

    Args:
        path: The file.
        graph: Its content.
        program: The model.
        batch: The inputs.
        kept: Gives the path of an export of the model that is kept, to the byte what the exporter wrote; ``None`` where none is.

    Attributes:
        votes: How far each way's logits are from the model's.
        absent: Why a way did not run, by its name.
    """

    def __init__(
        self, path: Path, graph: OnnxGraph, program: Program, batch: Batch, kept: Callable[[], Path] | None = None
    ) -> None:
        self.path = path
        self.graph = graph
        self.program = program
        self.batch = batch
        self.kept = kept
        self.votes: dict[str, float] = {}
        self.absent: dict[str, str] = {}

    @cached_property
    def expected(self) -> Tensor:
        """The model's own logits."""
        return self.program.eager(self.batch)

    def ask(self, name: str) -> float | None:
        """One way's distance from the model; ``None`` where it cannot run."""
        try:
            with quiet():
                self.votes[name] = difference(self.expected, WAYS[name](self))
        except Exception as error:  # whatever keeps a way from running, the others can still be asked
            self.absent[name] = str(error) if isinstance(error, ExportError) else one_line(error)
        return self.votes.get(name)

    def right_at_example(self, bound: float) -> bool:
        """Whether the file is right on the batch that exporters are shown."""
        example = ReferenceRuns(self.path, self.graph, self.program, self.program.example)
        distance = example.ask(PLAIN_RUNTIME)
        return distance is not None and distance <= bound

    @cached_property
    def captured(self) -> torch.export.ExportedProgram:
        """The model as ``torch.export`` sees it."""
        return capture(self.program).program

    @property
    def from_dynamo(self) -> bool:
        """Whether the exporter that starts from ``torch.export`` wrote the file."""
        return any(metadata(node, "fx_node") for node in self.graph.model.graph.node)


def _run_runtime(runs: ReferenceRuns, optimised: bool = True) -> Tensor:
    opened = session(runs.path, optimised)
    feeds = runs.graph.feeds(runs.program.fields, runs.batch)
    try:
        return torch.from_numpy(opened.run([runs.graph.output], feeds)[0])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise ExportError(f"ONNX Runtime raised {runtime_message(error)}") from error


def _run_plain_runtime(runs: ReferenceRuns) -> Tensor:
    return _run_runtime(runs, optimised=False)


def _run_reference(runs: ReferenceRuns) -> Tensor:
    from onnx.reference import ReferenceEvaluator

    weights = sum(tensor.numel() for tensor in runs.program.forward.parameters())
    if weights > _MOST_WEIGHTS:
        raise ExportError(f"the model has {weights:,} weights: too slow")
    feeds = runs.graph.feeds(runs.program.fields, runs.batch)
    found: Any = ReferenceEvaluator(runs.graph.model).run([runs.graph.output], feeds)
    return torch.from_numpy(found[0])


def _run_program(runs: ReferenceRuns) -> Tensor:
    return run_unguarded(runs.captured, runs.program.ordered(runs.batch))


def _run_new_export(runs: ReferenceRuns) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if runs.kept is not None and runs.from_dynamo:
            path = runs.kept()
        else:
            _export(runs, path)
        graph = OnnxGraph(onnx.load(path), runs.program.outputs[0])
        return _run_plain_runtime(ReferenceRuns(path, graph, runs.program, runs.batch))


def _export(runs: ReferenceRuns, path: Path) -> None:
    """Exports the model again in the way in which the file was."""
    program = runs.program
    version = opset(runs.graph.model) or None
    with seeded(0), torch.no_grad():
        if runs.from_dynamo:
            exported: Any = torch.onnx.export(
                runs.captured,
                program.arguments,
                dynamo=True,
                input_names=list(program.fields),
                output_names=list(program.outputs),
                opset_version=version,
                verbose=False,
            )
            exported.save(str(path))
            return
        torch.onnx.export(
            program.forward,
            program.arguments,
            str(path),
            dynamo=False,
            input_names=list(program.fields),
            output_names=list(program.outputs),
            dynamic_axes={name: axes for name, axes in (*program.axes.items(), *program.output_axes.items()) if axes},
            opset_version=version,
        )


WAYS = {
    RUNTIME: _run_runtime,
    PLAIN_RUNTIME: _run_plain_runtime,
    REFERENCE: _run_reference,
    PROGRAM: _run_program,
    NEW_EXPORT: _run_new_export,
}
"""The ways to run a model, by name."""
