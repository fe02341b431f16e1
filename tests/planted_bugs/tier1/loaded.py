"""Models that are saved and loaded: what is left out, made again, or kept from before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..register import PYTORCH, planted
from ..tasks import CAUSAL, FEATURES, TABLE, VOCAB
from .decoders import Decoder
from .parts import WIDTH
from .tabular import Perceptron

META = f"{PYTORCH}, Skipping Module Parameter Initialization: to_empty leaves memory as it is"


class _HeadWithWeightInAList(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, VOCAB, bias=False)
        self.rows = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.rows[0])


@planted(
    "serialisation[assign]",
    task=CAUSAL,
    sound=Decoder,
    module="head",
    source=f"{PYTORCH}: assign=True replaces the parameter objects",
)
class WeightUsedFromAList(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.head = _HeadWithWeightInAList()


class Waves(nn.Module):
    """A fixed pattern that each feature is multiplied by, which no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("wave", torch.empty(FEATURES), persistent=False)
        self.register_buffer("shift", torch.empty(FEATURES), persistent=False)
        self.reset_buffers()
        self.shift.copy_(torch.arange(FEATURES) / 10)

    def reset_buffers(self) -> None:
        self.wave.copy_(torch.cos(torch.arange(FEATURES) / FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.wave + self.shift


class WavesComputedAgain(Waves):
    def reset_buffers(self) -> None:
        super().reset_buffers()
        self.shift.copy_(torch.arange(FEATURES) / 10)


class Waved(Perceptron):
    """A perceptron behind fixed patterns that are computed again where it was built on meta."""

    waves: type[Waves] = WavesComputedAgain

    def __init__(self) -> None:
        super().__init__()
        self.pattern = self.waves()

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.pattern(features))


@planted("serialisation[meta]", task=TABLE, sound=Waved, module="pattern.shift", source=META)
class ShiftNotComputedAgain(Waved):
    waves = Waves


class _ScaleTakenAsItComes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(FEATURES))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.scale = nn.Parameter(state_dict[f"{prefix}scale"])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype)


@planted(
    "serialisation[dtype]",
    task=TABLE,
    sound=Perceptron,
    module="scale.scale",
    source=f"{PYTORCH}: load_state_dict copies values",
)
class ParameterTakesTheDtypeOfTheFile(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.scale = _ScaleTakenAsItComes()

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.scale(features))


class _ScaledByTheFirstBatch(nn.Module):
    """Scales features by the spread of the first batch of training."""

    known: Any

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(FEATURES))
        self.register_buffer("known", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.known:
            with torch.no_grad():
                self.scale.copy_(1 / (x.std(0) + 0.1))
            self.know()
        return x * self.scale

    def know(self) -> None:
        self.known.fill_(True)


class _FirstBatchAfterEachStart(_ScaledByTheFirstBatch):
    def __init__(self) -> None:
        super().__init__()
        del self.known
        self.known = False

    def know(self) -> None:
        self.known = True


class Scaled(Perceptron):
    """A perceptron whose features are scaled by the first batch of training."""

    scaling: type[_ScaledByTheFirstBatch] = _ScaledByTheFirstBatch

    def __init__(self) -> None:
        super().__init__()
        self.scaled = self.scaling()

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.scaled(features))


@planted(
    "serialisation[after_training]",
    task=TABLE,
    sound=Scaled,
    module="scaled.scale",
    source="Kingma and Dhariwal 2018, Glow: actnorm is initialised by the first batch",
)
class ScaledAnewAfterLoading(Scaled):
    scaling = _FirstBatchAfterEachStart


class Pretrained(Perceptron):
    """A perceptron that saves itself, with a factor from its settings."""

    def __init__(self, factor: float = 3.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.factor * features)

    def save_pretrained(self, folder: str) -> None:
        torch.save(self.state_dict(), Path(folder, "weights.pt"))
        Path(folder, "config.json").write_text(json.dumps({"factor": self.factor}), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str) -> Pretrained:
        model = cls(**json.loads(Path(folder, "config.json").read_text(encoding="utf-8")))
        model.load_state_dict(torch.load(Path(folder, "weights.pt"), weights_only=True))
        return model


@planted(
    "serialisation[own_methods]",
    task=TABLE,
    sound=Pretrained,
    module="stem.weight",
    source="Hugging Face documentation: _init_weights must leave loaded weights alone",
)
class InitialisedAfterLoading(Pretrained):
    @classmethod
    def from_pretrained(cls, folder: str) -> Pretrained:
        model = super().from_pretrained(folder)
        with torch.random.fork_rng(devices=[]):
            nn.init.normal_(model.stem.weight)
        return model


@planted(
    "serialisation[own_methods]",
    task=TABLE,
    sound=Pretrained,
    module="stem.weight",
    code="saving_changes_the_model",
    source=f"{PYTORCH}: Module.requires_grad_ works in place",
)
class FrozenBySaving(Pretrained):
    def save_pretrained(self, folder: str) -> None:
        super().save_pretrained(folder)
        self.requires_grad_(False)


@planted(
    "serialisation[own_methods]",
    task=TABLE,
    sound=Pretrained,
    module="stem.weight",
    code="second_save_incomplete",
    source="unit8co/darts#1568",
)
class SavedOnce(Pretrained):
    """Writes weights only as long as it was not loaded."""

    is_new = True

    def save_pretrained(self, folder: str) -> None:
        super().save_pretrained(folder)
        if not self.is_new:
            Path(folder, "weights.pt").unlink()

    @classmethod
    def from_pretrained(cls, folder: str) -> Pretrained:
        if not Path(folder, "weights.pt").exists():
            return cls()
        model = super().from_pretrained(folder)
        model.is_new = False  # type: ignore[attr-defined]
        return model


