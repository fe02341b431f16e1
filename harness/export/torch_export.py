"""``torch.export``'s own format, ``.pt2``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from harness.batches import Batch
from harness.export.exported_program import capture, quiet
from harness.export.exporter import Exported, Exporter, ExportError
from harness.export.program import Program, Runner


class TorchExportExporter(Exporter):
    """A graph of ATen operators with its weights. Loading a file may run code from it."""

    name = "torch_export"
    filename = "model.pt2"
    holds_code = True

    def export(self, program: Program, path: Path) -> Exported:
        """Captures the program and saves it."""
        captured = capture(program)
        try:
            with quiet():
                torch.export.save(captured.program, path)
        except Exception as error:
            raise ExportError(f"torch.export.save: {type(error).__name__}: {str(error).splitlines()[0]}") from error
        return Exported(captured.attempts, captured.limits, captured.static, {"guards": captured.guards})

    def load(self, path: Path, program: Program) -> Runner:
        """Loads the graph as a module."""
        try:
            with quiet():
                module = torch.export.load(path).module()
        except Exception as error:
            raise ExportError(f"{path.name} is no .pt2 file that can be loaded: {type(error).__name__}") from error

        def run(batch: Batch) -> Tensor:
            with torch.no_grad():
                return module(*program.ordered(batch))

        return run
