"""ExecuTorch, ``.pte``: a program whose memory was planned when it was exported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, no_grad

from harness.batches import Batch
from harness.export.exported_program import Captured, capture, one_line, quiet
from harness.export.exporter import Attempt, Exported, Exporter, ExportError, Inspection
from harness.export.program import LARGEST_BATCH, Program, Runner

_ROWS = 64
"""Rows that memory is planned for where the config names no limit of its own."""

_PLANNED_BYTES = 256 << 20
"""Memory that such a plan may take; a model that needs more gets fewer rows."""

_XNNPACK = "XnnpackBackend"

_ERRORS = {
    "10": "not supported, or a size beyond the plan",
    "12": "invalid argument",
    "13": "invalid type",
    "14": "an operator that the runtime lacks",
    "21": "out of memory",
    "23": "invalid program",
}
"""The runtime's error codes, which is all that its messages hold."""


@dataclass(frozen=True)
class _Lowered:
    """A program ready to be written.

    Attributes:
        content: The file.
        rows: Rows that it was planned for; ``None`` where the batch is fixed.
        plan: Bytes that it sets aside.
        limits: Sizes of each free axis that it takes.
    """

    content: bytes
    rows: int | None
    plan: int
    limits: dict[str, tuple[int, int | None]]


class ExecuTorchExporter(Exporter):
    """ExecuTorch with XNNPACK's kernels, or with the portable ones where XNNPACK does not take the model."""

    name = "executorch"
    filename = "model.pte"
    packages = ("executorch",)
    extra = "executorch"
