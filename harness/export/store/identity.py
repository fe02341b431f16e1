"""What a model is, as a hash: its weights, everything else it holds, its code, the task and the versions of what runs it."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from harness.export.program import Program
from harness.export.store.imports import own_files, with_imports
from harness.export.store.object_hash import ObjectHash, never_again
from harness.files import file_hash, json_hash
from harness.formats import Format, formats

_PACKAGES = ("torch", "numpy", "transformers", "onnx-ir")
"""Packages on which a file may depend, beside those of its format."""


def identity_of(program: Program, run: str = "") -> str:
    """A hash of everything that an export of a program depends on, or that its noise and its speed do.

    Args:
        program: The program.
        run: A name for this run of this model, where several processes share one; what cannot be read of the model is then taken for the
            same within the run. By default, it is taken for the same as nothing.
    """
    model, adapter = program.forward.model, program.forward.adapter
    objects = ObjectHash((lambda: run) if run else never_again)
    return json_hash(
        objects.of(model, adapter, program.task, program.example, program.samples),
        with_imports(own_files(objects.seen)),
        [program.fields, program.sizes, program.axes, program.limits],
        [str(torch.get_default_dtype()), torch.get_float32_matmul_precision()],
        versions(),
        _own_code(),
    )


@cache
def versions() -> dict[str, str]:
    """Versions of what an export or a timing may depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for name in dict.fromkeys([*_PACKAGES, *(package for format in formats().values() for package in format.packages)]):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def code_of(exporter: type[Format]) -> str:
    """A hash of the file in which an exporter of another package is written; empty of this project's, which every identity holds."""
    if exporter.__module__.startswith("harness."):
        return ""
    file = getattr(sys.modules[exporter.__module__], "__file__", None)
    return file_hash(Path(file)) if file else ""


@cache
def _own_code() -> str:
    """A hash of the exporters' own code, and of what they are built on."""
    room = Path(__file__).parent.parent
    files = [room / "program.py", *(room / "formats").rglob("*.py"), *(room / "onnx").rglob("*.py")]
    return json_hash([file_hash(path) for path in sorted(files)])
