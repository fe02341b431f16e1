"""Models that read token ids as [length, batch]: told from others, named where undeclared, and judged rightly where declared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import LENGTH_FIRST, make_adapter
from harness.batches import make_batch, typical_sizes
from harness.errors import ConfigError
from harness.evidence import Evidence, Status
from harness.models.answers import reading_length_first
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

LM = TaskSpec(TaskType.CAUSAL_LM, vocab_size=19, max_seq_len=12, pad_token_id=0)
POOLED = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=19, max_seq_len=12, num_classes=3)
TRANSLATION = TaskSpec(TaskType.SEQ2SEQ_LM, vocab_size=19, max_seq_len=12)


class LengthFirstLM(nn.Module):
    """Reads [length, batch] throughout."""

    batch_first = False

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(19, 8)
        self.gru = nn.GRU(8, 8, batch_first=self.batch_first)
        self.head = nn.Linear(8, 19)

    def forward(self, src: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(src))[0])


class BatchFirstLM(LengthFirstLM):
    batch_first = True


class NoContext(LengthFirstLM):
    """Reads each token alone: either order of axes is right."""

    def forward(self, src: Tensor) -> Tensor:
        return self.head(self.embed(src))


class MixesBoth(LengthFirstLM):
    """Reads [batch, length], with a leak between rows."""

    batch_first = True

    def forward(self, src: Tensor) -> Tensor:
        hidden = self.gru(self.embed(src))[0]
        return self.head(hidden - hidden.mean(0))


class MixesRowsToo(LengthFirstLM):
    """Reads [length, batch], with a leak between rows."""

    def forward(self, src: Tensor) -> Tensor:
        hidden = self.gru(self.embed(src))[0]
        return self.head(hidden - hidden.mean(1, keepdim=True))


class LastState(LengthFirstLM):
    """The state after the last token, of [length, batch]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, src: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(src))[0][-1])


class Translator(nn.Module):
    """``nn.Transformer`` with its default order of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(19, 8)
        self.body = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0)
        self.head = nn.Linear(8, 19)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        hidden = torch.ones(len(decoder_input_ids), len(decoder_input_ids)).triu(1).bool()
        return self.head(self.body(self.embed(input_ids), self.embed(decoder_input_ids), tgt_mask=hidden))


def judged(model: type[nn.Module], task: TaskSpec, only: tuple[str, ...], adapter: str | None = None) -> dict[str, Evidence]:
    return judge_model(model, task, adapter=make_adapter(task, adapter), only=only, share=0.2)


@pytest.mark.parametrize(
    ("model", "task", "turned"),
    [
        (LengthFirstLM, LM, True),
        (LastState, POOLED, True),
        (Translator, TRANSLATION, True),
        (BatchFirstLM, LM, False),
        (NoContext, LM, False),
        (MixesBoth, LM, False),
        (MixesRowsToo, LM, False),
    ],
)
def test_the_order_is_found_by_shape_or_by_dependence(model: type[nn.Module], task: TaskSpec, turned: bool) -> None:
    assert reading_length_first(make_adapter(task), model().eval()) is turned
    assert not reading_length_first(make_adapter(task, LENGTH_FIRST), model().eval()), "what is declared is not said again"


@pytest.mark.parametrize(("model", "task"), [(LengthFirstLM, LM), (LastState, POOLED), (Translator, TRANSLATION)])
def test_declared_models_give_logits_with_the_batch_first(model: type[nn.Module], task: TaskSpec) -> None:
    sizes = typical_sizes(task)
    logits = make_adapter(task, LENGTH_FIRST).logits(model(), make_batch(task, sizes))
    assert tuple(logits.shape) == sizes.logits_shape(task)


DEPENDENT = ("batch_independence", "causal", "padding_ignored", "input_dependence", "inference_speed")


def test_a_declared_model_is_judged_as_it_is() -> None:
    findings = judged(LengthFirstLM, LM, DEPENDENT, LENGTH_FIRST)
    assert not [finding.explain() for finding in findings.values() if finding.status in (Status.FAIL, Status.WARN)]
    assert findings["batch_independence[gradient]"].status is Status.OK


def test_rows_that_mix_are_found_in_a_declared_model_too() -> None:
    findings = judged(MixesRowsToo, LM, ("batch_independence",), LENGTH_FIRST)
    assert {finding.status for finding in findings.values()} == {Status.FAIL}
    assert not any("[length, batch]" in finding.message for finding in findings.values())


def test_an_undeclared_one_is_one_finding_that_says_what_to_write() -> None:
    findings = judged(LengthFirstLM, LM, DEPENDENT)
    failures = {test: finding for test, finding in findings.items() if finding.status is Status.FAIL}
    assert set(failures) == {"batch_independence[forward]"}
    for finding in failures.values():
        assert "reads token ids as [length, batch]" in finding.message
        assert f'`adapter = "{LENGTH_FIRST}"`' in finding.cause
        assert finding.module == "gru"
    referring = [name for name, finding in findings.items() if "(see batch_independence[forward])" in finding.message]
    others = {"batch_independence[gradient]", "input_dependence[context]", "input_dependence[order]", "padding_ignored"}
    assert set(referring) == others


def test_a_wrong_shape_names_the_order_of_axes() -> None:
    finding = judged(LastState, POOLED, ("shape_contract",))["shape_contract"]
    assert finding.status is Status.FAIL
    assert "reads token ids as [length, batch]" in finding.message


def test_images_have_no_length() -> None:
    with pytest.raises(ConfigError, match="token ids"):
        make_adapter(TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 8, 8), num_classes=3), LENGTH_FIRST, Path())
