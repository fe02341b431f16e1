"""The other ways to run a model, which are compared with a wrong file to show what is at fault."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from harness.batches import Batch
from harness.export.blame.onnx_graph import OnnxGraph, metadata
from harness.export.blame.torch_files import run_unguarded
from harness.export.blame.verdict import NEW_EXPORT, PLAIN_RUNTIME, PROGRAM, REFERENCE, RUNTIME
from harness.export.failure_reason import one_line, runtime_message
from harness.export.formats.exported_program import capture, quiet
from harness.export.formats.exporter import ExportError
from harness.export.onnx.file import opset, session
from harness.export.program import Program
from harness.properties.noise import difference
from harness.runtime import seeded

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
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
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
