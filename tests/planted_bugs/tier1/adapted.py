"""Classifiers with low-rank adapters on frozen weights, written by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.evidence import Status

from ..register import PYTORCH, planted
from ..tasks import FEATURES, TABLE
from .parts import WIDTH
from .tabular import Perceptron

LORA = "Hu et al. 2022, LoRA: weights and adapters can be merged and taken apart"


class Adapted(nn.Module):
    """A frozen linear layer and an adapter of rank 2, which can be merged into it."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.base = nn.Linear(size_in, size_out).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, size_in) / 4), nn.Parameter(torch.zeros(size_out, 2))
        self.shift = nn.Parameter(torch.zeros(size_out))
        self.scale, self.merged, self.is_on = 3.0, False, True

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        return out + self.scale * self.change(x) if self.is_on and not self.merged else out

    def change(self, x: Tensor) -> Tensor:
        return x @ self.down.T @ self.up.T + self.shift

    def merge(self) -> None:
        if not self.merged:
            self.add(self.scale)
            self.merged = True

    def unmerge(self) -> None:
        if self.merged:
            self.add(-self.scale)
            self.merged = False

    def add(self, scale: float) -> None:
        self.base.weight.data += scale * (self.up @ self.down).data
        self.base.bias.data += scale * self.shift.data

    def disable_adapter(self) -> None:
        self.is_on = False

    def enable_adapter(self) -> None:
        self.is_on = True


class AdaptedPerceptron(Perceptron):
    """A perceptron whose middle layer has an adapter; the rest of it is frozen."""

    layer: type[Adapted] = Adapted

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.middle = self.layer(WIDTH, WIDTH)


class _ShiftMergedWithoutScale(Adapted):
    def add(self, scale: float) -> None:
        self.base.weight.data += scale * (self.up @ self.down).data
        self.base.bias.data += scale / self.scale * self.shift.data


@planted("adapter_layers[merged]", task=TABLE, sound=AdaptedPerceptron, module="middle", source=LORA)
class ShiftMergedWithoutScale(AdaptedPerceptron):
    layer = _ShiftMergedWithoutScale


class _UnmergesTheWeightOnly(Adapted):
    def add(self, scale: float) -> None:
        self.base.weight.data += scale * (self.up @ self.down).data
        if scale > 0:
            self.base.bias.data += scale * self.shift.data


@planted("adapter_layers[merged]", task=TABLE, sound=AdaptedPerceptron, module="middle", source=LORA)
class UnmergesTheWeightOnly(AdaptedPerceptron):
    layer = _UnmergesTheWeightOnly


class _BothMatricesDrawn(Adapted):
    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__(size_in, size_out)
        nn.init.normal_(self.up, std=0.5)


@planted("adapter_layers[disabled]", task=TABLE, sound=AdaptedPerceptron, module="middle", source=LORA, status=Status.WARN)
class BothMatricesDrawn(AdaptedPerceptron):
    layer = _BothMatricesDrawn


class _MovesIntoTheWeight(Adapted):
    def merge(self) -> None:
        if not self.merged:
            super().merge()
            self.up.data.zero_()
            self.shift.data.zero_()


@planted("adapter_layers[merged]", task=TABLE, sound=AdaptedPerceptron, module="middle", code="weight_not_restored", source=LORA)
class AdapterEmptiedByTheMerge(AdaptedPerceptron):
    layer = _MovesIntoTheWeight


class _MergesATranspose(Adapted):
    def add(self, scale: float) -> None:
        self.base.weight.data += scale * (self.up @ self.down[:, :3]).data


@planted("adapter_layers[merged]", task=TABLE, sound=AdaptedPerceptron, source=LORA)
class MergeOfAnotherShape(AdaptedPerceptron):
    layer = _MergesATranspose


class _ShiftsWhenOff(Adapted):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.is_on or self.merged else out + self.scale * self.shift


@planted("adapter_layers[disabled]", task=TABLE, sound=AdaptedPerceptron, module="middle", source=LORA)
class ShiftsWhenOff(AdaptedPerceptron):
    layer = _ShiftsWhenOff


class _MergedWhenOnAgain(Adapted):
    def enable_adapter(self) -> None:
        super().enable_adapter()
        self.add(self.scale)


@planted("adapter_layers[disabled]", task=TABLE, sound=AdaptedPerceptron, source=LORA)
class AddsTheAdapterWhenOnAgain(AdaptedPerceptron):
    layer = _MergedWhenOnAgain


class _WritesIntoItsWeight(Adapted):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.base.weight.data.mul_(0.99)
        return super().forward(x)


@planted(
    "adapter_layers[trained]",
    task=TABLE,
    sound=AdaptedPerceptron,
    module="middle.base.weight",
    source=f"{PYTORCH}: requires_grad=False keeps the optimizer from a parameter, and nothing else",
)
class FrozenWeightDecaysInForward(AdaptedPerceptron):
    layer = _WritesIntoItsWeight


class _StartsAtZero(Adapted):
    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__(size_in, size_out)
        nn.init.zeros_(self.down)
        self.shift.requires_grad_(False)


@planted(
    "adapter_layers[trained]",
    task=TABLE,
    sound=AdaptedPerceptron,
    module="middle",
    source=f"{LORA}; only one matrix starts at zero",
)
class BothMatricesStartAtZero(AdaptedPerceptron):
    layer = _StartsAtZero


