"""Reported bugs of losses: activations before them, padding that is counted, balance losses that balance nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.tier3.training import Training

from .register import pair_of_one_class, task_of

WORDS, LENGTH, USERS, ITEMS, NODES = 31, 10, 12, 15, 6
IGNORED = -100
TEXT = task_of(task_type="causal_lm", vocab_size=WORDS, max_seq_len=LENGTH, pad_token_id=0)
TAGS = task_of(task_type="token_classification", vocab_size=WORDS, max_seq_len=LENGTH, pad_token_id=0, num_classes=5)
CLICKS = task_of(
    inputs={"user": {"axes": ["batch"], "values": {"ids": USERS}}, "item": {"axes": ["batch"], "values": {"ids": ITEMS}}},
    outputs={"click": {"axes": ["batch"], "kind": "binary_scores"}},
)
MATCHES = task_of(
    inputs={"left": {"axes": ["batch", NODES, 4]}, "right": {"axes": ["batch", NODES, 4]}},
    outputs={"match": {"axes": ["batch", NODES, NODES], "kind": "class_scores"}},
)


class Learner(lightning.LightningModule):
    """What the models of this file share: a bug or none."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Recommender(Learner):
    """Factors of users and items; the bug gives a loss with logits the probability of a click."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.users, self.items = nn.Embedding(USERS, 8), nn.Embedding(ITEMS, 8)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(-1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        click = self(batch["user"], batch["item"])
        return F.binary_cross_entropy_with_logits(click.sigmoid() if self.wrong else click, batch["labels"].float())


def loss_of_a_sure_answer(model: Any) -> float:
    """What is left of the loss when the score of a click is 20 and there was none, or the other way round, in each case as it should be."""
    model.forward = lambda user, item: torch.tensor([20.0, -20.0])
    batch = {"user": torch.tensor([0, 1]), "item": torch.tensor([0, 1]), "labels": torch.tensor([1, 0])}
    return float(model.training_step(batch, 0))


class Matcher(Learner):
    """Finds the node of one graph that each node of another one is; the bug takes a softmax before the cross-entropy."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.embed = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.embed(left) @ self.embed(right).transpose(1, 2) / 4

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        match = self(batch["left"], batch["right"])
        return F.cross_entropy((match.softmax(-1) if self.wrong else match).flatten(0, 1), batch["labels"].flatten())


def loss_of_a_sure_match(model: Any) -> float:
    """The loss where each node is matched with itself, and surely so."""
    model.forward = lambda left, right: 30 * torch.eye(NODES).expand(2, -1, -1)
    batch = {"left": torch.zeros(2, NODES, 4), "right": torch.zeros(2, NODES, 4), "labels": torch.arange(NODES).expand(2, -1)}
    return float(model.training_step(batch, 0))


class Summariser(Learner):
    """A tagger of words with smoothed labels; the bug smooths the labels of padding too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.words, self.mix, self.head = nn.Embedding(WORDS, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.words(input_ids))[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        shares, labels = self(batch["input_ids"]).log_softmax(-1), batch["labels"]
        real = labels != IGNORED
        right = -shares.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        smooth = -shares.mean(-1)
        if self.wrong:
            return 0.9 * right[real].mean() + 0.1 * smooth.mean()
        return (0.9 * right + 0.1 * smooth)[real].mean()


def push_at_padding(model: Any) -> float:
    """The gradient at positions without a label."""
    scores = torch.randn(2, LENGTH, 5, requires_grad=True)
    model.forward = lambda input_ids: scores
    labels = torch.randint(5, (2, LENGTH))
    labels[:, 6:] = IGNORED
    model.training_step({"input_ids": torch.ones(2, LENGTH, dtype=torch.long), "labels": labels}, 0).backward()
    assert scores.grad is not None
    return float(scores.grad[:, 6:].abs().max())


class Counted(Summariser):
    """The same; the bug adds up the losses of real words, and divides by all places."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        scores, labels = self(batch["input_ids"]), batch["labels"]
        losses = F.cross_entropy(
            scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=0.1, reduction="sum"
        )
        return losses / (labels.numel() if self.wrong else (labels != IGNORED).sum())


