"""Metrics of tasks where every token has a label: means over all labels, however the rows are batched and padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from judging import Lookup, cross_entropy, judge, random_table, random_texts, text_task
from sklearn.metrics import f1_score
from torch import Tensor

from harness.batches import IGNORED
from harness.data import Example
from harness.evaluation.evaluation import Evaluation

SIZE = 7
LENGTHS = (2, 19, 3, 5, 30, 4, 2)
TABLE = random_table(SIZE)
TEXTS = random_texts(LENGTHS, SIZE)


def masked(text: Tensor, seed: int) -> Tensor:
    """Labels at about half of the tokens, at least one."""
    hidden = torch.rand(len(text), generator=torch.Generator().manual_seed(seed)) < 0.5
    hidden[0] = True
    return torch.where(hidden, (text + 1) % SIZE, IGNORED)


def rows_of(kind: str) -> list[Example]:
    if kind == "causal_lm":
        return [{"input_ids": text, "labels": text} for text in TEXTS]
    if kind == "seq2seq_lm":
        return [{"input_ids": TEXTS[0], "decoder_input_ids": text, "labels": masked(text, 1)} for text in TEXTS]
    return [{"input_ids": text, "labels": masked(text, seed)} for seed, text in enumerate(TEXTS)]


def pairs_of(kind: str) -> list[tuple[Tensor, Tensor]]:
    """Logits and labels of each row, where there are labels."""
    found = []
    for row in rows_of(kind):
        read, labels = row["decoder_input_ids" if kind == "seq2seq_lm" else "input_ids"], row["labels"]
        if kind == "causal_lm":
            read, labels = read[:-1], labels[1:]
        kept = labels != IGNORED
        found.append((TABLE[read][kept], labels[kept]))
    return found


def evaluated(kind: str, batch_size: int) -> Evaluation:
    model = Lookup(TABLE, "decoder_input_ids" if kind == "seq2seq_lm" else "input_ids")
    return judge(text_task(kind, SIZE), rows_of(kind), model, batch_size)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("kind", ["causal_lm", "masked_lm", "seq2seq_lm", "token_classification"])
def test_loss_and_accuracy_are_means_over_all_labels(kind: str, batch_size: int) -> None:
    pairs = pairs_of(kind)
    losses = np.concatenate([cross_entropy(*pair) for pair in pairs])
    right = np.concatenate([(logits.argmax(1) == labels).numpy() for logits, labels in pairs])
    summary = evaluated(kind, batch_size).summary
    assert summary["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert summary["accuracy"] == pytest.approx(right.mean())
    if kind != "token_classification":
        assert summary["perplexity"] == pytest.approx(np.exp(losses.mean()), rel=1e-6)
        assert list(summary) == ["loss", "perplexity", "accuracy"]


def test_the_mean_of_batches_would_be_another_number() -> None:
    """Or else the test above says nothing."""
    losses = [cross_entropy(*pair) for pair in pairs_of("causal_lm")]
    assert np.mean([loss.mean() for loss in losses]) != pytest.approx(np.concatenate(losses).mean(), rel=0.01)


@pytest.mark.parametrize("kind", ["causal_lm", "masked_lm", "seq2seq_lm", "token_classification"])
def test_each_sample_has_the_mean_over_its_own_labels(kind: str) -> None:
    evaluation = evaluated(kind, 3)
    pairs = pairs_of(kind)
    assert set(evaluation.scores) == {"loss", "accuracy"}
    assert evaluation.scores["loss"] == pytest.approx([cross_entropy(*pair).mean() for pair in pairs], rel=1e-6)
    shares = [(logits.argmax(1) == labels).double().mean().item() for logits, labels in pairs]
    assert evaluation.scores["accuracy"] == pytest.approx(shares, rel=1e-6)
    assert evaluation.examples == len(LENGTHS)
    assert {scores.dtype for scores in evaluation.scores.values()} == {np.dtype("float32")}


def test_f1_of_tokens_is_that_of_scikit_learn() -> None:
    pairs = pairs_of("token_classification")
    predicted, labels = (torch.cat(parts) for parts in zip(*((a.argmax(1), b) for a, b in pairs), strict=True))
    expected = f1_score(labels, predicted, average="macro")
    assert evaluated("token_classification", 2).summary["f1"] == pytest.approx(expected)


def test_more_logits_than_are_widened_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluated("masked_lm", 7)
    monkeypatch.setattr("harness.evaluation.answers._PIECE", 3 * SIZE)
    again = evaluated("masked_lm", 7)
    assert again.summary == pytest.approx(expected.summary, rel=1e-12)
    assert np.array_equal(again.scores["loss"], expected.scores["loss"])


def test_a_single_token_predicts_nothing() -> None:
    rows = [{"input_ids": text, "labels": text} for text in (torch.tensor([1]), TEXTS[1])]
    evaluation = judge(text_task("causal_lm", SIZE), rows, Lookup(TABLE))
    alone = judge(text_task("causal_lm", SIZE), rows[1:], Lookup(TABLE))
    assert np.isnan(evaluation.scores["loss"][0])
    assert np.isnan(evaluation.scores["accuracy"][0])
    assert evaluation.summary == pytest.approx(alone.summary)


def test_a_hopeless_model_has_infinite_perplexity() -> None:
    assert judge(text_task("causal_lm", SIZE), rows_of("causal_lm"), Lookup(1e4 * TABLE)).summary["perplexity"] == np.inf
