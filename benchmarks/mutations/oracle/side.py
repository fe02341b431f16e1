"""A model to look at, with its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.batches import Batch, Sizes, make_batch, pad_right
from harness.models.copies import clone
from harness.runtime import seeded
from harness.tasks import TaskSpec

_FINE, _COARSE = 1e-9, 1e-4
"""Relative difference that is no rounding, in float64 and below."""


@dataclass(frozen=True, eq=False)
class Side:
    """A model, made anew whenever one is needed.

    Attributes:
        factory: Makes it, its weights from the global random state.
        task: What it is for.
    """

    factory: Callable[[], nn.Module]
    task: TaskSpec

    @cached_property
    def adapter(self) -> Adapter:
        """How it is called."""
        return make_adapter(self.task)

    @cached_property
    def dtype(self) -> torch.dtype:
        """float64, in which nothing hides in rounding; float32 where the model does not run there."""
        try:
            self.logits(self.model(torch.float64), self.batch(3, dtype=torch.float64))
        except Exception:
            return torch.float32
        return torch.float64

    def model(self, dtype: torch.dtype | None = None, seed: int = 0) -> nn.Module:
        """A model in eval mode that was never called."""
        dtype = dtype or self.dtype
        return clone(self._made(dtype)) if not seed else self._make(dtype, seed)

    def batch(self, rows: int, length: int | None = None, seed: int = 0, dtype: torch.dtype | None = None) -> Batch:
        """A random batch, of full length by default."""
        dtype = dtype or self.dtype
        length = length or self.longest
        batch = make_batch(self.task, Sizes(rows, length, length), 1000 + seed)
        return {name: t.to(dtype) if t.is_floating_point() and name != "labels" else t for name, t in batch.items()}

    def padded(self, lengths: list[int], seed: int = 0) -> Batch:
        """A batch at full length whose rows hold only so many real tokens."""
        return pad_right(self.task, self.batch(len(lengths), seed=seed), lengths, self.longest)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits of a copy of the batch, under a fixed seed."""
        with seeded(0), torch.no_grad():
            return self.adapter.logits(model, {name: tensor.clone() for name, tensor in batch.items()})

    def train(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch after its backward pass, in the model's mode."""
        with seeded(0):
            loss = self.adapter.loss(self.adapter.logits(model, {k: v.clone() for k, v in batch.items()}), batch)
            if loss.requires_grad:
                loss.backward()
        return loss.detach()

    def _make(self, dtype: torch.dtype, seed: int) -> nn.Module:
        with seeded(seed):
            return self.factory().to(dtype).eval()

    def _made(self, dtype: torch.dtype) -> nn.Module:
        if dtype not in self._kept:
            self._kept[dtype] = self._make(dtype, 0)
        return self._kept[dtype]

    @cached_property
    def _kept(self) -> dict[torch.dtype, nn.Module]:
        return {}

    @property
    def longest(self) -> int:
        """The full length; 1 where there are no sequences."""
        return self.task.max_seq_len or 1

    @property
    def lengths(self) -> Iterator[int]:
        """Some lengths, the full one among them."""
        yield from sorted({1, 2, max(1, self.longest // 2), max(1, self.longest - 1), self.longest})

    @property
    def tokens(self) -> str:
        """The field of tokens that are predicted or read."""
        return self.task.causal_field


def differ(left: Tensor, right: Tensor, resolution: float | None = None) -> bool:
    """Whether two logits differ by more than rounding, or than another resolution in float64; NaN in one alone counts."""
    resolution = (resolution or _FINE) if left.dtype is torch.float64 else _COARSE
    if left.shape != right.shape or not torch.equal(left.isfinite(), right.isfinite()):
        return True
    left, right = left.double().nan_to_num(), right.double().nan_to_num()
    return bool((left - right).abs().max() > resolution * left.abs().max())
