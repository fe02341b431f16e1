"""Formats that hold weights alone: a state dict, and safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.errors import WeightsError
from harness.export.formats.exporter import Attempt, Exported, Exporter, ExportError, Inspection
from harness.export.program import LogitsOf, Program, Runner
from harness.models.copies import Copies
from harness.models.weights import load_weights, not_finite, read_state


class WeightsFile(Exporter):
    """A file that fills a model built from its code."""

    weights_only = True

    def load(self, path: Path, program: Program) -> Runner:
        """Fills a copy of the model whose own weights were wiped out first, so that whatever the file lacks shows."""
        forward = LogitsOf(_emptied(program.forward.model), program.forward.adapter, program.fields)
        try:
            load_weights(forward.model, path)
        except WeightsError as error:
            raise ExportError(str(error).removeprefix("`weights`: ")) from None

        def run(batch: Batch) -> Tensor:
            with torch.no_grad():
                return forward(*program.ordered(batch))

        return run

    def inspect(self, path: Path, program: Program) -> Inspection:
        """Whether every tensor of the model is there, of its shape and finite."""
        state = read_state(path)
        expected = program.forward.model.state_dict()
        problems = [f"`{name}` holds NaN or infinity" for name in not_finite(state)]
        if not state.keys() <= expected.keys():
            problems.append(f"holds `{min(state.keys() - expected.keys())}`, which the model has not")
        parameters = sum(tensor.numel() for tensor in state.values())
        facts = {"tensors": len(state), "values": parameters, "file_bytes": path.stat().st_size}
        return Inspection(facts, tuple(problems))


class PyTorchExporter(WeightsFile):
    """``torch.save`` of the state dict."""

    name = "pytorch"
    filename = "model.pt"

    def export(self, program: Program, path: Path) -> Exported:
        """Writes the state dict."""
        state = program.forward.model.state_dict()
        for name, value in state.items():
            if not isinstance(value, Tensor):
                kind = type(value).__name__
                raise ExportError(f"`{name}` of the state dict is a {kind}, and a file that is safe to load holds only tensors")
        torch.save(state, path)
        return Exported((Attempt("state dict"),))


class SafetensorsExporter(WeightsFile):
    """Safetensors: the weights and nothing that could run."""

    name = "safetensors"
    filename = "model.safetensors"
    packages = ("safetensors",)

    def export(self, program: Program, path: Path) -> Exported:
        """Writes the weights; of tensors that share memory, one."""
        from safetensors.torch import save_model

        try:
            save_model(program.forward.model, str(path), metadata={"format": "pt"})
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"safetensors: {str(error).splitlines()[0]}") from error
        return Exported((Attempt("save_model"),))


@torch.no_grad()
def _emptied(model: nn.Module) -> nn.Module:
    """A copy with NaN (zero for integers) in everything that a state dict holds."""
    empty = Copies(model).fresh()
    for tensor in empty.state_dict().values():
        tensor.fill_(float("nan") if tensor.is_floating_point() or tensor.is_complex() else 0)
    return empty.eval()
