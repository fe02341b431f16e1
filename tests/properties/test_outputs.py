"""Every output of a model is followed: a second one counts as a use of its parameters, and is judged by its name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)
LM = TaskSpec(TaskType.CAUSAL_LM, vocab_size=17, max_seq_len=12)
FOLLOWED = ("gradient_flow", "finite_output", "eval_deterministic", "batch_independence")


class ActorCritic(nn.Module):
    """Scores of the actions, and the value of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.policy, self.value = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).tanh()
        return self.policy(hidden), self.judged(self.value(hidden))

    def judged(self, value: Tensor) -> Tensor:
        return value


class ValueCutOff(ActorCritic):
    def judged(self, value: Tensor) -> Tensor:
        return value.detach()


class ValueNan(ActorCritic):
    def judged(self, value: Tensor) -> Tensor:
        return value.abs().neg().sqrt()


class ValueDropped(ActorCritic):
    def judged(self, value: Tensor) -> Tensor:
        return F.dropout(value, 0.5)


class ValueCentred(ActorCritic):
    def judged(self, value: Tensor) -> Tensor:
        return value - value.mean()


class Contrastive(ActorCritic):
    """A similarity of each pair of rows mixes rows by design."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        hidden = self.body(x).tanh()
        return {"logits": self.policy(hidden), "similarity": hidden @ hidden.mT * self.value.weight.mean() + self.value.bias}


class Recurrent(nn.Module):
    """The last state goes with the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(17, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 17)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden, state = self.rnn(self.embed(input_ids))
        return self.head(hidden), state


class TwoHeads(Recurrent):
    """The second head predicts the token after the next."""

    leak = False

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, 17)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.rnn(self.embed(input_ids))[0]
        seen = hidden.flip(1) if self.leak else hidden
        return self.head(hidden), self.second(seen)


class SecondHeadLeaks(TwoHeads):
    leak = True


class KeptKeys(Recurrent):
    """The projection is cut off from the logits, and only a cache for the next call knows of it."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(8, 8)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        hidden = self.rnn(self.embed(input_ids))[0]
        keys = self.key(hidden)
        return {"logits": self.head(hidden + keys.detach()), "cache": keys}


def judged(model: type[nn.Module], task: TaskSpec, only: tuple[str, ...]) -> dict[str, Evidence]:
    return judge_model(model, task, only=only, share=0.1)


@pytest.mark.parametrize(("model", "task"), [(ActorCritic, TABLE), (Contrastive, TABLE), (Recurrent, LM), (TwoHeads, LM)])
def test_sound_models_with_several_outputs_pass(model: type[nn.Module], task: TaskSpec) -> None:
    findings = judged(model, task, (*FOLLOWED, "causal"))
    assert not [finding.explain() for finding in findings.values() if finding.status in (Status.FAIL, Status.WARN)]


def test_what_a_second_output_alone_reaches_is_said() -> None:
    finding = judged(ActorCritic, TABLE, ("gradient_flow",))["gradient_flow[reaches_every_parameter]"]
    assert finding.message == "all 6 trainable parameters receive a gradient, 2 of them from output 1 only"


@pytest.mark.parametrize(
    ("model", "task", "test", "start"),
    [
        (ValueCutOff, TABLE, "gradient_flow[reaches_every_parameter]", "parameter `value.weight` receives no gradient"),
        (KeptKeys, LM, "gradient_flow[reaches_every_parameter]", "parameter `key.weight` receives no gradient"),
        (ValueNan, TABLE, "finite_output[typical]", "output 1: 3 of 3 values are NaN"),
        (ValueDropped, TABLE, "eval_deterministic", "output 1: the same input gives different values"),
        (ValueCentred, TABLE, "batch_independence[forward]", "output 1: row "),
        (SecondHeadLeaks, LM, "causal", "output 1: position "),
    ],
)
def test_a_bug_in_a_second_output_is_found_and_named(model: type[nn.Module], task: TaskSpec, test: str, start: str) -> None:
    finding = judged(model, task, (test.partition("[")[0],))[test]
    assert finding.status is Status.FAIL
    assert finding.message.startswith(start), finding.message


def test_a_further_output_is_judged_in_the_dtype_of_the_model() -> None:
    finding = judged(lambda: ActorCritic().to(torch.float64), TABLE, ("batch_independence",))["batch_independence[forward]"]  # type: ignore[arg-type]
    assert finding.status is Status.OK
