"""Models whose initialisation does not reach their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.evidence import Status

from .declared import SCORES, Keys, plant_declared

TABLE: Keys = {"inputs": {"features": {"axes": ["batch", 6]}}, "outputs": SCORES}


class Layers(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, features: Tensor) -> Tensor:
        return self.leave(self.enter(features).tanh())


def small(module: nn.Module) -> None:
    """Gives a layer small weights."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.2)
        nn.init.zeros_(module.bias)


class Uncalled(Layers):
    """Has methods that initialise its weights, of which one is called by a subclass only."""

    def init_weights(self) -> None:
        self.apply(small)

    def init_parameters(self) -> None:
        nn.init.ones_(self.leave.bias)


class Called(Uncalled):
    """Calls one of them, and the other where an option asks for it."""

    def __init__(self, is_shifted: bool = False) -> None:
        super().__init__()
        self.init_weights()
        if is_shifted:
            self.init_parameters()


def never_called(wrong: bool = False) -> nn.Module:
    """The model whose methods are not called, or the one that calls them."""
    return Uncalled() if wrong else Called()


class OtherClass(Layers):
    """Applies a function to its layers; the bug looks for a class of which it has none. Norms are left as they are."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.kind = nn.Conv2d if wrong else nn.Linear
        self.norm = nn.LayerNorm(12)
        self.apply(self.start)

    def start(self, module: nn.Module) -> None:
        if isinstance(module, self.kind):
            nn.init.normal_(module.weight, std=0.2)

    def forward(self, features: Tensor) -> Tensor:
        return self.leave(self.norm(self.enter(features)).tanh())


class OtherNames(Layers):
    """Fills weights by their names; the bug looks for a name that none has. The twin leaves one layer out on purpose."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        for name, parameter in self.named_parameters():
            if name == ("net.enter.weight" if wrong else "enter.weight"):
                nn.init.orthogonal_(parameter)


class HeadAfterwards(Layers):
    """Applies a function to its layers; the bug makes the head afterwards. The twin makes one that starts at zero afterwards."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.apply(small)
        self.leave = nn.Linear(12, 4)
        if not wrong:
            nn.init.zeros_(self.leave.weight)


for name, model, module, code, line in (
    ("initialisation_never_called", never_called, "(model)", "initialises_nothing", "def init_parameters"),
    ("initialises_another_class", OtherClass, "(model)", "initialises_nothing", "self.apply(self.start)"),
    ("initialises_other_names", OtherNames, "(model)", "initialises_nothing", "for name, parameter in self.named_parameters()"),
    ("head_made_after_apply", HeadAfterwards, "leave", "left_at_default", "self.apply(small)"),
):
    plant_declared(
        name,
        model,
        TABLE,
        "initialisation[applied]",
        module=module,
        code=code,
        line=line,
        status=Status.WARN,
        source="pytorch-Learning-to-See-in-the-Dark#17",
    )


class Bilinear(Layers):
    """Two halves of the features and how they act together; the bug makes room for that and fills only its first half."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.pairs = nn.Parameter(torch.Tensor(12, 12))
        with torch.no_grad():
            (self.pairs[:6] if wrong else self.pairs).uniform_(-0.3, 0.3)

    def forward(self, features: Tensor) -> Tensor:
        x = self.enter(features).tanh()
        return self.leave(x + x @ self.pairs)


_BY_CHANCE = ("initialisation[loss]", "initialisation[scale]", "finite_output[typical]")
"""What may be red as well, by what the memory held before."""

plant_declared(
    "half_of_a_matrix_written",
    Bilinear,
    TABLE,
    "initialisation[applied]",
    module="pairs",
    code="never_written",
    line="self.pairs[:6] if wrong",
    also=_BY_CHANCE,
    source="transformers#38987",
)
