"""Losses that are divided by the wrong sum of weights, masks or labels, and ends of texts that are taken for padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch
from harness.evidence import Status
from harness.models.stubs import EncoderStub
from harness.tasks import TaskSpec, TaskType

from ..register import PYTORCH
from .training import CLASSES, FEATURES, LENGTH, TABLE, TAGS, TEXT, VOCAB, LitLM, LitScores, Scores, Training, plant

TEXTS = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0, num_classes=CLASSES)
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 6.0])
WEIGHTED = f"{PYTORCH}, CrossEntropyLoss: the weighted mean is divided by the weights of the targets"


class ByWeightsOfTheLabels(Adapter):
    """Sound: rare classes count more, and the mean is over the weights of the labels."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        losses = F.cross_entropy(logits, batch["labels"], weight=CLASS_WEIGHTS.to(logits), reduction="none")
        return losses.sum() / self.divisor(batch["labels"]).to(logits)

    def divisor(self, labels: Tensor) -> Tensor:
        return CLASS_WEIGHTS[labels].sum()

    def weight(self, batch: Batch) -> Tensor:
        return CLASS_WEIGHTS[batch["labels"]].sum().long()


class ByWeightsOfAllClasses(ByWeightsOfTheLabels):
    def divisor(self, labels: Tensor) -> Tensor:
        return CLASS_WEIGHTS.sum()


class ByWeightsOfRealTokens(Adapter):
    """Sound: the same of tokens, some of which have no label."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        labels, weights = batch["labels"], CLASS_WEIGHTS.to(logits)
        losses = F.cross_entropy(logits.transpose(1, 2), labels, weight=weights, reduction="none")
        return losses.sum() / self.divisor(labels).to(logits)

    def divisor(self, labels: Tensor) -> Tensor:
        return CLASS_WEIGHTS[labels[labels != -100]].sum()

    def weight(self, batch: Batch) -> Tensor:
        labels = batch["labels"]
        return CLASS_WEIGHTS[labels[labels != -100]].sum().long()


class ByWeightsOfEveryToken(ByWeightsOfRealTokens):
    def divisor(self, labels: Tensor) -> Tensor:
        return CLASS_WEIGHTS[labels.clamp(min=0)].sum()


class SmoothedByTheMean(LitLM):
    """Sound: label smoothing by hand, divided by the number of labels."""

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        labels = batch["labels"][:, 1:]
        real = labels != -100
        smoothed = -logits[:, :-1].log_softmax(-1).mean(-1) * real
        return 0.9 * super().loss(logits, batch) + 0.1 * smoothed.sum() / self.divisor(real)

    def divisor(self, real: Tensor) -> Tensor | int:
        return real.sum()


class SmoothedByThePositions(SmoothedByTheMean):
    def divisor(self, real: Tensor) -> Tensor | int:
        return real.numel()


class Topics(LitScores):
    """Sound: topics of texts by their mean word, with a second lesson, that words beside each other are alike; padding has none."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.net = nn.Embedding(VOCAB, FEATURES), Scores()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        real = attention_mask[..., None].to(self.words.weight.dtype)
        return self.net((self.words(input_ids) * real).sum(1) / real.sum(1).clamp(min=1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        words, real = self.words(batch["input_ids"]), self.taught(batch["attention_mask"])
        apart = (words[:, 1:] - words[:, :-1]).square().mean(-1) * real[:, 1:]
        told = self.loss(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])
        return told + 0.3 * apart.sum() / real[:, 1:].sum().clamp(min=1)

    def taught(self, real: Tensor) -> Tensor:
        return real


class TopicsOfPadding(Topics):
    def taught(self, real: Tensor) -> Tensor:
        return torch.ones_like(real)


class Ends(LitLM):
    """Sound: the token that ends a text has the id of padding, and the labels say which is which."""

    eos_token_id: int

    def __init__(self) -> None:
        super().__init__()
        self.eos_token_id = 0


class EndsTakenForPadding(Ends):
    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        labels = batch["labels"]
        return super().loss(logits, {"labels": labels.masked_fill(labels == self.eos_token_id, -100)})


def tagger() -> nn.Module:
    return EncoderStub(VOCAB, LENGTH, CLASSES, pooled=False, width=32, depth=1, heads=2)


plant(
    "divided_by_the_weights_of_all_classes",
    "training_loss[reduction]",
    Training(TABLE, Scores, ByWeightsOfAllClasses),
    Training(TABLE, Scores, ByWeightsOfTheLabels),
    "summed",
    WEIGHTED,
    also=("accumulation", "initial_loss"),
)
plant(
    "divided_by_the_weights_of_ignored_labels",
    "training_loss[ignored_labels]",
    Training(TAGS, tagger, ByWeightsOfEveryToken),
    Training(TAGS, tagger, ByWeightsOfRealTokens),
    "averages_over_ignored_positions",
    WEIGHTED,
    also=("accumulation",),
)
plant(
    "smoothing_divided_by_all_positions",
    "training_loss[ignored_labels]",
    Training(TEXT, SmoothedByThePositions),
    Training(TEXT, SmoothedByTheMean),
    "averages_over_ignored_positions",
    "huggingface/transformers, LabelSmoother: padding is left out of the mean",
)
plant(
    "end_of_text_taken_for_padding",
    "training_loss[end_of_text]",
    Training(TEXT, EndsTakenForPadding),
    Training(TEXT, Ends),
    "end_of_text_ignored",
    "Hugging Face forum: with pad_token = eos_token a fine-tuned model never stops",
)
plant(
    "second_lesson_of_padding",
    "training_loss[padding]",
    Training(TEXTS, TopicsOfPadding),
    Training(TEXTS, Topics),
    "padding_in_loss",
    "RUCAIBox/RecBole#1483",
    status=Status.WARN,
    module="words.weight",
    says="with padding behind the rows",
)
