"""What a model keeps beside its parameters, and which of it training is meant to change."""

from __future__ import annotations

from torch import Tensor, nn

from harness.compat import NormBase

_FLAGS = ("requires_grad", "require_grad", "requires_grads", "requires_gradient")
"""Attributes that are set on modules to freeze them, and misspelt on parameters; PyTorch reads none of them."""


def lasting_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that the state dict holds; others are caches."""
    saved = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def running_statistics(model: nn.Module) -> set[str]:
    """Names of buffers that are meant to change: statistics of norms, power iterations of spectral norms, counters."""
    found = set()
    for path, module in model.named_modules():
        is_kept = isinstance(module, NormBase) or type(module).__module__.startswith("torch.")
        for name, buffer in module.named_buffers(recurse=False):
            if is_kept or not buffer.is_floating_point():
                found.add(f"{path}.{name}".lstrip("."))
    return found


def frozen_norms(model: nn.Module) -> list[str]:
    """Paths of the norms over the batch that are inside a part of the model of which no parameter is trained."""
    frozen = [
        path
        for path, part in model.named_modules()
        if path and any(True for _ in part.parameters()) and not any(p.requires_grad for p in part.parameters())
    ]
    norms = (path for path, module in model.named_modules() if isinstance(module, NormBase))
    return [path for path in norms if any(path == part or path.startswith(f"{part}.") for part in frozen)]


def frozen_by_a_flag(model: nn.Module) -> list[tuple[str, str]]:
    """Paths of modules and parameters that an attribute says are frozen though they are trained, with its name."""
    found = [
        (path, flag)
        for path, module in model.named_modules()
        if any(parameter.requires_grad for parameter in module.parameters())
        for flag in _false_flags(module)
    ]
    found += [(name, flag) for name, each in model.named_parameters() if each.requires_grad for flag in _false_flags(each)]
    return found


def _false_flags(owner: nn.Module | nn.Parameter) -> list[str]:
    # `trainable` is a word of Keras; on a class of the user's it may be a setting for something else.
    of_torch = type(owner).__module__.partition(".")[0] == "torch"
    return [flag for flag in ((*_FLAGS, "trainable") if of_torch else _FLAGS) if vars(owner).get(flag) is False]