@planted(
    "adapter_layers[trained]",
    task=TABLE,
    sound=AdaptedPerceptron,
    module="stem.base.weight",
    source=f"{LORA}; the weights that are adapted are frozen",
    status=Status.WARN,
)
class OneBaseLayerForgotten(AdaptedPerceptron):
    def __init__(self) -> None:
        super().__init__()
        self.stem = Adapted(FEATURES, WIDTH)
        self.stem.base.weight.requires_grad_(True)


class _MergesEachTime(Adapted):
    def merge(self) -> None:
        self.add(self.scale)
        self.merged = True


@planted(
    "adapter_layers[merged]",
    task=TABLE,
    sound=AdaptedPerceptron,
    module="middle",
    code="second_merge_counts",
    source="huggingface/diffusers#5604",
    status=Status.WARN,
)
class MergedEachTime(AdaptedPerceptron):
    layer = _MergesEachTime


@planted(
    "adapter_layers[trained]",
    task=TABLE,
    sound=AdaptedPerceptron,
    module="middle.base.bias",
    code="trained_beside_adapter",
    source="huggingface/peft#741",
    status=Status.WARN,
)
class BiasForgotten(AdaptedPerceptron):
    def __init__(self) -> None:
        super().__init__()
        self.middle.base.bias.requires_grad_(True)


class Bottleneck(nn.Module):
    """A small network that is added to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.is_on = nn.Linear(WIDTH, 2), nn.Linear(2, WIDTH), True
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x).tanh())


class BottleneckPerceptron(Perceptron):
    """A frozen perceptron with a small network behind its layers, which nothing merges and a method of the model switches."""

    asks = True

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.last_adapter = Bottleneck()

    def set_enabled_adapters(self, name: str = "", enabled: bool = True) -> None:
        self.last_adapter.is_on = enabled

    def finish(self, x: Tensor) -> Tensor:
        return self.last_adapter(x) if self.last_adapter.is_on or not self.asks else x


@planted(
    "adapter_layers[disabled]", task=TABLE, sound=BottleneckPerceptron, module="last_adapter", source="NVIDIA-NeMo/Speech#8029"
)
class BottleneckThatIsNeverOff(BottleneckPerceptron):
    asks = False


class SavesItsAdapter(AdaptedPerceptron):
    """The same, with a method that says what is to be saved."""

    def adapter_state_dict(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.state_dict().items() if name.startswith("middle.") and "base" not in name}


@planted("adapter_layers[saved]", task=TABLE, sound=SavesItsAdapter, module="middle.shift", source=LORA)
class ShiftLeftOutOfTheFile(SavesItsAdapter):
    def adapter_state_dict(self) -> dict[str, Tensor]:
        return {name: value for name, value in super().adapter_state_dict().items() if "shift" not in name}


class Folded(nn.Linear):
    """A linear layer whose adapter ``eval()`` folds into its weight, and ``train()`` takes out."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__(size_in, size_out)
        self.down, self.up = nn.Parameter(torch.randn(2, size_in) / 4), nn.Parameter(torch.zeros(size_out, 2))
        self.scale = 3.0
        self.register_buffer("folded", torch.tensor(False))

    def train(self, mode: bool = True) -> Folded:
        if mode == bool(self.folded):
            self.weight.data += (-1 if mode else 1) * self.folding() * (self.up @ self.down).data
            self.remember(not mode)
        super().train(mode)
        return self

    def folding(self) -> float:
        return self.scale

    def remember(self, is_folded: bool) -> None:
        self.folded.fill_(is_folded)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if not self.training else out + self.scale * (x @ self.down.T @ self.up.T)


class FoldedPerceptron(Perceptron):
    """A perceptron whose middle layer has such an adapter."""

    layer: type[Folded] = Folded

    def __init__(self) -> None:
        super().__init__()
        self.middle = self.layer(WIDTH, WIDTH)


class _FoldsWithoutScale(Folded):
    def folding(self) -> float:
        return 1.0


@planted("adapter_layers[merged]", task=TABLE, sound=FoldedPerceptron, module="middle", source=LORA)
class FoldsWithoutScale(FoldedPerceptron):
    layer = _FoldsWithoutScale


class _FoldsAtEveryEval(Folded):
    def train(self, mode: bool = True) -> Folded:
        self.weight.data += (-1 if mode else 1) * self.scale * (self.up @ self.down).data
        nn.Module.train(self, mode)
        return self


@planted("adapter_layers[merged]", task=TABLE, sound=FoldedPerceptron, source=LORA)
class FoldsAtEveryEval(FoldedPerceptron):
    layer = _FoldsAtEveryEval


class _ForgetsThatItIsFolded(Folded):
    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__(size_in, size_out)
        self.register_buffer("folded", torch.tensor(False), persistent=False)


@planted(
    "adapter_layers[saved]",
    task=TABLE,
    sound=SavesItsAdapter,
    module="middle",
    source=f"{LORA}; saved in eval mode",
    status=Status.WARN,
)
class ForgetsThatItIsFolded(FoldedPerceptron):
    layer = _ForgetsThatItIsFolded
