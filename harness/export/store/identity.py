"""What a model is, as a hash: its weights, its code, the task and the versions of what runs it."""

from __future__ import annotations

import hashlib
import inspect
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.export.program import Program
from harness.export.store.cache import file_hash, key_of
from harness.user_code import is_users_file

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


def identity_of(program: Program) -> str:
    """A hash of everything that an export of a program depends on."""
    model, adapter = program.forward.model, program.forward.adapter
    return key_of(
        weights_hash(model),
        code_hash(model, adapter),
        repr(model),
        program.task,
        [program.fields, program.sizes, program.axes, program.limits],
        [{name: _tensor_hash(tensor) for name, tensor in batch.items()} for batch in (program.example, *program.samples)],
        versions(),
        _own_code(),
    )


def weights_hash(model: nn.Module) -> str:
    """A hash of every parameter and buffer, those that no state dict holds too."""
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return key_of([(name, _tensor_hash(tensor), tensor.requires_grad) for name, tensor in tensors])


def code_hash(*objects: object) -> str:
    """A hash of the files that define objects' classes, and of the files beside those that are imported."""
    classes = {type(part) for thing in objects for part in (thing.modules() if isinstance(thing, nn.Module) else (thing,))}
    own = {Path(file) for file in map(_file_of, classes) if file and is_users_file(file)}
    folders = {file.parent for file in own if "site-packages" not in file.parts}
    beside = {
        Path(file)
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None)) and Path(file).parent in folders
    }
    typed = sorted(inspect.getsource(cls) for cls in classes if cls.__module__ == "__main__" and _has_source(cls))
    return key_of(sorted(file_hash(path) for path in own | beside if path.is_file()), typed)


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
    return key_of([file_hash(path) for path in sorted(files)])


def _tensor_hash(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.flatten().view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()


def _file_of(cls: type) -> str | None:
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def _has_source(cls: type) -> bool:
    try:
        inspect.getsource(cls)
    except (OSError, TypeError):
        return False
    return True
