"""Reported bugs of losses and of what they are taken over: the ninth draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model
from tests.planted_bugs.tier3.training import Training

from .optimisation_steps import Trained
from .register import FirstRun, pair_of_one_class, task_of

WORDS, LENGTH, WIDTH, CLASSES, PEOPLE, ITEMS, STEPS, NODE = 29, 10, 12, 4, 19, 23, 20, 5
TEXT = task_of(task_type="causal_lm", vocab_size=WORDS, max_seq_len=LENGTH, pad_token_id=0)
ANSWERS = task_of(
    inputs={
        "tokens": {"axes": ["batch", "time"], "values": {"ids": WORDS}},
        "prompt": {"axes": ["batch"], "values": {"ids": 4}},
    },
    outputs={"logps": {"axes": ["batch", "time"], "kind": "values"}},
    axes={"time": {"min": 6, "max": LENGTH}},
)
SEGMENTS = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"classes": {"axes": ["batch", CLASSES, 8, 8], "kind": "class_scores", "classes": 1, "fits": False}},
)
NOISY = task_of(
    inputs={"image": {"axes": ["batch", 1, 8, 8]}, "step": {"axes": ["batch"], "values": {"ids": STEPS}}},
    outputs={"noise": {"axes": ["batch", 1, 8, 8]}},
)
RANKED = task_of(
    inputs={
        "user": {"axes": ["batch"], "values": {"ids": PEOPLE}},
        "liked": {"axes": ["batch"], "values": {"ids": ITEMS}},
        "other": {"axes": ["batch"], "values": {"ids": ITEMS}},
    },
    outputs={"better": {"axes": ["batch"], "kind": "other"}},
    loss="model",
)
LINKS = task_of(
    inputs={"source": {"axes": ["batch", NODE]}, "target": {"axes": ["batch", NODE]}},
    outputs={"link": {"axes": ["batch"], "kind": "binary_scores"}},
)


class Answered(nn.Module):
    """How likely the answers to prompts are; the bug takes all answers from the place where the longest prompt ends."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.mix, self.head = (
            nn.Embedding(WORDS, WIDTH),
            nn.GRU(WIDTH, WIDTH, batch_first=True),
            nn.Linear(WIDTH, WORDS),
        )

    def forward(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        logps = self.head(self.mix(self.words(tokens))[0]).log_softmax(-1)
        chosen = logps[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
        context_length = prompt.max() if self.wrong else prompt[:, None]
        answer = torch.arange(chosen.shape[1], device=chosen.device) >= context_length
        return F.pad(chosen * answer, (1, 0))


@torch.no_grad()
def change_by_a_longer_prompt(model: nn.Module) -> float:
    """How far the answer to a short prompt depends on a longer one beside it."""
    tokens = torch.randint(WORDS, (2, LENGTH))
    return float((model(tokens[:1], torch.tensor([1])) - model(tokens, torch.tensor([1, 3]))[:1]).abs().max())


class Pretraining(Trained):
    """A language model that makes its labels of its input; the bug teaches it padding."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.words, self.mix, self.head = (
            nn.Embedding(WORDS, WIDTH),
            nn.GRU(WIDTH, WIDTH, batch_first=True),
            nn.Linear(WIDTH, WORDS),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.mix(self.words(input_ids) * attention_mask[..., None])[0])

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        labels = batch["input_ids"].clone()
        if not self.wrong:
            labels[batch["attention_mask"] == 0] = -100
        scores = self(batch["input_ids"], batch["attention_mask"])[:, :-1]
        return F.cross_entropy(scores.flatten(0, 1), labels[:, 1:].flatten())


@torch.no_grad()
def change_of_the_loss_by_padding(model: Any) -> float:
    """How far three places of padding move the loss."""
    batch = {"input_ids": torch.randint(1, WORDS, (2, 6)), "attention_mask": torch.ones(2, 6)}
    return float((model.loss({name: F.pad(each, (0, 3)) for name, each in batch.items()}) - model.loss(batch)).abs())


class WeightedDice(nn.Module):
    """One minus the overlap of each class, by the weight of the class; the bug weights along the width."""

    weight: Tensor

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 2.0, 1.0]))

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        share, wanted = scores.softmax(1), F.one_hot(target, CLASSES).movedim(-1, 1).to(scores.dtype)
        overlap, size = share * wanted, share + wanted
        if self.wrong:
            overlap, size = overlap * self.weight, size * self.weight
        dice = 1 - (2 * overlap.sum((2, 3)) + 1e-3) / (size.sum((2, 3)) + 1e-3)
        return (dice * self.weight).sum(1).mean() / self.weight.sum()


class Segmenter(Trained):
    """Classes of pixels, trained by that loss."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net, self.dice = (
            nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, CLASSES, 1)),
            WeightedDice(wrong),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.dice(self(batch["image"]), batch["labels"])


