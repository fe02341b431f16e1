"""A model that writes into its inputs is one finding, and spoils no other."""

from __future__ import annotations

from torch import Tensor, nn

from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)
TIER = (
    "inputs_unchanged",
    "memory_layout",
    "batch_independence",
    "eval_deterministic",
    "stateless",
    "mode_round_trip",
    "input_dependence",
    "gradient_flow",
    "serialisation",
)


class Sound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(self.centred(x)).tanh())

    def centred(self, x: Tensor) -> Tensor:
        return x - 1


class WritesIntoItsInput(Sound):
    def centred(self, x: Tensor) -> Tensor:
        x -= 1
        return x


class NeedsContiguous(Sound):
    def centred(self, x: Tensor) -> Tensor:
        return x.view(-1).view(x.shape) - 1


def judged(model: type[nn.Module], only: tuple[str, ...]) -> dict[str, Evidence]:
    return judge_model(model, TABLE, only=only, share=0.2)


def test_one_write_is_one_failure() -> None:
    findings = judged(WritesIntoItsInput, TIER)
    assert [name for name, finding in findings.items() if finding.status is Status.FAIL] == ["inputs_unchanged"]
    assert "forward writes into its inputs (see inputs_unchanged)" in findings["memory_layout"].message


def test_a_view_that_refuses_a_layout_is_a_warning() -> None:
    finding = judged(NeedsContiguous, ("memory_layout",))["memory_layout"]
    assert (finding.status, finding.code) == (Status.WARN, "raises_on_layout")
    assert "view" in finding.cause


def test_a_sound_model_has_none_of_these_failures() -> None:
    assert not [finding.explain() for finding in judged(Sound, TIER).values() if finding.status is Status.FAIL]
