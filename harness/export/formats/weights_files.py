"""Formats that hold only weights: a state dict, and safetensors; and what is known of the tensors in such a file without having it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.export.formats import Attempt, Exported, Exporter, ExportError, Inspection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.batches import Batch
    from harness.export.program import Program, Runner


class WeightsExporter(Exporter):
    """A file that fills a model built from its code; a format of this kind says how it is written and read."""

    kind = "weights"

    def read_checked(self, path: Path) -> dict[str, Tensor]:
        """The tensors of a file that may come from anywhere; by default as they are read elsewhere.

        Raises:
            WeightsError: It is damaged, would run code, or holds something else.
        """
        return self.read_weights(path)

    def load(self, path: Path, program: Program) -> Runner:
        """Fills a copy of the model whose own weights were overwritten first, so that whatever the file lacks shows."""
        import torch

        from harness.errors import WeightsError
        from harness.export.program import OutputsOf
        from harness.models.weights import fill

        forward = OutputsOf(_emptied(program.forward.model), program.forward.adapter, program.fields, program.outputs)
        try:
            fill(forward.model, self._read(path), path.name)
        except WeightsError as error:
            raise ExportError(str(error).removeprefix("`weights`: ")) from None

        def run(batch: Batch) -> Tensor | tuple[Tensor, ...]:
            with torch.no_grad():
                found: Tensor | tuple[Tensor, ...] = forward(*program.ordered(batch))
                return found

        return run

    def inspect(self, path: Path, program: Program) -> Inspection:
        """Whether every tensor of the file is one of the model's, and finite."""
        from harness.models.weights import not_finite

        state = self._read(path)
        expected = program.forward.model.state_dict()
        problems = [f"`{name}` holds NaN or infinity" for name in not_finite(state)]
        if not state.keys() <= expected.keys():
            problems.append(f"holds `{min(state.keys() - expected.keys())}`, which the model does not have")
        facts = {
            "tensors": len(state),
            "values": sum(tensor.numel() for tensor in state.values()),
            "file_bytes": path.stat().st_size,
        }
        return Inspection(facts, tuple(problems))

    def _read(self, path: Path) -> dict[str, Tensor]:
        from harness.errors import UserError
        from harness.export import one_line

        try:
            return self.read_checked(path)
        except UserError:
            raise
        except Exception as error:  # whatever the format's reader raises at a damaged file
            raise ExportError(f"{path.name} cannot be read: {one_line(error)}") from error


class PyTorchExporter(WeightsExporter):
    """``torch.save`` of the state dict."""

    name = "pytorch"
    filename = "model.pt"
    by_default = True

    def export(self, program: Program, path: Path) -> Exported:
        """Writes the state dict."""
        import torch
        from torch import Tensor

        state = program.forward.model.state_dict()
        for name, value in state.items():
            if not isinstance(value, Tensor):
                kind = type(value).__name__
                raise ExportError(f"`{name}` of the state dict is a {kind}, and a file that is safe to load holds only tensors")
        torch.save(state, path)
        return Exported((Attempt("state dict"),))

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """The state dict, or the one inside a checkpoint."""
        import torch

        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, expected names with tensors")
        return content

    def read_checked(self, path: Path) -> dict[str, Tensor]:
        """The state dict, unless a scanner of pickles or torch finds that loading it would run code."""
        from harness.models.weights import read_state

        return read_state(path)


class SafetensorsExporter(WeightsExporter):
    """Safetensors: the weights and nothing that could run."""

    name = "safetensors"
    filename = "model.safetensors"
    packages = ("safetensors",)
    runs_with = ("torch", "safetensors.torch")

    def export(self, program: Program, path: Path) -> Exported:
        """Writes the weights; of tensors that share memory, one."""
        from safetensors.torch import save_model

        try:
            save_model(program.forward.model, str(path), metadata={"format": "pt"})
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"safetensors: {str(error).splitlines()[0]}") from error
        return Exported((Attempt("save_model"),))

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """The tensors."""
        from safetensors.torch import load_file

        return load_file(path)

    def read_checked(self, path: Path) -> dict[str, Tensor]:
        """The tensors."""
        from harness.models.weights import read_state

        return read_state(path)


def _emptied(model: nn.Module) -> nn.Module:
    """A copy with NaN (zero for integers) in everything that a state dict holds."""
    import torch

    from harness.models.copies import Copies

    empty = Copies(model).fresh()
    with torch.no_grad():
        for tensor in empty.state_dict().values():
            tensor.fill_(float("nan") if tensor.is_floating_point() or tensor.is_complex() else 0)
    return empty.eval()


@dataclass(frozen=True)
class TensorFacts:
    """What is known of a tensor.

    Attributes:
        shape: Its shape.
        dtype: Its dtype, such as ``float32``.
        tied: Names of the other tensors on the same memory.
        sha256: Of its values; empty where any values are as good.
    """

    shape: tuple[int, ...]
    dtype: str
    tied: tuple[str, ...] = ()
    sha256: str = ""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> TensorFacts:
        """The facts as JSON has them.

        Raises:
            KeyError: There is no shape, or no dtype.
        """
        return cls(tuple(entry["shape"]), str(entry["dtype"]), tuple(entry.get("tied", ())), str(entry.get("sha256", "")))

    @property
    def form(self) -> str:
        """Dtype and shape, for messages."""
        return f"{self.dtype}{list(self.shape)}"


def facts_of(state: Mapping[str, Any], values: bool = True) -> dict[str, TensorFacts]:
    """The facts of each tensor of a state dict.

    Args:
        state: The state dict; what is no tensor in it is left out.
        values: Whether the values count.
    """
    from torch import Tensor

    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    places = {name: (tensor.data_ptr(), tuple(tensor.shape)) for name, tensor in tensors.items()}

    def tied(name: str) -> tuple[str, ...]:
        return tuple(other for other, place in places.items() if other != name and place == places[name])

    return {
        name: TensorFacts(
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            tied=tied(name) if tensor.numel() else (),
            sha256=_digest(tensor) if values else "",
        )
        for name, tensor in tensors.items()
    }


def misfits(state: Mapping[str, Any], expected: Mapping[str, TensorFacts]) -> dict[str, list[str]]:
    """How a state dict differs from what is expected of it: names of tensors by what is wrong; empty where nothing is.

    A name may be missing where a tensor that it is tied to is there.
    """
    found = facts_of(state, values=False)
    wrong = {
        "missing": [name for name, facts in expected.items() if name not in found and not found.keys() & {*facts.tied}],
        "unexpected": [name for name in found if name not in expected],
        "shape or dtype": [
            f"{name} {facts.form} instead of {expected[name].form}"
            for name, facts in found.items()
            if name in expected and facts.form != expected[name].form
        ],
    }
    if not any(wrong.values()):
        known = {name: facts.sha256 for name, facts in expected.items() if name in found and facts.sha256}
        wrong["other values"] = [name for name, sha256 in known.items() if _digest(state[name]) != sha256]
    return {what: names for what, names in wrong.items() if names}


def _digest(tensor: Tensor) -> str:
    import torch

    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()