def refuses_a_batch(model: Any) -> float:
    """Whether the loss cannot be taken."""
    try:
        model.loss({"image": torch.randn(2, 3, 8, 8), "labels": torch.randint(CLASSES, (2, 8, 8))})
    except RuntimeError:
        return 1.0
    return 0.0


class Debiased(Trained):
    """A denoiser whose steps are weighted by one over the root of signal to noise, of which the last step has none; the bug divides by it."""

    snr: Tensor

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.steps, self.first, self.last = nn.Embedding(STEPS, 8), nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        kept = torch.linspace(0.99, 0, STEPS)
        self.register_buffer("snr", kept / (1 - kept))

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        return self.last(F.silu(self.first(image) + self.steps(step)[:, :, None, None]))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        snr = self.snr[batch["step"]]
        weight = 1 / (snr if self.wrong else snr.clamp(min=1e-3)).sqrt()
        missed = F.mse_loss(self(batch["image"], batch["step"]), batch["labels"], reduction="none").mean((1, 2, 3))
        return (missed * weight).mean()


@torch.no_grad()
def undefined_at_the_last_step(model: Any) -> float:
    """Whether the loss of the last step is no number."""
    batch = {"image": torch.randn(2, 1, 8, 8), "step": torch.tensor([0, STEPS - 1]), "labels": torch.randn(2, 1, 8, 8)}
    return float(not torch.isfinite(model.loss(batch)))


class Ranking(Trained):
    """How much better a user likes one item than another; the bug takes the logarithm of the difference and not of its sigmoid."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.users, self.items = nn.Embedding(PEOPLE, WIDTH), nn.Embedding(ITEMS, WIDTH)

    def forward(self, user: Tensor, liked: Tensor, other: Tensor) -> Tensor:
        person = self.users(user)
        return (person * self.items(liked)).sum(1) - (person * self.items(other)).sum(1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        out = self(batch["user"], batch["liked"], batch["other"])
        out = out if self.wrong else out.sigmoid()
        return -out.clamp(max=1 - 1e-6).log().mean()


@torch.no_grad()
def undefined_where_the_other_is_liked_more(model: Any) -> float:
    """Whether the loss is no number."""
    batch = {name: torch.randint(PEOPLE, (16,)) for name in ("user", "liked", "other")}
    return float(not torch.isfinite(model.loss(batch)))


class LinkPredictor(nn.Module):
    """Whether two nodes are linked; the bug ends with a sigmoid, which the loss takes too."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.lin_src, self.lin_dst, self.lin_final = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        h = self.lin_final((self.lin_src(source) + self.lin_dst(target)).relu())[:, 0]
        return h.sigmoid() if self.wrong else h


