"""Parts of a model that hold integers in place of weights, and what follows from it.

PyTorch's quantised modules run in float32 alone and have no gradient. The dynamic ones also take the scale of their integers from the
range of the whole batch, so that a row's rounding depends on what stands beside it.
"""

from __future__ import annotations

from torch import Tensor, nn

from harness.evidence import WHOLE

_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def quantised_part(model: nn.Module) -> str:
    """Path of the first quantised module; empty where there is none."""
    found = (
        path for path, module in model.named_modules() if type(module).__module__.startswith(_PACKAGES) or _holds_packed(module)
    )
    return next((path or WHOLE for path in found), "")


def is_packed(tensor: Tensor) -> bool:
    """Whether a tensor is made of others, as the quantised weights of torchao are: most arithmetic in place is not defined for it."""
    return hasattr(tensor, "__tensor_flatten__")


def _holds_packed(module: nn.Module) -> bool:
    return any(map(is_packed, module.parameters(recurse=False)))


def dynamically_quantised_part(model: nn.Module) -> str:
    """Path of the first module that quantises what it is given by the range of the whole batch; empty where there is none."""
    quantised = ((path, type(module).__module__) for path, module in model.named_modules())
    return next((path or WHOLE for path, home in quantised if home.startswith(_PACKAGES) and ".dynamic" in home), "")
