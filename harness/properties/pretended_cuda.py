"""A look of CUDA on tensors of the ``meta`` device, for code that asks which device it is on.

``if x.is_cuda: t = t.cuda()`` leaves its tensor on the CPU when it meets a simulated device, and is right on a real one. Within this mode
tensors of the simulated device answer as CUDA tensors do, and whatever is sent to CUDA goes to the simulated device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_IS_CUDA = Tensor.is_cuda.__get__  # type: ignore[attr-defined]
_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]


class PretendedCuda(TorchFunctionMode):
    """Tensors of the ``meta`` device look like CUDA tensors.

    Attributes:
        asked: Whether anything asked, or sent something to CUDA.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answers for CUDA, or runs the function on the simulated device."""
        if func in (_IS_CUDA, _DEVICE, Tensor.get_device):
            if not args[0].is_meta:
                return func(*args)
            if func == _DEVICE:
                return torch.device("cuda", 0)
            self.asked = True
            return True if func == _IS_CUDA else 0
        if func is Tensor.cuda:
            self.asked = True
            return args[0].to("meta")
        if func is torch.device:  # a name, which is answered where it is used
            return func(*args, **(kwargs or {}))
        return func(*map(self._simulated, args), **{name: self._simulated(value) for name, value in (kwargs or {}).items()})

    def _simulated(self, value: Any) -> Any:
        """The simulated device in the place of a CUDA device."""
        named = isinstance(value, str) and value.partition(":")[0] == "cuda"
        if named or (isinstance(value, torch.device) and value.type == "cuda"):
            self.asked = self.asked or named
            return torch.device("meta")
        return value


@contextmanager
def pretending_cuda() -> Iterator[PretendedCuda]:
    """A block in which the simulated device looks like CUDA, and CUDA seems to be at hand."""
    pretended = PretendedCuda()

    def available() -> bool:
        pretended.asked = True
        return True

    with patch.object(torch.cuda, "is_available", available), pretended:
        yield pretended
