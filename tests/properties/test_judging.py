"""How a judge searches, cuts, and what a user's tolerance means to it."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import Sizes
from harness.evidence import Evidence, Status
from harness.models.stubs import LMStub, build_stub
from harness.properties.calling import CALLS
from harness.properties.numerics import finite_at_extremes
from harness.properties.subject import Subject
from harness.tasks import FACTS, TaskSpec, TaskType
from pytest_modeltiers.live import judge_model
from pytest_modeltiers.verdicts import Judge

LM = TaskSpec(TaskType.CAUSAL_LM, vocab_size=20, max_seq_len=12, pad_token_id=0)


@pytest.fixture
def subject() -> Subject:
    torch.manual_seed(0)
    return Subject(LMStub(20, 12, width=16, depth=1).eval(), make_adapter(LM), LM)


def finding(status: Status, message: str = "") -> Evidence:
    return Evidence("made_up", status, message)


def test_a_failure_is_shrunk_to_the_smallest_example(subject: Subject) -> None:
    def check(_subject: Subject, size: int) -> Evidence:
        return finding(Status.FAIL if size >= 7 else Status.OK, f"at {size}")

    judge = Judge("made_up", subject, share=10)
    judge.for_all(check, st.fixed_dictionaries({"size": st.integers(0, 100)}), examples=50)
    assert judge.worst == finding(Status.FAIL, "at 7")


def test_a_warning_outweighs_what_holds_and_a_failure_outweighs_a_warning(subject: Subject) -> None:
    judge = Judge("made_up", subject, share=10)
    for status in (Status.OK, Status.WARN, Status.OK, Status.FAIL, Status.WARN):
        judge.holds(lambda _subject, status=status: finding(status))
    assert judge.worst is not None
    assert judge.worst.status is Status.FAIL
    assert judge.examples == 5


def test_no_more_examples_are_drawn_when_the_share_is_spent_but_one_always_is(subject: Subject) -> None:
    def slow(_subject: Subject, size: int) -> Evidence:
        time.sleep(0.05)
        return finding(Status.OK)

    judge = Judge("made_up", subject, share=0.0)
    judge.for_all(slow, st.fixed_dictionaries({"size": st.integers(0, 100)}), examples=50)
    assert judge.examples == 1
    assert judge.cut
    assert judge.worst == finding(Status.OK)


def test_a_check_that_fails_only_the_first_time_is_a_failure_all_the_same(subject: Subject) -> None:
    calls: list[int] = []

    def flaky(_subject: Subject, size: int) -> Evidence:
        calls.append(size)
        return finding(Status.FAIL if len(calls) == 1 else Status.OK)

    judge = Judge("made_up", subject, share=10)
    judge.for_all(flaky, st.fixed_dictionaries({"size": st.integers(0, 100)}))
    assert judge.worst == finding(Status.FAIL)


@pytest.mark.parametrize(
    ("name", "loose", "tight"),
    [("inference_speed", 1e6, 1e-6), ("memory_footprint", 1e6, 1e-6), ("initialisation", 50.0, 0.0)],
)
def test_a_tolerance_is_what_the_catalogue_says_it_is(name: str, loose: float, tight: float) -> None:
    def judged(tolerance: float) -> set[Status]:
        task = dataclasses.replace(LM, tolerances={name: tolerance})
        # Embeddings of scale 1, tied to the head: the first loss is above that of a guess, though not by 50 nats.
        return {evidence.status for evidence in judge_model(Loud, task, only=[name]).values()}

    assert Status.FAIL not in judged(loose)
    assert Status.FAIL in judged(tight)


class Loud(LMStub):
    def __init__(self) -> None:
        super().__init__(20, 12, width=16, depth=1)
        nn.init.normal_(self.embed.tokens.weight, std=0.5)


class Raising(LMStub):
    def __init__(self) -> None:
        super().__init__(20, 12, width=16, depth=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if input_ids.shape[1] == 12:
            raise IndexError("position 11 is out of range")
        return super().forward(input_ids, attention_mask)


class NotANumber(LMStub):
    def __init__(self) -> None:
        super().__init__(20, 12, width=16, depth=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        return logits / (0 if input_ids.shape[1] == 12 else 1) * 0 + logits


class Random(LMStub):
    def __init__(self) -> None:
        super().__init__(20, 12, width=16, depth=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(super().forward(input_ids, attention_mask), 0.1)


@pytest.mark.parametrize(
    ("model", "owners"),
    [
        (Raising, {"shape_contract", "full_length"}),
        (NotANumber, {"finite_output[typical]", "finite_output[extremes]", "finite_output[fully_padded_row]", "full_length"}),
        (Random, {"eval_deterministic", "rng_untouched"}),
    ],
)
def test_one_bug_is_red_where_it_belongs_and_not_everywhere(model: type[nn.Module], owners: set[str]) -> None:
    found: dict[str, Any] = judge_model(model, LM)
    red = {label for label, evidence in found.items() if evidence.status is Status.FAIL}
    assert red & owners
    assert red <= owners | {"gradient_flow[finite]"}


class SqueezedAlone(LMStub):
    """Loses the batch axis of a single row, whatever its length."""

    def __init__(self) -> None:
        super().__init__(20, 12, width=16, depth=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(input_ids, attention_mask).squeeze(0)


def test_a_wrong_shape_at_every_length_is_no_matter_of_the_longest() -> None:
    found = judge_model(SqueezedAlone, LM, only=["shape_contract", "full_length"])
    assert found["shape_contract"].status is Status.FAIL
    assert found["full_length"].status is Status.SKIPPED
    assert found["full_length"].message.endswith("(see shape_contract)")


@pytest.mark.parametrize("task_type", list(FACTS), ids=lambda t: t.value)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_every_embedded_model_is_sound(task_type: TaskType, seed: int) -> None:
    task = TaskSpec(task_type, vocab_size=40, max_seq_len=14, pad_token_id=0, image_size=(3, 8, 8), num_classes=4, num_features=5)
    found = judge_model(lambda: build_stub(task), task, seed=seed)
    assert {label for label, e in found.items() if e.status in (Status.FAIL, Status.WARN)} == set()
    assert len(found) >= 24


@pytest.mark.parametrize("left", [["causal"], ["causal", "memory_layout"]])
def test_a_bug_is_not_left_to_a_property_that_is_not_judged(left: list[str]) -> None:
    found = judge_model(Raising, LM, only=left)
    red = {label for label, evidence in found.items() if evidence.status is Status.FAIL}
    assert "causal" in red
    assert all(found[label].message.endswith("(see causal)") for label in found.keys() - red)


class TooLarge(LMStub):
    def __init__(self) -> None:
        super().__init__(20, 12, width=16, depth=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if input_ids.shape[1] == 12:
            torch.empty(10**14)
        return super().forward(input_ids, attention_mask)


def test_running_out_of_memory_is_said_in_plain_words() -> None:
    found = judge_model(TooLarge, LM, only=["shape_contract"])["shape_contract"]
    assert found.status is Status.FAIL
    assert "out of memory" in found.message
    assert "test_judging.py, line" in found.message
    assert "alloc_cpu" not in found.message


def test_the_peak_of_memory_is_the_same_alone_and_after_others() -> None:
    def peak(*only: str) -> float | None:
        return judge_model(lambda: LMStub(20, 12, width=16, depth=1), LM, only=only, share=0.1)["memory_footprint"].measured

    assert peak("memory_footprint") == peak("shape_contract", "eval_deterministic", "memory_footprint")


class RowsAdded(LMStub):
    """Each row reads the one before it, at the same positions."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        return logits + 0.1 * logits.roll(1, 0)


