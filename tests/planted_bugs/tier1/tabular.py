"""Perceptrons over features: classifiers and regressors."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from harness.evidence import Status

from ..register import HUMBATOVA, ISLAM, PYTORCH, RECIPE, ZHANG, planted
from ..tasks import CLASSES, FEATURES, NUMBER, TABLE
from .parts import WIDTH


class Perceptron(nn.Module):
    """Three layers with a residual in the middle."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, WIDTH)
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, outputs)
        self.dropout = nn.Dropout(0.1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.stem(self.prepare(features)).tanh()
        x = self.norm(x + self.dropout(self.middle(x).tanh()))
        return self.head(self.finish(x))

    def prepare(self, features: Tensor) -> Tensor:
        return features

    def finish(self, x: Tensor) -> Tensor:
        return x


class Regressor(Perceptron):
    """One number a row."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).squeeze(-1)


@planted("input_dependence[features]", task=TABLE, sound=Perceptron, source=f"{HUMBATOVA}: wrong preprocessing of an input")
class FeatureOverwritten(Perceptron):
    def prepare(self, features: Tensor) -> Tensor:
        return torch.cat((features[:, :3], features[:, 2:3], features[:, 4:]), 1)


@planted("input_dependence[features]", task=NUMBER, sound=Regressor, module="stem", source=f"{ISLAM}: off by one")
class LastFeatureSlicedOff(Regressor):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _ShortLinear(FEATURES - 1, WIDTH)


class _ShortLinear(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features[:, : FEATURES - 1])


@planted("finite_output[extremes]", task=TABLE, sound=Perceptron, module="(model)", source=f"{ZHANG}: exp overflows")
class SoftplusByHand(Perceptron):
    def prepare(self, features: Tensor) -> Tensor:
        return features + (1 + features.exp()).log() - (1 + features.exp()).log()


@planted("finite_output[extremes]", task=NUMBER, sound=Regressor, module="(model)", source=f"{ISLAM}: log of zero")
class LogOfMagnitudes(Regressor):
    def prepare(self, features: Tensor) -> Tensor:
        return features + 0.1 * features.abs().log()


@planted(
    "gradient_flow[finite]", task=TABLE, sound=Perceptron, module="(model)", source=f"{PYTORCH}: the gradient of a norm at zero"
)
class LengthOfAZeroVector(Perceptron):
    def finish(self, x: Tensor) -> Tensor:
        gap = x - x.detach()
        return x + gap.square().sum(-1, keepdim=True).sqrt()


@planted(
    "gradient_flow[reaches_every_parameter]", task=TABLE, sound=Perceptron, source=f"{HUMBATOVA}: an operation without a gradient"
)
class UnitsRounded(Perceptron):
    def finish(self, x: Tensor) -> Tensor:
        return x.round()


@planted(
    "gradient_flow[reaches_every_parameter]", task=NUMBER, sound=Regressor, module="gate", source=f"{HUMBATOVA}: unused layer"
)
class GateNeverCalled(Regressor):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH)


@planted(
    "initialisation[symmetry]", task=TABLE, sound=Perceptron, module="stem.weight", source=f"{HUMBATOVA}: wrong initialisation"
)
class EveryWeightTheSame(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        for layer in (self.stem, self.middle):
            nn.init.constant_(layer.weight, 0.1)
            nn.init.zeros_(layer.bias)
        self.norm = nn.Identity()
        nn.init.constant_(self.head.weight, 0.1)
        with torch.no_grad():
            self.head.weight += torch.arange(CLASSES)[:, None] * 0.1


@planted("initialisation[scale]", task=TABLE, sound=Perceptron, source="Glorot and Bengio 2010: a signal that dies with depth")
class WeightsTooSmall(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()
        for layer in (self.stem, self.middle, self.head):
            nn.init.normal_(layer.weight, std=1e-5)


@planted(
    "initialisation[scale]",
    task=NUMBER,
    sound=Regressor,
    module="offset",
    source=f"{PYTORCH}: torch.empty holds whatever was in memory",
)
class OffsetNotANumber(Regressor):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1) / torch.zeros(1))


@planted(
    "dtype_move[bfloat16]",
    task=TABLE,
    sound=Perceptron,
    module="(model)",
    source="Kingma and Ba 2015, Adam: the correction 1 / (1 - decay)",
)
class DecayRoundsToOne(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("decay", torch.tensor(0.999))

    def finish(self, x: Tensor) -> Tensor:
        return 1e-3 * x / (1 - self.decay)


@planted(
    "dtype_move[float64]",
    task=NUMBER,
    sound=Regressor,
    module="stem",
    source=f"{ISLAM}: a hard-coded float()",
    also=(
        "dtype_move[bfloat16]",
        "dtype_move[float16]",
    ),
)
class FloatHardCoded(Regressor):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _Float(FEATURES, WIDTH)


class _Float(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).float()


@planted(
    "device_move", task=TABLE, sound=Perceptron, module="(model)", source=f"{PYTORCH}: a tensor that is no buffer does not move"
)
class MeansInAPlainAttribute(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.means = torch.linspace(-0.1, 0.1, FEATURES)

    def prepare(self, features: Tensor) -> Tensor:
        return features - self.means.to(features.dtype)


@planted(
    "serialisation[state_dict]",
    task=TABLE,
    sound=Perceptron,
    module="projection",
    source=f"{PYTORCH}: register_buffer with persistent=False is not saved",
)
class ProjectionNotPersistent(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(FEATURES, FEATURES), persistent=False)

    def prepare(self, features: Tensor) -> Tensor:
        return features @ self.projection


@planted("shape_contract", task=NUMBER, sound=Regressor, source=f"{ISLAM}: squeeze() takes the batch axis of one row too")
class SqueezedToAScalar(Regressor):
    def forward(self, features: Tensor) -> Tensor:
        return Perceptron.forward(self, features).squeeze()


@planted(
    "batch_independence[forward]",
    task=NUMBER,
    sound=Regressor,
    module="(model)",
    source=f"{ISLAM}: softmax over the wrong axis",
    also=("batch_independence[gradient]",),
)
class SoftmaxOverRows(Regressor):
    def finish(self, x: Tensor) -> Tensor:
        return x * x.softmax(0)


@planted(
    "batch_independence[gradient]",
    task=TABLE,
    sound=Perceptron,
    module="(model)",
    source=f"{RECIPE}: use backprop to chart dependencies",
)
class StraightThroughTheBatchMaximum(Perceptron):
    def finish(self, x: Tensor) -> Tensor:
        peak = x.amax(0, keepdim=True)
        return x + peak - peak.detach()


@planted("inputs_unchanged", task=TABLE, sound=Perceptron, source=f"{PYTORCH}: in-place operations change the caller's tensor")
class OutliersClippedInPlace(Perceptron):
    def prepare(self, features: Tensor) -> Tensor:
        return features.clamp_(-8.0, 8.0)


@planted(
    "memory_footprint",
    task=NUMBER,
    sound=Regressor,
    module="seen",
    source=f"{PYTORCH} FAQ: don't accumulate history across your loop",
)
class OutputsKeptInTrainMode(Regressor):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def finish(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x)
        return x


@planted("registration", task=TABLE, sound=Perceptron, module="gain", source=f"{PYTORCH}: only nn.Parameter registers itself")
class TensorThatRequiresGrad(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.ones(WIDTH, requires_grad=True)

    def finish(self, x: Tensor) -> Tensor:
        return x * self.gain.to(x.dtype)


@planted("logit_range", task=TABLE, sound=Perceptron, module="last", source=f"{HUMBATOVA}: wrong activation of the last layer")
class ReluOnTheScores(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        return self.last(super().forward(features))


@planted("logit_range", task=TABLE, sound=Perceptron, source=f"{ISLAM}: softmax before a loss that takes it")
class SoftmaxOnTheScores(Perceptron):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).softmax(-1)


@planted("eval_deterministic", task=TABLE, sound=Perceptron, module="drops[0]", source=f"{PYTORCH}: a list registers no modules")
class DropoutInAList(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.drops = [nn.Dropout(0.3)]

    def finish(self, x: Tensor) -> Tensor:
        return self.drops[0](x)


@planted(
    "registration", task=TABLE, sound=Perceptron, module="gains['a'][0][0]", source=f"{PYTORCH}: a list registers no parameters"
)
class GainsInListsOfLists(Perceptron):
    """Beside a registered one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.ones(WIDTH))
        self.gains = {"a": [[nn.Parameter(torch.ones(WIDTH)), self.first]]}

    def finish(self, x: Tensor) -> Tensor:
        gain, first = self.gains["a"][0]
        return x * gain.to(x) * first


