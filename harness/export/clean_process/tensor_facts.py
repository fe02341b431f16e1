"""What is known of a state dict without having it: the shape, dtype, ties and values of each tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()
