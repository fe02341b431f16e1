"""Reported bugs of adapters that are merged twice, or on where they are off, drawn without a look at the checks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import FirstRun, task_of, wild

VOCAB, WIDTH, RANK = 21, 12, 3
TEXT = task_of(task_type="causal_lm", vocab_size=VOCAB, max_seq_len=12)
FEATURES = task_of(
    inputs={"features": {"axes": ["batch", "time", 8]}},
    outputs={"scores": {"axes": ["batch", 5], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 12}},
)
NOISE = task_of(
    inputs={"sample": {"axes": ["batch", 8]}, "timestep": {"axes": ["batch"], "values": {"ids": 10}}},
    outputs={"noise": {"axes": ["batch", 8], "kind": "values"}},
)


class LowRankEmbedding(nn.Embedding):
    """A frozen embedding with an update of low rank; the bug adds the update to weights that have it already."""

    def __init__(self, wrong: bool) -> None:
        super().__init__(VOCAB, WIDTH)
        self.wrong, self.merged = wrong, False
        self.weight.requires_grad_(False)
        self.lora_a, self.lora_b = nn.Parameter(torch.zeros(RANK, VOCAB)), nn.Parameter(torch.randn(WIDTH, RANK))

    def update(self) -> Tensor:
        return (self.lora_b @ self.lora_a).T * 0.5

    def merge(self) -> None:
        if not self.merged:
            self.weight.data += self.update().detach()
            self.merged = True

    def unmerge(self) -> None:
        if self.merged:
            self.weight.data -= self.update().detach()
            self.merged = False

    def forward(self, ids: Tensor) -> Tensor:
        found = super().forward(ids)
        return found if self.merged and not self.wrong else found + nn.functional.embedding(ids, self.update())


class AdaptedText(nn.Module):
    """A frozen text model with an adapter on its embedding."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.mix, self.head = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, VOCAB)
        self.requires_grad_(False)
        self.embed = LowRankEmbedding(wrong)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(input_ids))[0])


class LowRank(nn.Module):
    """A frozen layer with an update of low rank; the bug trains its bias with the update, and nothing puts it back."""

    def __init__(self, base: nn.Linear, wrong: bool) -> None:
        super().__init__()
        self.base_layer, self.disable_adapters = base.requires_grad_(False), False
        base.bias.requires_grad_(wrong)
        self.lora_a, self.lora_b = nn.Linear(base.in_features, RANK, bias=False), nn.Linear(RANK, base.out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.base_layer(x)
        return out if self.disable_adapters else out + self.lora_b(self.lora_a(x))


class BiasedText(nn.Module):
    """A frozen text model with an adapter on its head, which can be switched off."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.requires_grad_(False)
        self.head = LowRank(nn.Linear(WIDTH, VOCAB), wrong)

    def disable_adapter_layers(self) -> None:
        self.head.disable_adapters = True

    def enable_adapter_layers(self) -> None:
        self.head.disable_adapters = False

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(input_ids))[0])


class Bottleneck(nn.Module):
    """A small network that is added to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(WIDTH, RANK), nn.Linear(RANK, WIDTH)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x).relu())


class AdaptedSpeech(nn.Module):
    """A frozen encoder with two adapters; the bug asks only one of them whether it is enabled."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder, self.mix, self.head = nn.Linear(8, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, 5)
        self.requires_grad_(False)
        self.input_adapter, self.output_adapter = Bottleneck(), Bottleneck()

    def set_enabled_adapters(self, name: str | None = None, enabled: bool = True) -> None:
        for own, adapter in (("input", self.input_adapter), ("output", self.output_adapter)):
            if name in (None, own):
                adapter.enabled = enabled

    def forward(self, features: Tensor) -> Tensor:
        x = self.encoder(features).tanh()
        if self.input_adapter.enabled:
            x = self.input_adapter(x)
        x = self.mix(x)[0].mean(1)
        if self.output_adapter.enabled or self.wrong:
            x = self.output_adapter(x)
        return self.head(x)


class Fusible(nn.Linear):
    """A layer into which an update can be fused; the bug fuses once more where it has been, and takes out one of the two."""

    def __init__(self, narrow: int, wide: int, wrong: bool) -> None:
        super().__init__(narrow, wide)
        self.requires_grad_(False)
        self.wrong, self.fused = wrong, False
        self.lora_down, self.lora_up = nn.Parameter(torch.randn(RANK, narrow)), nn.Parameter(torch.zeros(wide, RANK))

    def fuse(self, scale: float) -> None:
        if self.wrong or not self.fused:
            self.taken = (self.lora_up @ self.lora_down).detach() * scale
            self.weight.data += self.taken
            self.fused = True

    def unfuse(self) -> None:
        if self.fused:
            self.weight.data -= self.taken
            self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.fused else out + x @ self.lora_down.T @ self.lora_up.T


class Denoiser(nn.Module):
    """The noise of a sample at a step, by two layers with updates."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.times = nn.Embedding(10, 16).requires_grad_(False)
        self.first, self.second = Fusible(8, 16, wrong), Fusible(16, 8, wrong)

    def fuse_lora(self, lora_scale: float = 1.0) -> None:
        self.first.fuse(lora_scale)
        self.second.fuse(lora_scale)

    def unfuse_lora(self) -> None:
        self.first.unfuse()
        self.second.unfuse()

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.second((self.first(sample) + self.times(timestep)).tanh())


