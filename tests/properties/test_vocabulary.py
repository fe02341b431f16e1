"""Ids that cannot be read are named after a call that shows it; rows that cannot be read are not blamed on their ids."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TASK = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=40, max_seq_len=16, pad_token_id=0, num_classes=3)
TRANSLATION = TaskSpec(TaskType.SEQ2SEQ_LM, vocab_size=19, target_vocab_size=31, max_seq_len=8, pad_token_id=0)


class Packed(nn.Module):
    """Counts real tokens itself, and so refuses a row of padding alone."""

    rows = 40

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(self.rows, 8, padding_idx=0)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x > 0).sum(1).cpu()
        packed = pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.rnn(packed)[1][-1])


class TwoRowsShort(Packed):
    """The same with an embedding that is too small."""

    rows = 38


class Wide(nn.Module):
    """Convolves five tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 8)
        self.conv = nn.Conv1d(8, 8, 5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.embed(x).mT).amax(-1))


class AtMostTwoRows(Wide):
    """Takes any length, and batches of two rows at most."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 8, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 3:
            raise ValueError("too many rows")
        return super().forward(x)


class Translator(nn.Module):
    """Its target has its own vocabulary."""

    target_rows = 31

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(19, 8), nn.Embedding(self.target_rows, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(16, 31)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        hidden = self.rnn(self.target(decoder_input_ids))[0]
        source = self.rnn(self.source(input_ids))[1][-1]
        return self.head(torch.cat((hidden, source[:, None].expand_as(hidden)), -1))


class TargetOneRowShort(Translator):
    target_rows = 30


def vocabulary(model: type[nn.Module], task: TaskSpec = TASK) -> Evidence:
    return judge_model(model, task, only=["full_vocabulary"])["full_vocabulary"]


def test_a_row_of_padding_is_named_and_no_id_is_blamed() -> None:
    finding = vocabulary(Packed)
    assert finding.status is Status.WARN
    assert "only token 0 (padding)" in finding.message
    assert finding.counterexample == "input_ids=[[0]]"


def test_the_ids_that_cannot_be_read_are_named_all_the_same() -> None:
    finding = vocabulary(TwoRowsShort)
    assert finding.status is Status.FAIL
    assert finding.message.startswith("token ids 38 to 39 of `input_ids` cannot be read: IndexError")
    ids = torch.tensor(eval(finding.counterexample.removeprefix("input_ids=")))
    assert ids[0, 0] == 38
    try:
        TwoRowsShort()(ids)
    except IndexError:
        return
    raise AssertionError("the counterexample does not raise")


def test_lengths_and_batches_that_are_refused_are_no_matter_of_the_vocabulary() -> None:
    assert vocabulary(Wide).status is Status.OK
    assert vocabulary(AtMostTwoRows).status is Status.OK


def test_a_shortest_length_is_proposed_and_once_declared_kept() -> None:
    finding = judge_model(Wide, TASK, only=["shape_contract"])["shape_contract"]
    assert finding.status is Status.FAIL
    assert finding.message.startswith("forward raises at every length below 5: ")
    assert "`min_seq_len` 5" in finding.cause

    quick = ("shape_contract", "full_vocabulary", "batch_independence", "stateless", "finite_output", "robustness")
    declared = judge_model(Wide, replace(TASK, min_seq_len=5), only=quick, share=0.2, tiers=(1, 2))
    assert not [finding.explain() for finding in declared.values() if finding.status is Status.FAIL]
    assert declared["shape_contract"].status is Status.OK
    assert not [finding.message for finding in declared.values() if "see shape_contract" in finding.message]


def test_source_and_target_have_vocabularies_of_their_own() -> None:
    quick = ("shape_contract", "full_vocabulary", "causal", "input_dependence", "finite_output")
    sound = judge_model(Translator, TRANSLATION, only=quick, share=0.2)
    assert not [finding.explain() for finding in sound.values() if finding.status is Status.FAIL]

    finding = vocabulary(TargetOneRowShort, TRANSLATION)
    assert finding.status is Status.FAIL
    assert finding.message.startswith("token id 30 of `decoder_input_ids` cannot be read")


class OneLengthOnly(Wide):
    """Pools over sixteen tokens, as its config says."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(self.embed(x).mT)
        return self.head(nn.functional.max_pool1d(hidden, 12)[..., 0])


def test_a_shortest_length_is_proposed_where_the_typical_one_is_too_short() -> None:
    finding = judge_model(OneLengthOnly, TASK, only=["shape_contract"])["shape_contract"]
    assert finding.message.startswith("forward raises at every length below 16: ")
    declared = judge_model(OneLengthOnly, replace(TASK, min_seq_len=16), only=["shape_contract", "batch_independence"])
    assert not [found.explain() for found in declared.values() if found.status is Status.FAIL]