def change_by_more_padding(model: Any) -> float:
    """How much the loss changes when rows are padded by as many places again."""
    scores, labels = torch.randn(2, LENGTH, 5), torch.randint(5, (2, LENGTH))
    ids = torch.ones(2, LENGTH, dtype=torch.long)
    model.forward = lambda input_ids: scores if input_ids.shape[1] == LENGTH else torch.cat([scores, scores], 1)
    alone = model.training_step({"input_ids": ids, "labels": labels}, 0)
    longer = torch.cat([labels, torch.full_like(labels, IGNORED)], 1)
    return float((model.training_step({"input_ids": torch.cat([ids, ids], 1), "labels": longer}, 0) - alone).abs())


class Mixtral(Learner):
    """A language model with experts; the bug takes the shares of the best two experts, which sum to 1, for those of all."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.words, self.gate, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, 4, bias=False), nn.Linear(16, WORDS)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.scores = torch.zeros(0)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        self.scores = self.gate(x)
        shares, chosen = self.scores.topk(2)
        every = torch.stack([expert(x) for expert in self.experts], -2)
        best = every.gather(-2, chosen[..., None].expand(*chosen.shape, 16))
        return self.head(x + (best * shares.softmax(-1)[..., None]).sum(-2))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        scores = self(batch["input_ids"])
        loss = F.cross_entropy(scores[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        return loss + 0.02 * self.balance(self.scores.flatten(0, 1))

    def balance(self, scores: Tensor) -> Tensor:
        best, chosen = scores.topk(2)
        loads = F.one_hot(chosen, 4).sum(1).to(scores).mean(0) / 2
        shares = best.softmax(-1).sum(-1).mean() if self.wrong else scores.softmax(-1).mean(0)
        return 4 * (loads * shares).sum()


def change_by_collapse(model: Any) -> float:
    """How far the balance loss of tokens that all prefer two experts is from being above that of tokens spread over four."""
    together = 3.0 * torch.tensor([[1.0, 0.9, 0.0, 0.0]] * 8)
    spread = torch.stack([together[0].roll(2 * (place % 2)) for place in range(8)])
    return max(0.0, 0.5 - float(model.balance(together) - model.balance(spread)))


add = partial(pair_of_one_class, area="losses", judge=Training)
add(
    "sigmoid_before_a_loss_with_logits",
    "The probability of a click is given to a loss that expects a score, so the loss does not converge",
    "yudi-mars/daisyRec#15",
    "recommenders",
    "training_loss[scores]",
    Recommender,
    loss_of_a_sure_answer,
    CLICKS,
)
add(
    "softmax_before_a_cross_entropy",
    "A softmax stands before the cross-entropy that matches the nodes of two graphs",
    "mlelarge/graph_neural_net#37",
    "graphs",
    "initial_loss",
    Matcher,
    loss_of_a_sure_match,
    MATCHES,
)
add(
    "smoothing_of_padding",
    "Label smoothing pulls the scores at padded positions too",
    "k-tahiro/bert-summarizer#41",
    "text",
    "training_loss[ignored_labels]",
    Summariser,
    push_at_padding,
    TAGS,
)
add(
    "mean_over_padded_places",
    "The smoothed loss of real tokens is divided by the number of all places",
    "eladhoffer/utils.pytorch#4",
    "text",
    "training_loss[ignored_labels]",
    Counted,
    change_by_more_padding,
    TAGS,
)
add(
    "balance_of_the_chosen_only",
    "The load-balancing loss is always the same constant",
    "huggingface/transformers#28093",
    "text",
    "training_loss[balance]",
    Mixtral,
    change_by_collapse,
    TEXT,
    module="gate",
)