def moved(model: nn.Module) -> None:
    """Gives everything that is trained other values, as training does."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.3


def change_by_merging(model: nn.Module) -> float:
    """How far the scores are others after the adapter was merged."""
    moved(model)
    ids = torch.randint(VOCAB, (2, 6))
    with torch.no_grad():
        before = model(ids)
        model.embed.merge()
        return float((model(ids) - before).abs().max())


def left_of_training(model: nn.Module) -> float:
    """How far scores without the adapter are from those before it was trained."""
    ids = torch.randint(VOCAB, (2, 6))
    model.disable_adapter_layers()
    with torch.no_grad():
        before = model(ids)
        moved(model)
        return float((model(ids) - before).abs().max())


def left_of_disabled(model: nn.Module) -> float:
    """How far scores depend on adapters that are not enabled."""
    features = torch.randn(2, 6, 8)
    model.set_enabled_adapters(enabled=False)
    with torch.no_grad():
        before = model(features)
        moved(model)
        return float((model(features) - before).abs().max())


def left_of_two_fusions(model: nn.Module) -> float:
    """How far the noise is another after the update was fused twice and taken out."""
    moved(model)
    sample, steps = torch.randn(2, 8), torch.tensor([1, 7])
    with torch.no_grad():
        before = model(sample, steps)
        model.fuse_lora()
        model.fuse_lora()
        model.unfuse_lora()
        return float((model(sample, steps) - before).abs().max())


_drawn = partial(wild, area="adapters", draw=2)
_drawn(
    "merged_embedding_adds_again",
    title="An embedding with an adapter does not ask whether it is merged, and adds the update twice",
    report="EricLBuehler/candle-lora#26",
    field="text",
    test="adapter_layers[merged]",
    setup=partial(Model, TEXT),
    buggy=partial(AdaptedText, True),
    sound=AdaptedText,
    wrong=change_by_merging,
    module="embed",
    first_run=FirstRun("d13d60a", found=True, named=True, said="adapter_layers[merged] fails in embed"),
)
_drawn(
    "bias_trained_beside_the_adapter",
    title="Biases of the base model are trained with the adapter, so that without it the model is not the base model",
    report="huggingface/peft#741",
    field="text",
    test="adapter_layers[disabled]",
    or_tests=("adapter_layers[trained]",),
    status=Status.WARN,
    setup=partial(Model, TEXT),
    buggy=partial(BiasedText, True),
    sound=BiasedText,
    wrong=left_of_training,
    module="head",
    first_run=FirstRun(
        "d13d60a", found=False, named=False, said="skipped: enable_adapter_layers and disable_adapter_layers are not known"
    ),
)
_drawn(
    "adapter_that_is_never_off",
    title="One of several adapters runs whether or not it is enabled",
    report="NVIDIA-NeMo/Speech#8029",
    field="speech",
    test="adapter_layers[disabled]",
    setup=partial(Model, FEATURES),
    buggy=partial(AdaptedSpeech, True),
    sound=AdaptedSpeech,
    wrong=left_of_disabled,
    module="output_adapter",
    first_run=FirstRun("d13d60a", found=False, named=False, said="skipped: set_enabled_adapters is not known"),
)
_drawn(
    "fused_twice_and_unfused_once",
    title="An update that is fused once more is taken out only once, so that each request leaves some of it in the weights",
    report="huggingface/diffusers#5604",
    field="diffusion",
    test="adapter_layers[merged]",
    status=Status.WARN,
    setup=partial(Model, NOISE),
    buggy=partial(Denoiser, True),
    sound=Denoiser,
    wrong=left_of_two_fusions,
    module="first",
    first_run=FirstRun("d13d60a", found=False, named=False, said="nothing"),
)
