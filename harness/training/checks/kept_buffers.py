"""What a model keeps beside its parameters, and which of it training is meant to change."""

from __future__ import annotations

from torch import Tensor, nn

from harness.compat import NormBase


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
