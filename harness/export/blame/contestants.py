"""The ways to run one model that are held against each other, so that it shows who is at fault."""

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
from harness.export.blame.torch import run_unguarded
from harness.export.blame.verdict import FRESH, PLAIN_RUNTIME, PROGRAM, REFERENCE, RUNTIME
from harness.export.formats.exported_program import capture, quiet
from harness.export.formats.exporter import ExportError
from harness.export.onnx.file import opset, session
from harness.export.program import Program
from harness.export.reason import one_line, runtime_message
from harness.properties.noise import difference
from harness.runtime import seeded

_MOST_WEIGHTS = 30_000_000
"""Weights up to which the reference evaluator, which is plain NumPy, answers within seconds."""


class Contest:
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
        example = Contest(self.path, self.graph, self.program, self.program.example)
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


def _run_runtime(contest: Contest, optimised: bool = True) -> Tensor:
    opened = session(contest.path, optimised)
    feeds = contest.graph.feeds(contest.program.fields, contest.batch)
    try:
        return torch.from_numpy(opened.run([contest.graph.output], feeds)[0])
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise ExportError(f"ONNX Runtime raised {runtime_message(error)}") from error


def _run_plain_runtime(contest: Contest) -> Tensor:
    return _run_runtime(contest, optimised=False)


def _run_reference(contest: Contest) -> Tensor:
    from onnx.reference import ReferenceEvaluator

    weights = sum(tensor.numel() for tensor in contest.program.forward.parameters())
    if weights > _MOST_WEIGHTS:
        raise ExportError(f"the model has {weights:,} weights: too slow")
    feeds = contest.graph.feeds(contest.program.fields, contest.batch)
    found: Any = ReferenceEvaluator(contest.graph.model).run([contest.graph.output], feeds)
    return torch.from_numpy(found[0])


def _run_program(contest: Contest) -> Tensor:
    return run_unguarded(contest.captured, contest.program.ordered(contest.batch))


def _run_fresh(contest: Contest) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if contest.kept is not None and contest.from_dynamo:
            path = contest.kept()
        else:
            _export(contest, path)
        graph = OnnxGraph(onnx.load(path))
        return _run_plain_runtime(Contest(path, graph, contest.program, contest.batch))


def _export(contest: Contest, path: Path) -> None:
    """Exports the model anew in the way in which the file was."""
    program = contest.program
    version = opset(contest.graph.model) or None
    with seeded(0), torch.no_grad():
        if contest.from_dynamo:
            exported: Any = torch.onnx.export(
                contest.captured,
                program.arguments,
                dynamo=True,
                input_names=list(program.fields),
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
            output_names=["logits"],
            dynamic_axes={name: axes for name, axes in (*program.axes.items(), ("logits", program.output_axes)) if axes},
            opset_version=version,
        )


WAYS = {
    RUNTIME: _run_runtime,
    PLAIN_RUNTIME: _run_plain_runtime,
    REFERENCE: _run_reference,
    PROGRAM: _run_program,
    FRESH: _run_fresh,
}
"""The contestants."""