class Committee(Perceptron):
    """A perceptron with three layers side by side in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(self.made())

    def made(self) -> list[nn.Linear]:
        return [nn.Linear(FEATURES, FEATURES) for _ in range(3)]

    def prepare(self, features: Tensor) -> Tensor:
        return features + sum(member(features).tanh() for member in self.members)


@planted(
    "initialisation[symmetry]",
    task=TABLE,
    sound=Committee,
    module="members.0",
    status=Status.WARN,
    code="one_module_repeated",
    source="linkedin/Liger-Kernel#269",
)
class OneMemberThreeTimes(Committee):
    def made(self) -> list[nn.Linear]:
        return [nn.Linear(FEATURES, FEATURES)] * 3


class SavedByPath(Perceptron):
    """A perceptron over normalised features that writes itself to a file, and reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled = nn.BatchNorm1d(FEATURES)

    def prepare(self, features: Tensor) -> Tensor:
        return self.scaled(features)

    def saved(self) -> dict[str, Tensor]:
        return self.state_dict()

    def save(self, path: str) -> None:
        torch.save(self.saved(), path)

    def load(self, path: str) -> None:
        left = self.load_state_dict(torch.load(path), strict=False)
        if left.missing_keys:
            warnings.warn(f"not in {path}: {left.missing_keys}", stacklevel=2)


