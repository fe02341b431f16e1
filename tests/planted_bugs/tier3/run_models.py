"""Plain models whose training goes wrong in one way each, and their corrected twins, a few lines apart.

A process that is given one imports this file, so it imports no Lightning.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 16
COLUMNS = ("age", "income", "city", "height", "weight", "score")


class Net(nn.Module):
    """Sound: two layers and a head."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(6, WIDTH)
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features))

    def body(self, features: Tensor) -> Tensor:
        return F.gelu(self.middle(F.gelu(self.stem(features))))


class Normed(Net):
    """With something between its layers."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm = norm()

    def body(self, features: Tensor) -> Tensor:
        return F.gelu(self.middle(self.norm(F.gelu(self.stem(features)))))


# ---------------------------------------------------------------------------------------------------------------- seeded_repeat


class Noise(nn.Module):
    """Gaussian noise while training, drawn under the global seed."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.draw(x) if self.training else x

    def draw(self, x: Tensor) -> Tensor:
        return torch.randn_like(x)


class OwnNoise(Noise):
    """From a generator that no seed reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng()

    def draw(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.rng.standard_normal(x.shape)).to(x.dtype)


class ClassCounter(nn.Module):
    """Grows with a counter that all instances share, so that the second training begins where the first one ended."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 0.1 * self.counted(int(self.training)))

    def counted(self, more: int) -> float:
        type(self).calls += more
        return self.calls


class BufferCounter(ClassCounter):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def counted(self, more: int) -> float:
        self.steps = self.steps + more
        return float(self.steps)


class Hashed(nn.Module):
    """Puts columns into the places that hash() gives them, which are others in each process."""

    def forward(self, features: Tensor) -> Tensor:
        return features[:, sorted(range(6), key=self.place)]

    def place(self, column: int) -> object:
        return hash(COLUMNS[column])


class Ordered(Hashed):
    def place(self, column: int) -> object:
        return COLUMNS[column]


class Columns(Net):
    def __init__(self, order: type[Hashed]) -> None:
        super().__init__()
        self.order = order()

    def body(self, features: Tensor) -> Tensor:
        return super().body(self.order(features))


class UnseededStart(Net):
    """Draws its first weights from NumPy's new generator."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.middle.weight.copy_(torch.from_numpy(self.draw() / WIDTH**0.5))

    def draw(self) -> np.ndarray:
        return np.random.default_rng().standard_normal((WIDTH, WIDTH))


class SeededStart(UnseededStart):
    def draw(self) -> np.ndarray:
        return np.random.standard_normal((WIDTH, WIDTH))


# ----------------------------------------------------------------------------------------------------------------------- resume


class PlainAverage(nn.Module):
    """Norms by a moving average in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.keep(torch.ones(WIDTH))

    def keep(self, average: Tensor) -> None:
        self.average = average

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.average = 0.9 * self.average + 0.1 * x.detach().abs().mean(0)
        return x / self.average


class UnsavedAverage(PlainAverage):
    """The same in a buffer that state_dict() leaves out."""

    def keep(self, average: Tensor) -> None:
        self.register_buffer("average", average, persistent=False)


class BufferedAverage(PlainAverage):
    def keep(self, average: Tensor) -> None:
        self.register_buffer("average", average)


class Annealed(nn.Module):
    """A temperature that falls with a counter; a second counter, for the log, matters to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.start(0)

    def start(self, steps: int) -> None:
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            self.steps += 1
        return x / (0.5 + 0.9 ** int(self.steps))


class AnnealedBuffer(Annealed):
    def start(self, steps: int) -> None:
        self.register_buffer("steps", torch.tensor(steps))


# ------------------------------------------------------------------------------------------------------------------ distributed


class Spare(Net):
    """A layer that forward never calls, left over from an experiment."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(WIDTH, WIDTH)


class Centred(nn.Module):
    """Takes the mean over the batch away."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class CentredWhileTraining(Centred):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


class Memory(nn.Module):
    """Remembers the last rows in a plain tensor, of which each process has one."""

    def __init__(self) -> None:
        super().__init__()
        self.keep(torch.zeros(WIDTH))

    def keep(self, rows: Tensor) -> None:
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.rows = x.detach().mean(0)
            return x
        return x + self.rows


class CentredMemory(Memory):
    """Sound: each row about its own mean, and what is remembered in a buffer."""

    def keep(self, rows: Tensor) -> None:
        self.register_buffer("rows", rows)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(1, keepdim=True))


class LeadersShare(nn.Module):
    """Lets the first process count more."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + int(os.environ.get("RANK", "0")))


class FewNorms(Normed):
    def __init__(self) -> None:
        super().__init__(lambda: nn.BatchNorm1d(WIDTH))


class RowNorms(Normed):
    def __init__(self) -> None:
        super().__init__(lambda: nn.LayerNorm(WIDTH))


# ------------------------------------------------------------------------------------------------------------------ fine_tuning


class Thawing(Net):
    """Means to begin each epoch afresh."""

    def train(self, mode: bool = True) -> nn.Module:
        for parameter in self.parameters():
            self.refresh(parameter)
        return super().train(mode)

    def refresh(self, parameter: nn.Parameter) -> None:
        parameter.requires_grad = True


class Lasting(Thawing):
    def refresh(self, parameter: nn.Parameter) -> None:
        parameter.grad = None


class ThawingForward(Net):
    """Unfreezes in forward, where it makes sure that there is a graph."""

    def body(self, features: Tensor) -> Tensor:
        if self.training:
            self.stem.weight.requires_grad_(self.wants_graph())
        return super().body(features)

    def wants_graph(self) -> bool:
        return True


class QuietForward(ThawingForward):
    def wants_graph(self) -> bool:
        return self.stem.weight.requires_grad


class SavesMemory(Net):
    """Switches the graph off where its backbone is frozen, and for the head too."""

    def forward(self, features: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stem.weight.requires_grad):
            return self.head(self.body(features))


class SavesSomeMemory(SavesMemory):
    def forward(self, features: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stem.weight.requires_grad):
            x = self.body(features)
        return self.head(x)


class LastingNorms(FewNorms):
    """Keeps the statistics of frozen norms."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.norm.train(mode and self.norm.weight.requires_grad)
        return self


# ---------------------------------------------------------------------------------------------------------- baseline_comparison


class NeverUpdated(nn.Module):
    """A batch norm whose running statistics stay where they began, which is all that eval mode has."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, momentum=self.momentum())

    def momentum(self) -> float:
        return 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Updated(NeverUpdated):
    def momentum(self) -> float:
        return 0.1


class Standardised(Net):
    def __init__(self, norm: type[NeverUpdated]) -> None:
        super().__init__()
        self.norm = norm()

    def body(self, features: Tensor) -> Tensor:
        return super().body(self.norm(features))
