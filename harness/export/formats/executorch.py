"""ExecuTorch, ``.pte``: a program whose memory is planned when it is exported."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.export.formats import Attempt, Exported, Exporter, ExportError, Inspection, by_position, check_shapes

if TYPE_CHECKING:
    from torch import Tensor

    from harness.batches import Batch
    from harness.export.formats import Run
    from harness.export.formats.exported_program import Captured
    from harness.export.program import Program, Runner

_ROWS = 64
"""Rows that memory is planned for where the config sets no limit."""

_PLANNED_BYTES = 256 << 20
"""Memory that such a plan may take; a model that needs more gets fewer rows."""

_METHOD = "forward"

_ERRORS = {
    "10": "not supported, such as a size that no memory is planned for",
    "12": "invalid argument",
    "13": "invalid type",
    "14": "an operator that the runtime lacks",
    "20": "not found",
    "21": "out of memory",
    "23": "invalid program",
    "30": "its backend refuses a part of it",
}
"""The runtime's error codes; its messages hold no more, the reasons it prints."""

Partitioners = Callable[[], list[Any]]


@dataclass(frozen=True)
class _Lowered:
    """A program ready to be written.

    Attributes:
        content: The file.
        limits: Sizes of each free axis that memory is planned for.
        planned_bytes: How much memory that is.
    """

    content: bytes
    limits: dict[str, tuple[int, int | None]]
    planned_bytes: int


