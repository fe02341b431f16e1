"""Losses that are of another kind, size or aim than they seem."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter, RegressionAdapter
from harness.batches import Batch
from harness.evidence import Status
from harness.models.stubs import EncoderStub

from ..register import HUGGING_FACE, HUMBATOVA, ISLAM, PYTORCH, RECIPE
from .training import (
    CLASSES,
    LENGTH,
    LIT_SCORES,
    LIT_WORDS,
    NUMBER,
    NUMBERS,
    SCORES,
    TABLE,
    TAGS,
    TEXT,
    VOCAB,
    WORDS,
    LitLM,
    LitScores,
    Scores,
    Training,
    plant,
    regressor,
)

# The size and the kind of the first loss


class SoftmaxTwice(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.softmax(-1), labels)


class EndsInSoftmax(Scores):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).softmax(-1)


class NoLog(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.nll_loss(logits.softmax(-1), batch["labels"])


class NoSoftmax(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.nll_loss(logits, batch["labels"])


class LogSoftmax(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.nll_loss(logits.log_softmax(-1), batch["labels"])


class DividedTwice(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits, labels) / 4


class LogProbabilities(LitScores):
    """Returns log-probabilities, as the examples of handwritten digits do."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).log_softmax(-1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.nll_loss(logits, labels)


class LogitsAsLogProbabilities(LogProbabilities):
    forward = LitScores.forward


class InBits(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits, labels) / math.log(2)


class InBitsTwice(InBits):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits, labels) / math.log(2)


class HeavyPenalty(LitScores):
    strength = 1.0

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits, labels) + self.strength * sum(p.square().sum() for p in self.parameters())


class LightPenalty(HeavyPenalty):
    strength = 1e-4


def loud_language_model() -> nn.Module:
    model = WORDS.build()
    nn.init.normal_(model.embed.tokens.weight)
    nn.init.constant_(model.norm.weight, 3.0)
    return model


