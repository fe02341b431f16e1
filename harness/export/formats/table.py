"""The table of formats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from harness.catalogue import CATALOGUE
from harness.config import ExportConfig, ExportFormat
from harness.errors import did_you_mean
from harness.export.formats.executorch import ExecuTorchExporter
from harness.export.formats.exporter import Exporter, ExportError
from harness.export.formats.onnx import ONNXExporter
from harness.export.formats.openvino import OpenVINOExporter
from harness.export.formats.quantised_onnx import QuantisedONNXExporter
from harness.export.formats.torch_export import TorchExportExporter
from harness.export.formats.torchscript import TorchScriptExporter
from harness.export.formats.weights_files import PyTorchExporter, SafetensorsExporter

FORMATS: dict[str, type[Exporter]] = {
    exporter.name: exporter
    for exporter in (
        TorchScriptExporter,
        ONNXExporter,
        QuantisedONNXExporter,
        PyTorchExporter,
        SafetensorsExporter,
        TorchExportExporter,
        OpenVINOExporter,
        ExecuTorchExporter,
    )
}
"""Exporters by the name of their format."""


def refuse_unlisted(names: Iterable[str]) -> None:
    """Makes sure that every format can be asked for and has tests: one that is not listed would be exported, judged by nothing, and green.

    Args:
        names: Names of formats.

    Raises:
        RuntimeError: One is missing in the catalogue or in the config.
    """
    for name in names:
        if name not in CATALOGUE["exports"].formats:
            raise RuntimeError(
                f"the format {name!r} has no tests: add it to `_RUNNING` or `_WEIGHTS` in harness/catalogue/export.py"
            )
        if name not in get_args(ExportFormat) and name != QuantisedONNXExporter.name:
            raise RuntimeError(f"the format {name!r} cannot be asked for: add it to `ExportFormat` in harness/config.py")


refuse_unlisted(FORMATS)


def make_exporter(name: str, options: ExportConfig) -> Exporter:
    """The exporter of a format, as the options want it.

    Raises:
        ExportError: There is no such format.
    """
    check_formats([name])
    return FORMATS[name].from_options(options)


def check_formats(names: Iterable[str]) -> None:
    """Makes sure that formats exist.

    Raises:
        ExportError: One does not; the message has the nearest name.
    """
    for name in names:
        if name not in FORMATS:
            raise ExportError(f"no export format {name!r}.{did_you_mean(name, FORMATS)} Valid: {', '.join(FORMATS)}")