def load_executorch(path: str, inputs: dict[str, str], threads: int = 0) -> Run:
    """An ExecuTorch program, as a function from named arrays to its outputs."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    program.load_method("forward")
    return by_position(lambda *tensors: program.load_method("forward").execute(tensors), inputs, threads)


class ExecuTorchExporter(Exporter):
    """ExecuTorch with the kernels of XNNPACK, or with the portable ones where XNNPACK does not take the model.

    Memory is planned for the largest batch, so that a batch without a limit in the config gets one here.
    """

    name = "executorch"
    filename = "model.pte"
    packages = ("executorch",)
    extra = "executorch"
    runs_with = ("torch", "executorch.runtime")
    plans_memory = True
    may_crash = True
    standalone = (by_position, load_executorch)

    def export(self, program: Program, path: Path) -> Exported:
        """Lowers the graph of ``torch.export`` by the first way whose file runs."""
        import torch

        from harness.export import one_line
        from harness.export.formats.exported_program import quiet

        failed: list[Attempt] = []
        captured = _capture(_with_rows(program, _ROWS))
        for way, partitioners in (("XNNPACK", _xnnpack), ("portable kernels", _none)):
            try:
                with quiet(), torch.no_grad():
                    lowered, larger = _lower_within_memory(captured, program, partitioners, way)
                    path.write_bytes(lowered.content)
                    # Some programs are lowered and cannot be run.
                    check_shapes(program, self.load(path, program)(program.example))
            except Exception as error:
                failed.append(Attempt(way, str(error) if isinstance(error, ExportError) else one_line(error)))
                continue
            notes = {"guards": captured.guards, "planned_bytes": lowered.planned_bytes}
            return Exported((*captured.attempts, *failed, *larger, Attempt(way)), lowered.limits, captured.static, notes)
        raise ExportError("; ".join(f"{attempt.way}: {attempt.error}" for attempt in failed))

    def inspect(self, path: Path, program: Program) -> Inspection:
        """Counts the operators and the parts that a backend runs, and looks for operators of training."""
        from harness.export.formats.exported_program import trains

        facts: dict[str, Any] = {"file_bytes": path.stat().st_size}
        counts = _operators(path)
        if counts:
            facts |= {"operators": dict(counts.most_common()), "nodes": counts.total()}
        return Inspection(facts, training=tuple(name for name in counts if trains(name, [])))

    def load(self, path: Path, program: Program) -> Runner:
        """Loads the program from a copy in memory, as a mapped file that is overwritten takes the process down."""
        from executorch.runtime import Runtime

        from harness.export.formats.exported_program import quiet

        try:
            with quiet():
                loaded = Runtime.get().load_program(path.read_bytes())
                inputs = loaded.load_method(_METHOD).metadata.num_inputs()
        except Exception as error:
            raise ExportError(f"{path.name} is not an ExecuTorch program that can be loaded: {_reason(error)}") from error
        if inputs != len(program.fields):
            raise ExportError(f"{path.name} takes {inputs} inputs, the model takes {', '.join(program.fields)}")

        def run(batch: Batch) -> list[Tensor]:
            arguments = [tensor.detach().cpu().contiguous() for tensor in program.ordered(batch)]
            try:
                return list(loaded.load_method(_METHOD).execute(arguments))
            except Exception as error:
                raise ExportError(f"ExecuTorch raised {_reason(error)}") from error

        return run


def _xnnpack() -> list[Any]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return [XnnpackPartitioner()]


def _none() -> list[Any]:
    return []


def _lower_within_memory(
    captured: Captured, program: Program, partitioners: Partitioners, way: str
) -> tuple[_Lowered, tuple[Attempt, ...]]:
    """Lowers a program for as many rows as memory allows, with the larger plan where that was given up."""
    lowered = _lower(captured, program, partitioners)
    if lowered.planned_bytes <= _PLANNED_BYTES or not _is_boundless(program):
        return lowered, ()
    larger = Attempt(f"{way}, batch up to {_ROWS}", f"its memory plan takes {lowered.planned_bytes >> 20} MiB")
    fewer = _with_rows(program, _ROWS * _PLANNED_BYTES // lowered.planned_bytes)
    return _lower(_capture(fewer), fewer, partitioners), (larger,)


def _capture(program: Program) -> Captured:
    """The graph with an upper limit to every free axis; where axes had to be inferred, they have none, and memory cannot be planned."""
    from harness.export.formats.exported_program import capture

    captured = capture(program)
    if all(high is not None for _, high in captured.limits.values()):
        return captured
    limits = {axis: (max(low, captured.limits.get(axis, (low,))[0]), high) for axis, (low, high) in program.limits.items()}
    limited = capture(replace(program, limits=limits))
    return replace(limited, attempts=captured.attempts, guards=captured.guards)


def _lower(captured: Captured, program: Program, partitioners: Partitioners) -> _Lowered:
    import torch
    from executorch.exir import to_edge_transform_and_lower

    # To choose between these two for a convolution, torch asks whether the batch is below 16, and that becomes the limit.
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
        manager = to_edge_transform_and_lower(captured.program, partitioner=partitioners()).to_executorch()
    plan = manager.executorch_program.execution_plan[0]
    return _Lowered(manager.buffer, _limits(plan, program, captured), sum(plan.non_const_buffer_sizes))


def _is_boundless(program: Program) -> bool:
    from harness.export.program import UNLIMITED

    return program.limits.get("batch", (0, 0))[1] == UNLIMITED


def _with_rows(program: Program, rows: int) -> Program:
    """The program with a limit to its batch where it has none."""
    if not _is_boundless(program):
        return program
    low = program.limits["batch"][0]
    return replace(program, limits={**program.limits, "batch": (low, max(low, rows, program.sizes.batch))})


def _limits(plan: Any, program: Program, captured: Captured) -> dict[str, tuple[int, int | None]]:
    """The sizes that the inputs are planned for."""
    limits = dict(captured.limits)
    for index, field in zip(plan.inputs, program.fields, strict=True):
        planned = plan.values[index].val.sizes
        for position, axis in program.axes[field].items():
            if axis not in captured.static:
                low, high = limits.get(axis, program.limits[axis])
                limits[axis] = (low, planned[position] if high is None else min(high, planned[position]))
    return limits


def _operators(path: Path) -> Counter[str]:
    """How often each operator is called, and each backend; empty where ExecuTorch's own reader does not say."""
    from harness.export.formats.exported_program import quiet

    counts: Counter[str] = Counter()
    try:
        with quiet():
            from executorch.exir._serialize._program import deserialize_pte_binary

            plan = deserialize_pte_binary(path.read_bytes()).program.execution_plan[0]
        for call in (instruction.instr_args for chain in plan.chains for instruction in chain.instructions):
            if hasattr(call, "op_index"):
                counts[plan.operators[call.op_index].name] += 1
            elif hasattr(call, "delegate_index"):
                counts[plan.delegates[call.delegate_index].id] += 1
    except Exception:  # a reader that is private may change
        return Counter()
    return counts


def _reason(error: Exception) -> str:
    """ExecuTorch's message with its error code in words."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    code = re.search(r"0x:?([0-9a-fA-F]+)", text)
    return f"{text[:200]} ({_ERRORS[code[1]]})" if code and code[1] in _ERRORS else text[:240]
