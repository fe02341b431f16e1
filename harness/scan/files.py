"""The scan of all files that come together, such as those of a gist."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath

from harness.scan.findings import Finding
from harness.scan.source import scan_source
from harness.scan.weights import PICKLED, scan_weights

_NATIVE = (".so", ".pyd", ".dll", ".dylib", ".pyc", ".pyo", ".whl", ".egg", ".zip")
_CODE = (".pt2", ".onnx", ".pte", ".jit", ".torchscript")
_PYTHON = (".py", ".pyw", ".pyi")
_INSTALLED = frozenset(
    {"torch", "numpy", "harness", "pytest", "pytest_modeltiers", "transformers", "lightning", "safetensors", "conftest"}
)


def scan_files(files: Mapping[str, bytes]) -> list[Finding]:
    """What files that are imported together would do that a model has no need to do.

    Args:
        files: Contents by name.
    """
    return [finding for name, content in sorted(files.items()) for finding in _scan_one(name, content)]


def _scan_one(name: str, content: bytes) -> list[Finding]:
    path = PurePosixPath(name)
    if path.suffix in _PYTHON:
        own = [] if path.stem not in _INSTALLED | sys.stdlib_module_names else [Finding("shadowing", name, 0, f"`{path.stem}`")]
        return own + scan_source(content, name)
    if path.suffix in PICKLED:
        return scan_weights(io.BytesIO(content), name)
    if path.suffix in _NATIVE or content.startswith((b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"PK\x03\x04")):
        return [Finding("foreign_file", name, 0, "it", detail="compiled or packed code")]
    if path.suffix in _CODE:
        return [Finding("foreign_file", name, 0, "it", detail=f"{path.suffix} can hold code, or name files elsewhere")]
    return []
