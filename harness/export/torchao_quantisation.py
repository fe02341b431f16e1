"""int8 copies of a model by torchao, before any export."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from torch import nn

from harness.export.formats.exporter import ExportError, MissingPackageError
from harness.export.onnx.quantisation import silent
from harness.models.cloning import clone
from harness.user_code import raised

TorchKind = Literal["weight_only", "dynamic"]


def quantise_torch(model: nn.Module, kind: TorchKind) -> nn.Module:
    """A copy of a model whose linear layers have int8 weights; embeddings and convolutions stay as they are.

    A linear layer that shares its weight with an embedding no longer does so in the copy.

    Args:
        model: The model, on the CPU; left as it is.
        kind: ``weight_only``, or ``dynamic`` to round the inputs of those layers too while the model runs.

    Raises:
        ExportError: The model has no linear layer, or torchao does not take it.
        MissingPackageError: torchao is not installed.
    """
    if importlib.util.find_spec("torchao") is None:
        raise MissingPackageError(
            "quantisation in torch needs torchao, not installed here: pip install 'pytest-modeltiers[torchao]'"
        )
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        raise ExportError(f"{type(model).__name__} has no nn.Linear, and torchao's int8 configs quantise nothing else")
    copy = clone(model).eval()
    with silent():
        try:
            _apply(copy, kind)
        except Exception as error:
            raise ExportError(f"torchao's {kind} quantisation raised {raised(error)}") from error
    return copy


def _apply(model: nn.Module, kind: TorchKind) -> None:
    import torchao.quantization as torchao  # type: ignore[import-not-found,unused-ignore]

    configs: dict[str, Any] = {
        "weight_only": torchao.Int8WeightOnlyConfig,
        "dynamic": torchao.Int8DynamicActivationInt8WeightConfig,
    }
    torchao.quantize_(model, configs[kind]())
