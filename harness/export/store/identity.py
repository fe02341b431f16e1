"""What a model is, as a hash: its weights, everything else it holds, its code, the task and the versions of what runs it."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from harness.export.program import Program
from harness.export.store.imports import own_files, with_imports
from harness.export.store.object_hash import ObjectHash, never_again
from harness.files import file_hash, json_hash

_PACKAGES = (
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnx-ir",
    "safetensors",
    "transformers",
    "openvino",
    "executorch",
)


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
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _own_code() -> str:
    """A hash of the exporters' own code, and of what they are built on."""
    room = Path(__file__).parent.parent
    files = [room / "program.py", *(room / "formats").rglob("*.py"), *(room / "onnx").rglob("*.py")]
    return json_hash([file_hash(path) for path in sorted(files)])