class LooksAheadAlone(LMStub):
    """A single row is read without a mask."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        return logits + 0.1 * logits.flip(1) if len(logits) == 1 else logits


class LooksAheadInOneRow(LMStub):
    """Of a long text of a large batch one row is read without a mask."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        if len(logits) > 6 and logits.shape[1] > 8:
            logits = torch.cat((logits[:5], logits[5:6] + 0.1 * logits[5:6].flip(1), logits[6:]))
        return logits


def small(model: type[LMStub]) -> nn.Module:
    return model(20, 12, width=16, depth=1)


def test_rows_that_read_each_other_are_not_taken_for_a_leak_along_the_text() -> None:
    found = judge_model(lambda: small(RowsAdded), LM, only=["causal", "batch_independence"])
    assert found["causal"].status is Status.OK
    assert found["batch_independence[forward]"].code == "reads_other_rows"


@pytest.mark.parametrize("model", [LooksAheadAlone, LooksAheadInOneRow])
def test_a_leak_that_only_some_batches_show_is_found_in_shared_calls(model: type[LMStub]) -> None:
    assert judge_model(lambda: small(model), LM, only=["causal"])["causal"].code == "reads_later_positions"


def test_the_largest_sizes_are_judged_whatever_is_drawn_and_made_smaller_where_they_fail(subject: Subject) -> None:
    def check(_subject: Subject, sizes: Sizes) -> Evidence:
        return Evidence("made_up", Status.FAIL if sizes.seq >= 10 else Status.OK, "too long", counterexample=f"seq={sizes.seq}")

    judge = Judge("made_up", subject, share=5.0)
    judge.for_all(check, st.just({"sizes": Sizes(1, 2)}), examples=1)
    judge.holds_at_corner(check, sizes=Sizes(5, 12))
    assert judge.finish().counterexample == "seq=10"


class NoisyAndNotForShortTexts(nn.Module):
    """Refuses texts shorter than its window, and drops in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.window, self.head = nn.Embedding(20, 8), nn.Conv1d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        read = self.window(self.embed(input_ids).mT).relu().mean(-1)
        return self.head(nn.functional.dropout(read, 0.3))


class MixedAndNaNForOneToken(NoisyAndNotForShortTexts):
    """Divides by the deviation of a text's tokens, which one token has none of, and reads the other rows."""

    def forward(self, input_ids: Tensor) -> Tensor:
        read = self.embed(input_ids)
        scaled = read.mean(1) / read.std(1)
        return self.head(scaled - scaled.mean(0))


@pytest.mark.parametrize(
    ("model", "red"),
    [
        (NoisyAndNotForShortTexts, {"shape_contract", "eval_deterministic"}),
        (MixedAndNaNForOneToken, {"finite_output[typical]", "batch_independence[forward]"}),
    ],
)
def test_what_fails_at_the_smallest_sizes_hides_no_other_bug(model: type[nn.Module], red: set[str]) -> None:
    task = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=20, max_seq_len=12, num_classes=3)
    asked = ["shape_contract", "finite_output", "eval_deterministic", "batch_independence", "memory_layout"]
    found = judge_model(model, task, share=0.1, only=asked)
    assert {name for name, each in found.items() if each.status is Status.FAIL} - {"batch_independence[gradient]"} == red


def test_extreme_contents_that_are_the_same_of_ids_are_asked_once(subject: Subject) -> None:
    subject.logits(subject.batch())  # before which the model is tried
    before = dataclasses.replace(CALLS)
    assert finite_at_extremes(subject, Sizes(1, 4)).status is Status.OK
    # The first id everywhere, the last one, a single last one, and both in turn.
    assert CALLS.since(before).rows == 4
