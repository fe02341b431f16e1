"""What every metric here is: a torchmetrics metric that is fed answers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from harness.evaluation.answers import Answers


class Meter(Metric):
    """A metric whose states are sums, merged over processes by torchmetrics; its memory does not grow with the data.

    States are float64: a float32 sum stands still from 16 million on.
    """

    full_state_update = False

    sums: ClassVar[tuple[str, ...]] = ()
    """States, each the sum of what the processes found."""

    def __init__(self, shape: tuple[int, ...] = (), **synchronisation: Any) -> None:
        super().__init__(**synchronisation)
        for name in self.sums:
            self.add_state(name, torch.zeros(shape, dtype=torch.float64, device="cpu"), dist_reduce_fx="sum")

    @abstractmethod
    def update(self, answers: Answers) -> None:
        """Takes a batch into account."""

    @abstractmethod
    def compute(self) -> Tensor | None:
        """The metric, a scalar; ``None`` where it is not defined. A collective call."""
