"""ONNX with 8-bit weights, made from the float file."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from harness.config import ExportConfig
from harness.export.formats.exporter import Attempt, Exported
from harness.export.formats.onnx import ONNXExporter
from harness.export.onnx.quantisation import Kind, quantise
from harness.export.program import Program


class QuantisedONNXExporter(ONNXExporter):
    """The ONNX export, quantised by ONNX Runtime."""

    name = "onnx_int8"
    filename = "model.int8.onnx"
    runs_as = "onnx"
    is_quantised = True

    def __init__(self, kind: Kind = "dynamic", opset_version: int | None = None) -> None:
        super().__init__(opset_version)
        self.kind = kind

    @classmethod
    def from_options(cls, options: ExportConfig) -> QuantisedONNXExporter:
        """The exporter with the kind and the opset of a config."""
        return cls(options.quantization or "dynamic", options.opset_version)

    def _export(self, program: Program, path: Path) -> Exported:
        """Exports to ONNX and quantises the file; static quantisation is calibrated with the program's samples."""
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / ONNXExporter.filename
            exported = super()._export(program, plain)
            facts = quantise(plain, path, self.kind, program.samples or (program.example,), program.fields)
        attempts = (*exported.attempts[:-1], Attempt(f"{exported.attempts[-1].way}, {self.kind} quantisation"))
        return Exported(attempts, exported.limits, exported.static, {**exported.notes, "quantisation": asdict(facts)})
