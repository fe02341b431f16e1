"""State that torch keeps for the whole process under private names. All of it was seen in torch 2.13."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.modules import module


def global_hooks() -> dict[str, Any]:
    """The hooks on all modules, by the name of their register: ``_global_*`` of ``torch.nn.modules.module``.

    Without it, hooks that one model leaves on all modules reach the next model.
    """
    found = {name: value for name, value in vars(module).items() if name.startswith("_global_")}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in found.items()}


def set_global_hooks(hooks: dict[str, Any]) -> None:
    """Leaves only the given hooks on all modules; the registers stay the same objects, to which handles of hooks refer."""
    for name, value in hooks.items():
        register = getattr(module, name)
        if isinstance(register, dict):
            register.clear()
            register.update(value)
        else:
            setattr(module, name, value)


def print_options() -> dict[str, Any]:
    """How tensors are printed, as ``torch.set_printoptions`` takes it: ``torch._tensor_str.PRINT_OPTS``.

    Without it, options that one model sets stay for the next model.
    """
    return dict(vars(torch._tensor_str.PRINT_OPTS))


@contextmanager
def without_export_log() -> Iterator[None]:
    """A block in which torch's TorchScript-based exporter writes no graph to the process's output: ``torch._C._jit_onnx_log``.

    Without it, the whole graph stands beside the finding of an export that failed.
    """
    with patch.object(torch._C, "_jit_onnx_log", lambda *_: None, create=True):
        yield


class ModeStacks:
    """The modes that are on: of functions, of operators, and of what is kept for the backward pass; and the default device.

    ``torch._C`` has their stacks. Without them, a mode that one model leaves on reaches the next model.
    """

    def __init__(self) -> None:
        self.lengths = (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack())
        self.keeping = torch._C._autograd._top_saved_tensors_default_hooks(True)
        context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        self.device = None if context is None else context.device

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModeStacks) and (self.lengths, self.keeping) == (other.lengths, other.keeping)

    def __hash__(self) -> int:
        return hash(self.lengths)

    def trim(self) -> None:
        """Leaves the modes that were entered since."""
        while torch._C._len_torch_dispatch_stack() > self.lengths[1]:
            torch._C._pop_torch_dispatch_stack()
        while torch._C._len_torch_function_stack() > self.lengths[0]:
            torch._C._pop_torch_function_stack()
        while (top := torch._C._autograd._top_saved_tensors_default_hooks(True)) is not None and top != self.keeping:
            torch._C._autograd._pop_saved_tensors_default_hooks()
