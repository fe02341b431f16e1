"""What the rounding of half precision hides is asked in float64, in every property that compares what should be equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from planted_bugs.tasks import CAUSAL
from planted_bugs.tier1.declared import SCORES, Keys, task_of
from planted_bugs.tier1.decoding import Cache, Writer
from planted_bugs.tier1.graphs import MAXIMUM
from planted_bugs.tier1.states import STATE
from torch import Tensor, nn

from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=3)


class Own(nn.Module):
    """Reads other rows in its gradient only; the bug is a hundredth of what it computes."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong, self.hidden, self.head = wrong, nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.hidden(features).tanh()
        of_all = hidden.mean(0, keepdim=True)
        return self.head(hidden + self.wrong * (of_all - of_all.detach()))


class Pooled(nn.Module):
    """A set, pooled by its maximum; the bugs add a little of where its elements stand, or of how many there are."""

    def __init__(self, wrong: float, counts: bool = False) -> None:
        super().__init__()
        self.wrong, self.counts = wrong, counts
        self.each, self.head = nn.Linear(3, 16), nn.Linear(16, 4)

    def forward(self, elements: Tensor, weights: Tensor | None = None) -> Tensor:
        hidden = self.each(elements).tanh()
        if weights is not None:
            hidden = hidden * weights.sigmoid()[:, None, :16]
        added = hidden.mean(1) if self.counts else hidden[:, 0]
        return self.head(hidden.amax(1) + self.wrong * added)


class Pair(nn.Module):
    """Whether two rows are the same; the bug takes one of them a little more seriously."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong, self.net, self.head = wrong, nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = self.net(left).tanh(), self.net(right).tanh()
        return self.head((left - right).abs() + self.wrong * left).squeeze(-1)


class Masked(nn.Module):
    """A mean over a text; the bug computes another one where there is no mask."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong, self.tokens, self.head = wrong, nn.Embedding(50, 16), nn.Linear(16, 4)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = self.tokens(ids).tanh()
        if mask is None:
            return self.head(hidden.mean(1) * (1 + self.wrong))
        real = mask.to(hidden.dtype)[..., None]
        return self.head((hidden * real).sum(1) / real.sum(1))


class Recurrent(nn.Module):
    """Continues from a state; the bug forgets a little of it between calls."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong, self.rnn, self.head = wrong, nn.GRU(5, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, series: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, state = self.rnn(series, None if hidden is None else hidden * (1 - self.wrong))
        return self.head(out), state


class Chances(nn.Module):
    """Probabilities; the bug has them add up to a little more than 1."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong, self.net = wrong, nn.Linear(6, 4)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features).softmax(-1) * (1 + self.wrong)


class Cached(Writer):
    """Writes token by token; the bug adds a little to what it reads with a cache.

    Args:
        wrong: How much that is.
        rounds: Whether the cache is kept in bfloat16 whatever it computes in: what float64 shows of it is rounding.
    """

    def __init__(self, wrong: float, rounds: bool = False) -> None:
        super().__init__()
        self.off, self.rounds = wrong, rounds

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: list[Cache] | None = None,
        use_cache: bool = False,
    ) -> dict[str, object]:
        if past_key_values is None:
            return super().forward(input_ids, attention_mask, position_ids, None, use_cache)
        if self.rounds:
            past_key_values = [(key.bfloat16().to(key.dtype), value.bfloat16().to(key.dtype)) for key, value in past_key_values]
        found = super().forward(input_ids, attention_mask, position_ids, past_key_values, use_cache)
        logits = found["logits"]
        assert isinstance(logits, Tensor)
        return {**found, "logits": logits + self.off * logits.roll(1, -1)}


def declared(**keys: Any) -> TaskSpec:
    return task_of(keys)


ROW: Keys = {"axes": ["batch", 6]}
TEXT: Keys = {
    "inputs": {
        "ids": {"axes": ["batch", "length"], "values": {"ids": 50}},
        "mask": {"axes": ["batch", "length"], "values": {"mask_of": "length"}, "optional": True},
    },
    "outputs": SCORES,
    "axes": {"length": {"min": 2, "max": 12, "padding": "right"}},
}


@dataclass(frozen=True)
class Hidden:
    """A bug whose effect is smaller than the rounding of bfloat16."""

    test: str
    build: Callable[[float], nn.Module]
    task: TaskSpec
    code: str
    wrong: float = 0.01


HIDDEN = (
    Hidden("batch_independence[gradient]", Own, TABLE, "gradient_of_other_rows"),
    Hidden("permutation", Pooled, task_of(MAXIMUM), "differs"),
    Hidden("duplicates", partial(Pooled, counts=True), task_of(MAXIMUM), "differs", 0.03),
    Hidden(
        "symmetric_inputs",
        Pair,
        declared(
            inputs={"left": ROW, "right": ROW},
            outputs={"same": {"axes": ["batch"], "kind": "binary_scores"}},
            symmetric=["left", "right"],
        ),
        "differs",
    ),
    Hidden("optional_inputs[full_mask]", Masked, task_of(TEXT), "depends_on_absence"),
    Hidden("carried_state[chunks]", Recurrent, task_of(STATE), "depends_on_split"),
    Hidden(
        "declared_outputs",
        Chances,
        declared(
            inputs={"features": ROW},
            outputs={"chances": {"axes": ["batch", 4], "kind": "probabilities"}},
        ),
        "out_of_range",
        0.03,
    ),
    Hidden("decoding[cache]", Cached, CAUSAL, "depends_on_split"),
)


def judged(build: Callable[[], nn.Module], bug: Hidden) -> Evidence:
    def in_half() -> nn.Module:
        torch.manual_seed(0)
        return build().bfloat16()

    return judge_model(in_half, bug.task, only=[bug.test.partition("[")[0]])[bug.test]


@pytest.mark.parametrize("bug", HIDDEN, ids=lambda bug: bug.test)
def test_a_bug_that_rounding_hides_is_found_and_its_twin_is_quiet(bug: Hidden) -> None:
    found = judged(partial(bug.build, bug.wrong), bug)
    assert (found.status, found.code) == (Status.FAIL, bug.code), found.explain()
    assert found.details["hidden_by"] == "bfloat16"
    sound = judged(partial(bug.build, 0.0), bug)
    assert sound.status is Status.OK, sound.explain()


def test_a_cache_that_is_kept_in_half_precision_is_not_asked_in_float64() -> None:
    found = judged(partial(Cached, 0.0, rounds=True), HIDDEN[-1])
    assert found.status is Status.OK, found.explain()