class SumOverPositions(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
        return losses.sum(1).mean()


plant(
    "softmax_twice",
    "initial_loss",
    Training(TABLE, SoftmaxTwice),
    LIT_SCORES,
    "softmax_twice",
    HUMBATOVA,
    says="it is the cross-entropy of softmax(logits), so the loss can never fall below 0.55",
)
plant(
    "model_ends_in_softmax",
    "initial_loss",
    Training(TABLE, EndsInSoftmax),
    SCORES,
    "returns_probabilities",
    HUMBATOVA,
    line="return super().forward(features).softmax(-1)",
)
plant(
    "nll_of_probabilities",
    "initial_loss",
    Training(TABLE, Scores, NoLog),
    Training(TABLE, Scores, LogSoftmax),
    "nll_of_softmax",
    PYTORCH,
)
plant(
    "nll_of_logits",
    "initial_loss",
    Training(TABLE, Scores, NoSoftmax),
    Training(TABLE, Scores, LogSoftmax),
    "nll_of_logits",
    PYTORCH,
)
plant(
    "nll_of_returned_logits",
    "initial_loss",
    Training(TABLE, LogitsAsLogProbabilities),
    Training(TABLE, LogProbabilities),
    "nll_of_logits",
    PYTORCH,
)
plant(
    "bits_of_bits",
    "initial_loss",
    Training(TABLE, InBitsTwice),
    Training(TABLE, InBits),
    "too_large",
    PYTORCH,
    status=Status.WARN,
    says="it is 2.08 times the mean cross-entropy",
)
plant(
    "loss_divided_by_accumulation",
    "initial_loss",
    Training(TABLE, DividedTwice),
    LIT_SCORES,
    "scaled",
    PYTORCH,
    status=Status.WARN,
    says="it is 0.25 times the mean cross-entropy",
)
plant(
    "penalty_larger_than_the_loss",
    "initial_loss",
    Training(TABLE, HeavyPenalty),
    Training(TABLE, LightPenalty),
    "too_large",
    HUMBATOVA,
    also=("overfits_one_batch",),
    says="a uniform guess over 3 classes has loss 1.10",
)
plant(
    "loud_head",
    "initial_loss",
    Training(TEXT, loud_language_model),
    WORDS,
    "too_large",
    RECIPE,
)
plant(
    "sum_over_positions",
    "initial_loss",
    Training(TEXT, SumOverPositions),
    LIT_WORDS,
    "too_large",
    HUMBATOVA,
    also=("training_loss[ignored_labels]",),
)

# Sums and fixed divisors


class SumOverLabels(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")


class FixedDivisor(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits, batch["labels"], reduction="sum") / 8


class MeanByHand(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits, batch["labels"], reduction="sum") / len(logits)


plant(
    "sum_reduction",
    "training_loss[reduction]",
    Training(TABLE, SumOverLabels),
    LIT_SCORES,
    "summed",
    RECIPE,
)
plant(
    "divided_by_the_configured_batch_size",
    "training_loss[reduction]",
    Training(TABLE, Scores, FixedDivisor),
    Training(TABLE, Scores, MeanByHand),
    "summed",
    HUMBATOVA,
)

# Labels that are to be left out


class Clamped(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return super().loss(logits, {**batch, "labels": batch["labels"].clamp(min=0)})


class PadIsIgnored(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=0)


class MeanOfAllPositions(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        mask = (batch["labels"] != -100).float()
        losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"].clamp(min=0), reduction="none")
        return (losses * mask).mean()


class MeanOfLabels(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        mask = (batch["labels"] != -100).float()
        losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"].clamp(min=0), reduction="none")
        return (losses * mask).sum() / mask.sum()


class SmoothedEverywhere(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return 0.9 * super().loss(logits, batch) - 0.1 * logits[:, :-1].log_softmax(-1).mean()


class SmoothedAtLabels(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        shares, real = logits[:, :-1].log_softmax(-1), batch["labels"][:, 1:] != -100
        return 0.9 * super().loss(logits, batch) - 0.1 * shares[real].mean()


class LabelsFromInputs(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return super().loss(logits, {"labels": batch["input_ids"]})


class LabelsFromInputsWithoutPadding(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return super().loss(logits, {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)})


def tagger() -> nn.Module:
    return EncoderStub(VOCAB, LENGTH, CLASSES, pooled=False, width=32, depth=1, heads=2)


plant(
    "ignored_labels_clamped_to_zero",
    "training_loss[ignored_labels]",
    Training(TEXT, Clamped),
    LIT_WORDS,
    "trains_padding",
    ISLAM,
    says="which is padding, towards class 0",
)
plant(
    "another_ignore_index",
    "training_loss[ignored_labels]",
    Training(TEXT, PadIsIgnored),
    LIT_WORDS,
    "raises_on_ignored_labels",
    PYTORCH,
    says="raises an error on labels of -100: IndexError: Target -100 is out of bounds",
)
plant(
    "mean_over_ignored_positions",
    "training_loss[ignored_labels]",
    Training(TAGS, tagger, MeanOfAllPositions),
    Training(TAGS, tagger, MeanOfLabels),
    "averages_over_ignored_positions",
    HUMBATOVA,
    also=("accumulation",),
    says="counts positions labelled -100 in its mean",
)
plant(
    "ignored_labels_are_smoothed",
    "training_loss[ignored_labels]",
    Training(TEXT, SmoothedEverywhere),
    Training(TEXT, SmoothedAtLabels),
    "smooths_ignored_positions",
    PYTORCH,
)
plant(
    "padding_is_trained",
    "training_loss[ignored_labels]",
    Training(TEXT, LabelsFromInputs),
    LIT_WORDS,
    "trains_padding",
    ISLAM,
)
plant(
    "prompts_are_trained",
    "training_loss[ignored_labels]",
    Training(TEXT, LabelsFromInputsWithoutPadding),
    LIT_WORDS,
    "trains_ignored_positions",
    ISLAM,
    status=Status.WARN,
    says="which is labelled -100",
)

# What positions are trained towards


class NoShift(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


class ShiftedTwice(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return super().loss(logits[:, :-1], {"labels": batch["labels"][:, 1:]})


class WrongWay(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits[:, 1:].flatten(0, 1), batch["labels"][:, :-1].flatten())


class ViewedAsClasses(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits.reshape(len(logits), CLASSES, -1), batch["labels"])


class Transposed(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits.transpose(1, 2), batch["labels"])


class OtherRows(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits, labels.roll(1))


class AllPairs(RegressionAdapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(logits[:, None].expand(-1, len(logits)), batch["labels"].to(logits.dtype).expand(len(logits), -1))


class WholeLabels(RegressionAdapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(logits, batch["labels"].long().to(logits.dtype))


class TokensForLabels(Adapter):
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return super().loss(logits, {"labels": torch.where(batch["labels"] == -100, -100, batch["input_ids"] % CLASSES)})


class Detached(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.detach(), labels) + 0.0 * logits.sum()


class LastOneMissing(LitLM):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return super().loss(logits[:, :-1], {"labels": batch["labels"][:, :-1]})


plant(
    "no_shift",
    "training_loss[targets]",
    Training(TEXT, NoShift),
    LIT_WORDS,
    "not_shifted",
    HUGGING_FACE,
    says="trains each position towards its own token, which is in the input",
)
plant(
    "shifted_twice",
    "training_loss[targets]",
    Training(TEXT, ShiftedTwice),
    LIT_WORDS,
    "shifted_twice",
    HUGGING_FACE,
    says="trains each position towards the token after the next",
)
plant(
    "shifted_the_wrong_way",
    "training_loss[targets]",
    Training(TEXT, WrongWay),
    LIT_WORDS,
    "shifted_backwards",
    HUGGING_FACE,
    says="trains each position towards the token before its own",
)
plant(
    "viewed_instead_of_transposed",
    "training_loss[targets]",
    Training(TAGS, tagger, ViewedAsClasses),
    Training(TAGS, tagger, Transposed),
    "wrong_class",
    PYTORCH,
    also=("training_loss[ignored_labels]",),
    says="of the labels are wrong",
)
plant(
    "labels_of_other_rows",
    "training_loss[targets]",
    Training(TABLE, OtherRows),
    LIT_SCORES,
    "wrong_class",
    RECIPE,
    says="but its label is",
)
plant(
    "broadcast_regression",
    "training_loss[targets]",
    Training(NUMBER, regressor, AllPairs),
    NUMBERS,
    "trained_away_from_label",
    PYTORCH,
    says="away from its label",
)
plant(
    "labels_made_whole",
    "training_loss[targets]",
    Training(NUMBER, regressor, WholeLabels),
    NUMBERS,
    "trained_away_from_label",
    ISLAM,
)
plant(
    "loss_of_detached_logits",
    "step_updates",
    Training(TABLE, Detached),
    LIT_SCORES,
    "no_gradient_at_step",
    ISLAM,
)
plant(
    "last_label_left_out",
    "training_loss[targets]",
    Training(TEXT, LastOneMissing),
    LIT_WORDS,
    "labels_ignored",
    HUGGING_FACE,
    status=Status.WARN,
    says="such as that of position 10 of row 0",
)
plant(
    "labels_from_the_inputs",
    "training_loss[targets]",
    Training(TAGS, tagger, TokensForLabels),
    Training(TAGS, tagger),
    "wrong_class",
    ISLAM,
)
