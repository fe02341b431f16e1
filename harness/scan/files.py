"""The scan of all files that come together, such as those of a gist; of weights, by picklescan."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import IO

from harness.scan.rules import Finding
from harness.scan.source import scan_source

_NATIVE = (".so", ".pyd", ".dll", ".dylib", ".pyc", ".pyo", ".whl", ".egg", ".zip")
_CODE = (".pt2", ".onnx", ".pte", ".jit", ".torchscript")
_PYTHON = (".py", ".pyw", ".pyi")
_INSTALLED = frozenset(
    {"torch", "numpy", "harness", "pytest", "pytest_modeltiers", "transformers", "lightning", "safetensors", "conftest"}
)


def scan_files(files: Mapping[str, bytes]) -> list[Finding]:
    """What files that are imported together would do that a model has no need to do."""
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


PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
"""Endings of files that may hold a pickle."""

_STATE = (".pt", ".pth", ".bin", ".ckpt")
"""Endings of files in which there is always one, that names at least how tensors are rebuilt."""

logging.getLogger("picklescan").addHandler(logging.NullHandler())  # it reports to us, not to the user's terminal


def scan_weights(content: IO[bytes], file: str) -> list[Finding]:
    """What a file of weights would run if it were unpickled.

    Without picklescan (the extra ``gist``), or where it finds nothing to scan, the file as a whole is a finding: what was not looked at
    is not sound.
    """
    try:
        from picklescan.scanner import SafetyLevel, scan_bytes
    except ImportError:
        return [Finding("unpickling", file, 0, "a pickle", detail="not looked into: picklescan is not installed")]
    try:
        result = scan_bytes(content, file, file_ext=f".{file.rpartition('.')[2]}")
    except Exception as error:  # whatever a broken file does to a scanner
        return [Finding("unpickling", file, 0, "a pickle", detail=f"picklescan: {type(error).__name__}")]
    named = {f"{found.module}.{found.name}" for found in result.globals if found.safety is not SafetyLevel.Innocuous}
    if result.scan_err or not result.scanned_files or (file.endswith(_STATE) and not result.globals):
        return [Finding("unpickling", file, 0, "a pickle", detail="picklescan could not read it")]
    return [Finding("unpickling", file, 0, name) for name in sorted(named)]


def dangerous_names(content: IO[bytes], file: str) -> list[str]:
    """Names in a file of weights that picklescan knows to be dangerous; none where it is not installed or cannot read the file."""
    try:
        from picklescan.scanner import SafetyLevel, scan_bytes

        result = scan_bytes(content, file, file_ext=f".{file.rpartition('.')[2]}")
    except Exception:  # not installed, or a file that torch will have a word for
        return []
    return sorted({f"{found.module}.{found.name}" for found in result.globals if found.safety is SafetyLevel.Dangerous})
