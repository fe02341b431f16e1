"""Models of unusual kinds get a right verdict or an explained skip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from planted_bugs.tasks import CAUSAL, CLASSES, FEATURES, TABLE, TEXT, VOCAB
from planted_bugs.tester import red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.parts import WIDTH, Attention, Decoder, Encoder
from torch import Tensor, nn

from harness.analysis.derivatives import wrong_gradient
from harness.analysis.units import SILENT, watching
from harness.catalogue import CATALOGUE
from harness.evidence import Status
from harness.tasks import TaskSpec

JUDGED = tuple(name for name, entry in CATALOGUE.items() if entry.tier == 2 and name != "compiled")


class Traced(nn.Module):
    """A part of the model is a graph that no Python code runs in."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.trace(nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh()), torch.zeros(2, FEATURES))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.inner(features))


class Fixed(nn.Module):
    """Nothing to be learnt."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([features[:, :3].sum(1), features[:, 3:].prod(1), features.abs().sum(1), features.square().sum(1)], 1)


class OneHot(nn.Module):
    """Tokens that are multiplied with a table rather than looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(VOCAB, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(input_ids, VOCAB).to(self.table.weight.dtype)
        real = attention_mask[..., None].to(one_hot.dtype)
        return (self.table(one_hot) * real).sum(1) / real.sum(1).clamp(min=1)


class Several(Encoder):
    """Returns hidden states beside the logits."""

    def __init__(self) -> None:
        super().__init__(Attention())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        logits = super().forward(input_ids, attention_mask)
        return {"logits": logits, "hidden_states": self.tokens(input_ids)}


class Spectral(nn.Module):
    """Complex numbers on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2 * (FEATURES // 2 + 1), CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        waves = torch.fft.rfft(features, norm="ortho")
        return self.inner(torch.view_as_real(waves).flatten(1))


def tied() -> nn.Module:
    model = Decoder(Attention(), Attention())
    nn.init.normal_(model.tokens.weight, std=0.02)
    model.head.weight = model.tokens.weight
    return model


def frozen() -> nn.Module:
    return Encoder(Attention()).requires_grad_(False)


@pytest.mark.parametrize(
    ("build", "task"),
    [(Traced, TABLE), (Fixed, TABLE), (OneHot, TEXT), (Several, TEXT), (Spectral, TABLE), (tied, CAUSAL), (frozen, TEXT)],
    ids=["traced", "no-parameters", "one-hot", "several-outputs", "complex", "tied", "frozen"],
)
def test_no_alarm_and_no_crash(build: Callable[[], nn.Module], task: TaskSpec) -> None:
    found = judge_all(study_of(build, task), JUDGED)
    assert red(found) == {}
    assert all(each.message and "\n" not in each.message for each in found.values() if each.status is Status.SKIPPED)


def test_tokens_that_are_not_looked_up_are_an_explained_skip() -> None:
    found = judge_all(study_of(OneHot, TEXT), ("attribution",))["attribution"]
    assert found.status is Status.SKIPPED
    assert "no embedding lookup of the token ids" in found.message


def test_too_little_time_is_said() -> None:
    study = study_of(tied, CAUSAL)
    study.seconds = 1e-6
    found = judge_all(study, ("attribution", "robustness"))
    assert {each.status for each in found.values()} == {Status.SKIPPED}
    assert all("`time_budget` leaves 0 s" in each.message for each in found.values())


class Misled(torch.autograd.Function):
    """Triples, and claims to pass on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 3

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Misleading(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Misled.apply(x)


class Mapped(nn.Module):
    """Calls its first layers row by row, inside of ``vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wrong, self.last = nn.Linear(4, 6), Misleading(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.func.vmap(lambda row: F.relu(self.first(row)))(x)
        return self.last(F.relu(self.wrong(rows)))


def test_what_follows_modules_works_around_vmap() -> None:
    model, x = Mapped().double(), torch.randn(5, 3, 4, dtype=torch.float64)
    assert wrong_gradient(model, lambda share: model(x * (1 + share))) == "wrong"
    with watching(model, SILENT) as watch:
        model(x)
    assert len(watch.activities) == 1, "the call inside of vmap is left out"
