"""BLEU and ROUGE-L of the likeliest tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judging import Lookup, judge, random_texts, text_task

from harness.batches import IGNORED
from harness.evaluation.metrics import Bleu, common_subsequence
from harness.tasks import TaskSpec

SIZE = 20
TASK = text_task("seq2seq_lm", SIZE, metrics=("bleu", "rouge_l"))
tokens = st.lists(st.integers(0, 4), max_size=30)


def bleu(pairs: list[tuple[list[int], list[int]]]) -> float:
    """Straight from the paper, for hypotheses as long as their references."""
    precisions = []
    for length in range(1, 5):
        hits = total = 0
        for hypothesis, reference in pairs:
            grams, there = (
                Counter(tuple(ids[place : place + length]) for place in range(len(ids) - length + 1))
                for ids in (hypothesis, reference)
            )
            hits += sum((grams & there).values())
            total += sum(grams.values())
        precisions.append(hits / total)
    return float(np.exp(np.mean(np.log(precisions)))) if all(precisions) else 0.0


def longest(first: list[int], second: list[int]) -> int:
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def pairs(wrong: int = 5) -> list[tuple[list[int], list[int]]]:
    """What is written and what should be: every so many tokens, a wrong one."""
    texts = [text.tolist() for text in random_texts((6, 17, 9, 30), SIZE)]
    return [([(t + 1) % SIZE if place % wrong == wrong - 1 else t for place, t in enumerate(ids)], ids) for ids in texts]


def summary_of(pairs: list[tuple[list[int], list[int]]], task: TaskSpec = TASK) -> dict[str, float]:
    """A model that writes the first of each pair, with a position without a label before it."""
    rows = [
        {
            "input_ids": torch.tensor([1, 2]),
            "decoder_input_ids": torch.tensor([0, *written]),
            "labels": torch.tensor([IGNORED, *meant]),
        }
        for written, meant in pairs
    ]
    return judge(task, rows, Lookup(5 * torch.eye(SIZE), "decoder_input_ids"), 3).summary


def test_bleu_is_that_of_the_paper() -> None:
    assert summary_of(pairs())["bleu"] == pytest.approx(bleu(pairs()), rel=1e-6)


def test_rouge_l_is_the_mean_share_of_the_longest_common_subsequence() -> None:
    expected = np.mean([longest(*pair) / len(pair[1]) for pair in pairs()])
    assert summary_of(pairs())["rouge_l"] == pytest.approx(expected)


def test_perfect_writing_scores_one_and_wrong_writing_nothing() -> None:
    right = [(meant, meant) for _, meant in pairs()]
    wrong = [([1] * 8, [2] * 8)]
    for given_pairs, expected in ((right, 1.0), (wrong, 0.0)):
        summary = summary_of(given_pairs)
        assert (summary["bleu"], summary["rouge_l"]) == pytest.approx((expected, expected))


def test_a_shift_costs_accuracy_but_little_overlap() -> None:
    ids = list(range(SIZE))
    task = text_task("seq2seq_lm", SIZE, metrics=("accuracy", "bleu", "rouge_l"))
    summary = summary_of([(ids[1:] + ids[:1], ids)], task)
    assert summary["accuracy"] == 0
    assert summary["rouge_l"] == pytest.approx(1 - 1 / SIZE)
    assert summary["bleu"] > 0.8


def test_counts_are_kept_in_double_precision() -> None:
    meter = Bleu()
    assert {state.dtype for state in meter.metric_state.values()} == {torch.float64}


@given(tokens, tokens)
def test_common_subsequences_are_as_long_as_the_table_says(first: list[int], second: list[int]) -> None:
    assert common_subsequence(first, second) == longest(first, second)
