"""The first operator of an ONNX file that differs from the model, and who is at fault."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from harness.batches import Batch
from harness.export.blame import (
    NEW_EXPORT,
    PLAIN_RUNTIME,
    PROGRAM,
    REASONS,
    REFERENCE,
    RUNTIME,
    Blame,
    at_fault,
    other_weights,
    put_in_words,
    why_frozen,
)
from harness.export.blame.comparison import relative_gap
from harness.export.blame.divergence import Divergence, find_divergence
from harness.export.blame.onnx_graph import Arrays, OnnxGraph, ReferenceRuns, label, metadata
from harness.export.blame.recording import Trace, record_eager
from harness.export.formats import ExportError
from harness.export.onnx import read, session
from harness.export.program import Program
from harness.properties.noise import difference

_OPTIMISER = "ONNX Runtime's graph optimisation"


@dataclass
class _Case:
    """A file that is wrong, beside the model.

    Attributes:
        graph: The file, or what ONNX Runtime's optimiser made of it.
        feeds: The file's inputs.
        arrays: Every value of its run, the inputs too.
        reference: The model's recording.
        artifact: The file's.
        divergence: Where they part, if that is known.
    """

    graph: OnnxGraph
    feeds: Arrays
    arrays: Arrays
    reference: Trace
    artifact: Trace
    divergence: Divergence | None

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes to blame."""
        if self.divergence is None:
            return []
        names = [self.artifact.values[index].name for index in self.divergence.segment]
        return [self.graph.maker[name] for name in names if name in self.graph.maker]


def blame_onnx(
    path: Path,
    program: Program,
    batch: Batch,
    bound: float,
    save_to: Path | None = None,
    ours: bool = False,
    kept: Callable[[], Path] | None = None,
    place: int = 0,
) -> Blame:
    """Finds the first operator of an ONNX file that differs from the model.

    Args:
        path: The file.
        program: The model, with only the output that differs.
        batch: Inputs on which their logits differ.
        bound: Up to where logits count as equal.
        save_to: Folder for a small file that shows the difference by itself.
        ours: Whether the file is known to be, to the byte, what the exporter wrote of this model. Otherwise it may have to be exported
            again to tell, which takes longer than all the rest.
        kept: Gives the path of what the exporter wrote of this model, where that is kept; it then is not exported again.
        place: Which of the file's outputs it is, where none has its name.

    Raises:
        ExportError: The file is damaged, or asks for other inputs than the model.
    """
    graph = OnnxGraph(read(path), program.outputs[0], place)
    runs = ReferenceRuns(path, graph, program, batch, kept)
    runtime, plain = runs.ask(RUNTIME), runs.ask(PLAIN_RUNTIME)
    if plain is None:
        return _raised(graph, runs)
    if plain <= bound:
        if runtime is None:
            return Blame(_OPTIMISER, at_fault="optimiser", votes=runs.votes, explanation=runs.absent[RUNTIME])
        if runtime <= bound:
            return Blame(votes=runs.votes, explanation="nothing diverges: the file's logits are the model's")
    try:
        case = _compare(_optimised(path, graph) if plain <= bound else graph, program, batch, bound)
    except ExportError as error:
        return Blame(votes=runs.votes, explanation=f"the file cannot be taken apart: {error}")
    changed = "" if ours else _signs_of_change(case, graph)
    fault = _find_fault(runs, bound, bool(changed), ours)
    blame = _described(case, runs, fault, changed, bound)
    return blame if save_to is None else replace(blame, failing_file=_save_failing(case, runs, save_to, bound))


def _find_fault(runs: ReferenceRuns, bound: float, changed: bool, ours: bool) -> str:
    """Runs the other ways for as long as it is open what is at fault."""
    fault = at_fault(runs.votes, bound, changed)
    if fault != "optimiser":
        runs.ask(REFERENCE)
        fault = at_fault(runs.votes, bound, changed)
    witnesses = ([PROGRAM] if runs.from_dynamo else []) + ([] if ours else [NEW_EXPORT])
    for witness in witnesses:
        if fault == "exporter" and runs.votes.get(PROGRAM, 0.0) <= bound:
            runs.ask(witness)
            fault = at_fault(runs.votes, bound)
    return fault


def _compare(graph: OnnxGraph, program: Program, batch: Batch, bound: float) -> _Case:
    """Runs model and file step by step, and finds where they part."""
    feeds = graph.feeds(program.fields, batch)
    found = graph.run(feeds)
    arrays = {**found, **feeds}
    artifact = graph.trace(feeds, arrays)

    def rerun(index: int, tensor: Tensor) -> Trace | None:
        name = artifact.values[index].name
        if name not in graph.maker:
            return None
        try:
            return graph.trace(feeds, graph.run(feeds, {name: tensor.numpy()}))
        except ExportError:
            return None

    reference = record_eager(program, batch)
    if difference(reference.logits, artifact.logits) <= bound:
        # Only the fused kernels differ, so they must not be taken apart.
        reference = record_eager(program, batch, detailed=False)
    differs = difference(reference.logits, artifact.logits) > bound
    return _Case(graph, feeds, arrays, reference, artifact, find_divergence(reference, artifact, rerun) if differs else None)