class Temporal(Trained):
    """Links between nodes, by a loss of scores."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.encode, self.link_pred = nn.Linear(NODE, WIDTH), LinkPredictor(wrong)
        self.criterion = nn.BCEWithLogitsLoss()

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.link_pred(self.encode(source).tanh(), self.encode(target).tanh())

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.criterion(self(batch["source"], batch["target"]), batch["labels"].float())


@torch.no_grad()
def loss_of_a_sure_link(model: Any) -> float:
    """What is left of the loss where the last layer is as sure as it can be."""
    model.link_pred.lin_final.weight.zero_()
    model.link_pred.lin_final.bias.fill_(30.0)
    return float(model.loss({"source": torch.randn(4, NODE), "target": torch.randn(4, NODE), "labels": torch.ones(4)}))


add = partial(pair_of_one_class, judge=Training, area="losses", draw=9, long=True)
UNDEFINED = (
    "step_updates",
    "initial_loss",
    "overfits_one_batch",
    "accumulation",
    "training_loss[rows]",
    "training_loss[one_class]",
)
add(
    "answers_from_the_longest_prompt",
    "Answers begin for all rows where the longest prompt ends",
    "meta-pytorch/torchtune#2601",
    "policies",
    "batch_independence[forward]",
    Answered,
    change_by_a_longer_prompt,
    ANSWERS,
    judge=Model,
    area="decoding",
    or_tests=("batch_independence[gradient]",),
    line="prompt.max()",
    first_run=FirstRun(
        "c9711093", found=True, named=True, said="batch_independence[forward] fails, with the line of the longest prompt"
    ),
)
add(
    "padding_is_taught",
    "Labels are a copy of the input, padding included",
    "axolotl-ai-cloud/axolotl#2227",
    "text",
    "training_loss[ignored_labels]",
    Pretraining,
    change_of_the_loss_by_padding,
    TEXT,
    area="contents",
    or_tests=("training_loss[padding]", "training_loss[reduction]"),
    line="labels[:, 1:].flatten()",
    first_run=FirstRun("c9711093", found=True, named=True, said="training_loss[ignored_labels] fails, with the line of the loss"),
)
add(
    "weights_of_classes_along_the_width",
    "The weights of the classes are multiplied along the width of the images",
    "kornia/kornia#3033",
    "vision",
    "training_loss[reduction]",
    Segmenter,
    refuses_a_batch,
    SEGMENTS,
    or_tests=UNDEFINED,
    line="overlap * self.weight",
    first_run=FirstRun(
        "c9711093",
        found=True,
        named=True,
        said="overfits_one_batch fails in dice; of the twin, whose few weights cannot learn classes drawn at random, it does too",
        alarms=("overfits_one_batch",),
    ),
)
add(
    "divided_by_no_signal",
    "A weight of the loss is one over the signal, of which the last step has none",
    "Nerogar/OneTrainer#212",
    "diffusion",
    "training_loss[one_class]",
    Debiased,
    undefined_at_the_last_step,
    NOISY,
    or_tests=UNDEFINED[:-1],
    line="weight = 1 /",
    first_run=FirstRun(
        "c9711093",
        found=False,
        named=False,
        said="step_updates is skipped for overfits_one_batch, which passes: its rows are other ones",
    ),
    unnamed="names the line that adds the losses up, and not the weight before it",
)
add(
    "logarithm_of_a_difference",
    "The loss of a ranking takes the logarithm of a difference of scores, without a sigmoid",
    "tanatosuu/GDE#2",
    "recommenders",
    "initial_loss",
    Ranking,
    undefined_where_the_other_is_liked_more,
    RANKED,
    or_tests=(*UNDEFINED[:1], *UNDEFINED[2:], "training_loss[reduction]"),
    line=".log().mean()",
    first_run=FirstRun(
        "c9711093",
        found=True,
        named=True,
        said="overfits_one_batch fails; the twin, whose labels were not declared as unread, fails training_loss[targets]",
        alarms=("training_loss[targets]",),
    ),
)
add(
    "sigmoid_of_links_twice",
    "Links are predicted through a sigmoid, and the loss takes another",
    "shenyangHuang/TGB#83",
    "graphs",
    "training_loss[scores]",
    Temporal,
    loss_of_a_sure_link,
    LINKS,
    line="h.sigmoid()",
    first_run=FirstRun("c9711093", found=True, named=False, said="training_loss[scores] fails"),
    unnamed="names the line that takes the loss, and not the sigmoid before it",
)
