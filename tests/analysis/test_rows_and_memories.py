"""Attention to something else than the sequence itself, and rows that have to have a real element."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from planted_bugs.tester import red
from planted_bugs.tier1.declared import Keys, task_of
from planted_bugs.tier2.analysed import judge_all, study_of
from torch import Tensor, nn

from harness.evidence import Status

LONGEST = 8
CAPTIONS: Keys = {
    "inputs": {"image": {"axes": ["batch", 3, LONGEST]}, "words": {"axes": ["batch", "word"], "values": {"ids": 20}}},
    "outputs": {"scores": {"axes": ["batch", "word", 20], "kind": "token_scores"}},
    "axes": {"word": {"min": 1, "max": LONGEST, "order": "causal"}},
}
WORDS: Keys = {
    "inputs": {
        "words": {"axes": ["batch", "word"], "values": {"ids": 20}},
        "mask": {"axes": ["batch", "word"], "values": {"mask_of": "word"}},
    },
    "outputs": {"tags": {"axes": ["batch", "word", 4], "kind": "class_scores"}},
    "axes": {"word": {"min": 1, "max": 12, "padding": "right"}},
}


class Captions(nn.Module):
    """Words attend to words, and to a picture that has as many parts as the longest text has words."""

    def __init__(self, sees_ahead: bool = False) -> None:
        super().__init__()
        self.sees_ahead = sees_ahead
        self.image, self.words, self.head = nn.Linear(3, 16), nn.Embedding(20, 16), nn.Linear(16, 20)
        self.to_words, self.to_image = (nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(2))

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        x, memory = self.words(words), self.image(image.transpose(1, 2))
        count = x.shape[1]
        hidden = torch.ones(count, count, dtype=torch.bool, device=x.device).triu(2 if self.sees_ahead else 1)
        x = x + self.to_words(x, x, x, attn_mask=hidden)[0]
        return self.head(x + self.to_image(x, memory, memory)[0])


class Tags(nn.Module):
    """Packed rows, of which none may be empty."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.steps, self.head = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.words(words), mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        rows, _ = nn.utils.rnn.pad_packed_sequence(self.steps(packed)[0], batch_first=True, total_length=words.shape[1])
        return self.head(rows)


@pytest.mark.parametrize("sees_ahead", [False, True])
def test_what_is_attended_to_beside_the_sequence_is_not_later(sees_ahead: bool) -> None:
    study = study_of(partial(Captions, sees_ahead), task_of(CAPTIONS))
    evidence = judge_all(study, ["attention_patterns"])["attention_patterns[causal]"]

    assert evidence.status is (Status.FAIL if sees_ahead else Status.OK), evidence.explain()
    if sees_ahead:
        assert evidence.module == "to_words"


def test_no_row_is_empty_where_none_may_be() -> None:
    assert red(judge_all(study_of(Tags, task_of(WORDS)), ["half_precision", "attention_kernels"])) == {}