def _optimised(path: Path, graph: OnnxGraph) -> OnnxGraph:
    """What ONNX Runtime's optimiser makes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(target)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return OnnxGraph(onnx.load(target), graph.output)


def _raised(graph: OnnxGraph, runs: ReferenceRuns) -> Blame:
    """The blame for a file that does not run without optimisations, from the node that ONNX Runtime names."""
    message = runs.absent[PLAIN_RUNTIME]
    name = re.search(r"an error in \w+ `([^`]+)`: ", message)
    node = next((node for node in graph.model.graph.node if name and node.name == name[1]), None)
    return Blame(label(node) if node else "", votes=runs.votes, explanation=f"the file could not be run: {message}")


def _signs_of_change(case: _Case, graph: OnnxGraph) -> str:
    """What shows that no exporter wrote the file of this model as it is; empty where nothing does."""
    if case.divergence is None:
        return ""
    weights = other_weights(case.reference, case.artifact, case.divergence)
    if weights:
        return f"the file holds other values for the weight {', '.join(f'`{name}`' for name in weights)}"
    translations = _translations(graph)
    for node in case.nodes:
        source = metadata(node, "fx_node")
        others = [
            _written(other)
            for name, nodes in translations.items()
            if name != source and _call(name) == _call(source)
            for other in nodes
        ]
        if source and others and _written(node) not in others:
            return "elsewhere in the file, the same operator with the same arguments is written differently"
    return ""


def _translations(graph: OnnxGraph) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that stand for each operator of the exported program."""
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.model.graph.node:
        found[metadata(node, "fx_node")].append(node)
    return found


def _call(source: str) -> str:
    """An operator of the exported program with its arguments, less the names of values."""
    return re.sub(r"%\w+", "%", source.partition("call_function")[2])


def _written(node: onnx.NodeProto) -> str:
    """A node's operator and attributes."""
    return f"{node.op_type}({', '.join(sorted(map(str, node.attribute)))})"


def _described(case: _Case, runs: ReferenceRuns, fault: str, changed: str, bound: float) -> Blame:
    frozen = fault == "exporter" and runs.right_at_example(bound)
    reasons = list(_reasons(case, runs, fault, changed, frozen))
    if case.divergence is None:
        operator = _OPTIMISER if fault == "optimiser" else ""
        explanation = "; ".join(("the logits differ, but no operator stands out", *reasons))
        return Blame(operator, at_fault=fault, votes=runs.votes, explanation=explanation)
    labels = [label(node) for node in case.nodes]
    finding = put_in_words(case.reference, case.artifact, case.divergence, labels, frozen)
    explanation = "; ".join((finding.sentence, *reasons))
    return Blame(finding.operator, finding.module, finding.line, fault, runs.votes, explanation)


def _reasons(case: _Case, runs: ReferenceRuns, fault: str, changed: str, frozen: bool) -> Iterator[str]:
    """Why somebody is at fault, and who could not be asked."""
    if frozen:
        yield why_frozen(case.reference, case.divergence)
    elif fault == "file" and changed:
        yield f"{changed}, so it was changed or was made from other weights"
    elif fault:
        yield REASONS[fault]
    for name, reason in runs.absent.items():
        yield f"the {name} could not be asked ({reason})"


def _save_failing(case: _Case, runs: ReferenceRuns, folder: Path, bound: float) -> Path | None:
    """Saves the smallest part of the file that is wrong by itself; ``None`` where nothing that was saved fails again."""
    folder.mkdir(parents=True, exist_ok=True)
    for names, end, right, tolerance in _parts(case):
        model, inputs = case.graph.part(names, end, case.arrays)
        expected = right.numpy()
        path = _save(model, inputs, {end: expected}, folder / f"{runs.path.stem}-{_safe(end)}.onnx")
        if relative_gap(right, _run_saved(path, inputs, end)) > tolerance:
            return path
        path.unlink()
        path.with_suffix(".npz").unlink()
    whole = OnnxGraph(read(runs.path), runs.graph.output)
    feeds = whole.feeds(runs.program.fields, runs.batch)
    expected = runs.expected.numpy()
    path = _save(whole.model, feeds, {whole.output: expected}, folder / f"{runs.path.stem}-whole.onnx")
    found = _run_saved(path, feeds, whole.output, optimised=True)
    return path if difference(runs.expected, found) > bound else None


def _parts(case: _Case) -> Iterator[tuple[list[str], str, Tensor, float]]:
    """Parts to save, smallest first: the nodes to blame, then with those before them."""
    divergence = case.divergence
    if divergence is None or divergence.absent or not divergence.confirmed:
        return
    values = case.artifact.values
    end = values[divergence.found].name
    part = set(divergence.segment)
    for _ in range(3):
        yield [values[index].name for index in part], end, divergence.right, divergence.tolerance
        part |= {i for index in part for i in values[index].inputs if values[i].operator}


def _save(model: onnx.ModelProto, inputs: Arrays, outputs: Arrays, path: Path) -> Path:
    """Writes a model, and beside it the arrays ``input:NAME`` and ``expected:NAME``."""
    onnx.save(model, path)
    named = {f"input:{name}": array for name, array in inputs.items()}
    named |= {f"expected:{name}": array for name, array in outputs.items()}
    np.savez(path.with_suffix(".npz"), **named)
    return path


def _run_saved(path: Path, inputs: Arrays, output: str, optimised: bool = False) -> Tensor:
    try:
        return torch.from_numpy(session(path, optimised).run([output], inputs)[0])
    except Exception:  # a part that does not run proves nothing
        return torch.zeros(0)


def _safe(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")[:60]