@planted(
    "serialisation[own_methods]", task=TABLE, sound=SavedByPath, module="scaled.running_mean", source="chainer/chainerrl#376"
)
class StatisticsLeftOutOfTheFile(SavedByPath):
    def saved(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


@planted(
    "serialisation[own_methods]",
    task=TABLE,
    sound=SavedByPath,
    module="stem.weight",
    source=f"{PYTORCH}: load_state_dict(strict=False) only returns the names that are missing",
)
class NothingLoadedByOtherNames(SavedByPath):
    def saved(self) -> dict[str, Tensor]:
        return {f"model.{name}": value for name, value in self.state_dict().items()}


HIDES_WHAT_IS_MISSING = "PIQuIL/QuCumber#18"


@planted(
    "serialisation[partial]",
    task=TABLE,
    sound=SavedByPath,
    status=Status.WARN,
    code="hides_missing_weights",
    module="stem.weight",
    source=HIDES_WHAT_IS_MISSING,
)
class MissingWeightsThrownAway(SavedByPath):
    def load(self, path: str) -> None:
        self.load_state_dict(torch.load(path), strict=False)


class ReadFromACheckpoint(Perceptron):
    """A perceptron that is made from a checkpoint of a training, which others write."""

    @classmethod
    def from_checkpoint(cls, path: str) -> ReadFromACheckpoint:
        model = cls()
        model.load_state_dict(cls.fitting(torch.load(path)["state_dict"]))
        return model

    @classmethod
    def fitting(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("model."): value for name, value in state.items()}


@planted(
    "serialisation[partial]",
    task=TABLE,
    sound=ReadFromACheckpoint,
    status=Status.WARN,
    code="hides_missing_weights",
    module="stem.weight",
    source="pytorch/examples#1029",
)
class FilledUpWithFreshWeights(ReadFromACheckpoint):
    @classmethod
    def fitting(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**cls().state_dict(), **super().fitting(state)}


class ReadsWeights(Perceptron):
    """A perceptron that reads its weights from a file."""

    def load_weights(self, path: str) -> None:
        self.load_state_dict(torch.load(path))


@planted(
    "serialisation[partial]",
    task=TABLE,
    sound=ReadsWeights,
    status=Status.WARN,
    code="hides_missing_weights",
    module="stem.weight",
    source="LibreYOLO/libreyolo#444",
)
class TakesWhatHasAnotherPrefix(ReadsWeights):
    def load_weights(self, path: str) -> None:
        given = {name.removeprefix("net."): value for name, value in torch.load(path).items() if name.startswith("net.")}
        self.load_state_dict({**self.state_dict(), **given})


class LoadsBothNames(Perceptron):
    """A perceptron whose first weights had another name once."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.rename(state_dict, f"{prefix}first.weight", f"{prefix}stem.weight")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def rename(self, state: dict[str, Any], old: str, new: str) -> None:
        if old in state:
            state[new] = state.pop(old)


@planted(
    "serialisation[partial]",
    task=TABLE,
    sound=LoadsBothNames,
    status=Status.WARN,
    code="refuses_parts",
    source=f"{PYTORCH}: with strict=False keys may be missing",
)
class OldNameTakenForGranted(LoadsBothNames):
    def rename(self, state: dict[str, Any], old: str, new: str) -> None:
        if new not in state:
            state[new] = state.pop(old)


@planted(
    "serialisation[partial]",
    task=TABLE,
    sound=LoadsBothNames,
    status=Status.WARN,
    code="hides_missing_weights",
    module="stem.weight",
    source=HIDES_WHAT_IS_MISSING,
)
class NeverStrict(LoadsBothNames):
    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict(state_dict, strict=False, assign=assign)[1]


class KeepsItsScale(Perceptron):
    """A perceptron that computes a scale from its weights, and keeps it while it is evaluated."""

    forgets = True

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def train(self, mode: bool = True) -> KeepsItsScale:
        if self.forgets and mode:
            self.kept = None
        return super().train(mode)

    def prepare(self, features: Tensor) -> Tensor:
        scale = self.stem.weight.square().mean(0)
        if not self.training and not torch.is_grad_enabled():
            self.kept = scale = scale if self.kept is None else self.kept
        return features * scale * 10


@planted(
    "serialisation[after_training]",
    task=TABLE,
    sound=KeepsItsScale,
    code="keeps_old_weights",
    source="RUCAIBox/RecBole-GNN#64",
)
class KeepsTheFirstScale(KeepsItsScale):
    forgets = False