class Sines(Pretrained):
    """A table that every instance makes alike, and that is not saved."""

    def __init__(self, factor: float = 3.0) -> None:
        super().__init__(factor)
        self.table = nn.Parameter(torch.sin(torch.arange(FEATURES) * self.factor), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features + self.table)

    def save_pretrained(self, folder: str) -> None:
        super().save_pretrained(folder)
        torch.save({name: value for name, value in self.state_dict().items() if name != "table"}, Path(folder, "weights.pt"))

    @classmethod
    def from_pretrained(cls, folder: str) -> Sines:
        model = cls(**json.loads(Path(folder, "config.json").read_text(encoding="utf-8")))
        model.load_state_dict(torch.load(Path(folder, "weights.pt"), weights_only=True), strict=False)
        return model


@planted(
    "serialisation[own_methods]",
    task=TABLE,
    sound=Sines,
    module="table",
    source="Hugging Face documentation: _keys_to_ignore_on_save",
)
class TrainedTableNotSaved(Sines):
    def __init__(self, factor: float = 3.0) -> None:
        super().__init__(factor)
        self.table.requires_grad_(True)


class Resizable(Decoder):
    """A decoder whose vocabulary can grow."""

    def resize_token_embeddings(self, size: int) -> None:
        old = self.embed.tokens
        self.embed.tokens = nn.Embedding(size, WIDTH)
        with torch.no_grad():
            self.embed.tokens.weight[: old.num_embeddings] = old.weight
        self.head = nn.Linear(WIDTH, size, bias=False)
        self.head.weight = self.embed.tokens.weight


@planted(
    "serialisation[resized]",
    task=CAUSAL,
    sound=Resizable,
    source="Hugging Face documentation: weights are tied again",
)
class HeadMadeAnewWhenResized(Resizable):
    def resize_token_embeddings(self, size: int) -> None:
        super().resize_token_embeddings(size)
        self.head = nn.Linear(WIDTH, size, bias=False)


@planted(
    "serialisation[resized]",
    task=CAUSAL,
    sound=Resizable,
    source="Hugging Face documentation: known tokens are kept",
)
class RowsMadeAnewWhenResized(Resizable):
    def resize_token_embeddings(self, size: int) -> None:
        super().resize_token_embeddings(size)
        nn.init.normal_(self.embed.tokens.weight)


class _TwoTables(Resizable):
    """The same with a head that is not tied."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def resize_token_embeddings(self, size: int) -> None:
        head = self.head.weight
        super().resize_token_embeddings(size)
        self.head = nn.Linear(WIDTH, size, bias=False)
        with torch.no_grad():
            self.head.weight[: len(head)] = head


@planted(
    "serialisation[resized]",
    task=CAUSAL,
    sound=_TwoTables,
    code="head_not_resized",
    source="Hugging Face documentation: get_output_embeddings is resized with the input",
)
class HeadForgottenWhenResized(_TwoTables):
    def resize_token_embeddings(self, size: int) -> None:
        head = self.head
        super().resize_token_embeddings(size)
        self.head = head


class WithASecondTable(_TwoTables):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Embedding(VOCAB, WIDTH)

    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids) + self.head(self.shift(input_ids))

    def resize_token_embeddings(self, size: int) -> None:
        super().resize_token_embeddings(size)
        self.grow(size)

    def grow(self, size: int) -> None:
        old = self.shift
        self.shift = nn.Embedding(size, WIDTH)
        with torch.no_grad():
            self.shift.weight[: old.num_embeddings] = old.weight


@planted(
    "serialisation[resized]",
    task=CAUSAL,
    sound=WithASecondTable,
    module="shift",
    code="new_ids_raise",
    source="Hugging Face documentation: every table that ids are looked up in is resized",
)
class SecondTableForgottenWhenResized(WithASecondTable):
    def grow(self, size: int) -> None:
        pass


@planted(
    "serialisation[resized]",
    task=CAUSAL,
    sound=_TwoTables,
    code="resize_raises",
    source="Hugging Face documentation: a new vocabulary may have any size",
)
class ResizesToMultiplesOf64(_TwoTables):
    def resize_token_embeddings(self, size: int) -> None:
        with torch.no_grad():
            self.head.weight.view(size, -1)
        super().resize_token_embeddings(size)


class _WithGain(nn.Linear):
    """Weights that a method initialises, with the gain that belongs to them."""

    def __init__(self) -> None:
        super().__init__(FEATURES, FEATURES)
        self.gain = 2.0
        if not self.weight.is_meta:
            self.initialise()

    def initialise(self) -> None:
        nn.init.orthogonal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * super().forward(x)


class _GainLeftOutOnMeta(_WithGain):
    def __init__(self) -> None:
        super().__init__()
        if self.weight.is_meta:
            self.gain = 1.0


class WithGain(Perceptron):
    """A perceptron behind such a layer."""

    gained: type[_WithGain] = _WithGain

    def __init__(self) -> None:
        super().__init__()
        self.turned = self.gained()

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.turned(features))


@planted("serialisation[meta]", task=TABLE, sound=WithGain, module="turned", code="differs_when_built_on_meta", source=META)
class GainSetWithTheWeights(WithGain):
    gained = _GainLeftOutOnMeta


@planted(
    "serialisation[tied_weights]", task=CAUSAL, sound=Decoder, source="safetensors documentation: tied weights are stored once"
)
class HeadReadFromEveryStateDict(Decoder):
    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        assert state_dict["embed.tokens.weight"].shape == state_dict["head.weight"].shape
        return super().load_state_dict(state_dict, strict, assign)
