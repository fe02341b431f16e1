"""``torch.export``'s own format, ``.pt2``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.export.formats import Exported, ExportError, Inspection, TorchExporter, by_position

if TYPE_CHECKING:
    import torch

    from harness.export.blame import Blame
    from harness.export.formats import Run, WrongFile
    from harness.export.program import Program


def load_torch_export(path: str, inputs: dict[str, str], threads: int = 0) -> Run:
    """A program of ``torch.export``; loading one can run code from the file."""
    import torch

    return by_position(torch.export.load(path).module(), inputs, threads)


class TorchExportExporter(TorchExporter):
    """A graph of ATen operators with its weights. Loading a file may run code from it."""

    name = "torch_export"
    filename = "model.pt2"
    runs_with = ("torch", "torch.export")
    holds_code = True
    standalone = (by_position, load_torch_export)

    def export(self, program: Program, path: Path) -> Exported:
        """Captures the program and saves it."""
        import torch

        from harness.export.formats.exported_program import capture, quiet

        captured = capture(program)
        try:
            with quiet():
                torch.export.save(captured.program, path)
        except Exception as error:
            raise ExportError(f"torch.export.save: {type(error).__name__}: {str(error).splitlines()[0]}") from error
        return Exported(captured.attempts, captured.limits, captured.static, {"guards": captured.guards})

    def inspect(self, path: Path, program: Program) -> Inspection:
        """Counts the operators, and looks for those of training."""
        from harness.export.formats.exported_program import trains

        exported = _load(path)
        nodes = [node for node in exported.graph.nodes if node.op == "call_function"]
        counts = Counter(str(node.target).removesuffix(".default") for node in nodes)
        training = [f"{node.target}{_module_of(node)}" for node in nodes if trains(str(node.target), list(node.args))]
        facts = {"operators": dict(counts.most_common()), "nodes": len(nodes), "file_bytes": path.stat().st_size}
        return Inspection(facts, training=tuple(training))

    def module(self, path: Path) -> Callable[..., Any]:
        """Loads the graph as a module."""
        module: Callable[..., Any] = _load(path).module()
        return module

    def blame(self, wrong: WrongFile) -> Blame:
        """Compares the file with the model operator by operator."""
        from harness.export.blame.torch_files import blame_torch

        return blame_torch(wrong.run, wrong.program, wrong.batch, wrong.bound)


def _load(path: Path) -> torch.export.ExportedProgram:
    import torch

    from harness.export.formats.exported_program import quiet

    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:
        raise ExportError(f"{path.name} is not a .pt2 file that can be loaded: {type(error).__name__}") from error


def _module_of(node: torch.fx.Node) -> str:
    from harness.export.program import module_path

    stack = list(node.meta.get("nn_module_stack", {}).values())
    return f" in `{module_path(stack[-1][0])}`" if stack else ""
