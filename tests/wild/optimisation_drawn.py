"""Reported bugs of optimizers and of what a loss is divided by, drawn after the checks."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .register import FirstRun, pair_of_one_class, task_of

VOCAB, LENGTH, WIDTH, TAGS = 23, 10, 16, 5
TEXT = task_of(task_type="causal_lm", vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
TAGGED = task_of(task_type="token_classification", vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0, num_classes=TAGS)
NOISY = task_of(
    inputs={"image": {"axes": ["batch", 1, 8, 8]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", 1, 8, 8]}},
)


class Block(nn.Module):
    """A perceptron behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.into, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.gelu(self.into(self.norm(x))))


class Spoken(lightning.LightningModule):
    """A language model of two blocks behind a recurrent layer."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.net = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(2)), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.net(self.tokens(input_ids))[0]
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        scores = self(batch["input_ids"], batch["attention_mask"])[:, :-1]
        return F.cross_entropy(scores.flatten(0, 1), batch["labels"][:, 1:].flatten())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


class Decayed(Spoken):
    """The bug lets weight decay pull at biases and norms as well."""

    def configure_optimizers(self) -> Any:
        if self.wrong:
            return torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=0.1)
        kept = [each for each in self.parameters() if each.ndim > 1]
        spared = [each for each in self.parameters() if each.ndim <= 1]
        return torch.optim.AdamW([{"params": kept, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}], lr=5e-3)


def decay_of_a_scale(model: Any) -> float:
    """The weight decay of the scale of a norm."""
    scale = model.blocks[0].norm.weight
    groups = model.configure_optimizers().param_groups
    return float(next(group["weight_decay"] for group in groups if any(each is scale for each in group["params"])))


class Slow(nn.Module):
    """An average of parameters that follows faster at first; the bug overwrites the final pace by that of the step before."""

    decay: Tensor
    steps: Tensor

    def __init__(self, wrong: bool, decay: float) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("decay", torch.tensor(decay, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def update(self, average: nn.Module, model: nn.Module) -> None:
        share = 1 - min(float(self.decay), float((1 + self.steps) / (10 + self.steps)))
        if self.wrong:
            self.decay.fill_(share)
        self.steps += 1
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow += share * (fast - slow)


class Noisy(nn.Module):
    """A small denoiser."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.into, self.out = nn.Embedding(20, 8), nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        return self.out(F.silu(self.into(image) + self.steps(step)[:, :, None, None]))


class Painter(lightning.LightningModule):
    """A denoiser that answers by the average of its weights."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.net, self.ema_net = Noisy(), Noisy()
        self.ema_net.load_state_dict(self.net.state_dict())
        self.ema_net.requires_grad_(False)
        self.ema = Slow(wrong, 0.9999)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        return (self.net if self.training else self.ema_net)(image, step)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch["image"], batch["step"]), batch["labels"])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ema.update(self.ema_net, self.net)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), lr=3e-3)


def share_of_the_newest(model: Any) -> float:
    """Which share of the average the newest weights have after 2000 steps, above what a decay of 0.9999 and its start allow."""
    with torch.no_grad():
        for _ in range(2000):
            model.on_train_batch_end(None, None, 0)
        for each in model.net.parameters():
            each.add_(1.0)
        before = next(iter(model.ema_net.parameters())).clone()
        model.on_train_batch_end(None, None, 0)
        return max(0.0, float((next(iter(model.ema_net.parameters())) - before).mean()) - 0.01)


class Accumulated(Spoken):
    """Steps once for four batches; the bug has the schedule step for each of them."""

    every = 4

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        self.manual_backward(self.loss(batch) / self.every)
        whole = (batch_idx + 1) % self.every == 0 or self.trainer.is_last_batch
        if whole:
            optimizer.step()
            optimizer.zero_grad()
        if whole or self.wrong:
            schedule.step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3)
        steps = max(1, int(self.trainer.estimated_stepping_batches) // self.every)
        warm = max(1, steps // 10)
        shape = LambdaLR(optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm))))
        return [optimizer], [{"scheduler": shape, "interval": "step"}]


def rate_lost_in_half_a_run(model: Any) -> float:
    """How much of the learning rate is gone after half of the batches, above what the line allows."""

    class Run:
        is_last_batch = False
        estimated_stepping_batches = 400

    model._fabric, model._trainer = None, Run()
    (optimizer,), (schedule,) = model.configure_optimizers()
    model.optimizers, model.lr_schedulers = lambda: optimizer, lambda: schedule["scheduler"]
    model.manual_backward = lambda loss: loss.backward()
    ids = torch.randint(1, VOCAB, (2, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    for index in range(200):
        model.training_step(batch, index)
    return max(0.0, 0.5 - float(optimizer.param_groups[0]["lr"]) / 5e-3)


class Tagger(lightning.LightningModule):
    """An encoder with a new head; the bug forgets to add the group of the head to the groups."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder = nn.ModuleDict({"tokens": nn.Embedding(VOCAB, WIDTH), "block": Block()})
        self.mixing, self.fc = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, TAGS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.fc(self.mixing(self.encoder["block"](self.encoder["tokens"](input_ids)))[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["input_ids"], batch["attention_mask"]).flatten(0, 1), batch["labels"].flatten())

    def configure_optimizers(self) -> Any:
        groups = []
        group: dict[str, Any] = {"lr": 3e-3, "params": []}
        for name, each in self.named_parameters():
            if name.startswith(("encoder", "mixing")):
                group["params"].append(each)
        groups.append(group)
        group = {"lr": 1e-2, "params": []}
        for name, each in self.named_parameters():
            if name.startswith("fc"):
                group["params"].append(each)
        if not self.wrong:
            groups.append(group)
        return torch.optim.AdamW(groups)


def parameters_left_out(model: Any) -> float:
    """How many parameters no group has."""
    held = {id(each) for group in model.configure_optimizers().param_groups for each in group["params"]}
    return float(sum(id(each) not in held for each in model.parameters()))


class Normalised(Spoken):
    """A language model whose loss is meant per token; the bug divides the sum over all tokens by the number of texts."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        scores, labels = self(batch["input_ids"], batch["attention_mask"])[:, :-1], batch["labels"][:, 1:]
        total = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / (len(labels) if self.wrong else (labels != -100).sum().clamp(min=1))


def change_by_longer_texts(model: Any) -> float:
    """How much the loss of texts grows with their length, where it is meant for each token."""
    ids = torch.full((2, 4), 5)
    short, long = (
        {"input_ids": each, "attention_mask": torch.ones_like(each), "labels": each} for each in (ids, ids.repeat(1, 2))
    )
    return max(0.0, float((model.loss(long) / model.loss(short)).log()) - 0.5)


add = partial(pair_of_one_class, area="optimisation", judge=Training, draw=2)
add(
    "decay_of_biases_and_norms",
    "Weight decay is applied to all parameters, layer norms and biases too",
    "dingo-actual/om#12",
    "text",
    "parameter_groups[decay]",
    Decayed,
    decay_of_a_scale,
    TEXT,
    status=Status.WARN,
    module="blocks.0.norm",
    first_run=FirstRun("d13d60a", True, True, "`blocks.0.norm.weight`"),
)
add(
    "pace_of_the_average_overwritten",
    "The warm-up of a moving average overwrites its final decay, so that it follows the weights of the last two steps for good",
    "huggingface/diffusers#1864",
    "diffusion",
    "averaged_weights",
    Painter,
    share_of_the_newest,
    NOISY,
    module="ema_net",
    first_run=FirstRun("d13d60a", False, False, "the pace is right for the first eight steps", ("step_updates", "resume")),
    status=Status.WARN,
)
add(
    "schedule_steps_while_accumulating",
    "The schedule steps at each batch although the optimizer steps at each fourth, so that the rate is gone after a quarter",
    "huggingface/accelerate#963",
    "text",
    "learning_rate_schedule",
    Accumulated,
    rate_lost_in_half_a_run,
    TEXT,
    status=Status.WARN,
    line="schedule.step()",
    first_run=FirstRun("d13d60a", True, False, "the schedule's class, without a line"),
)
add(
    "group_of_the_head_never_added",
    "The group with the parameters of the new head is filled and never added to the groups",
    "zjunlp/HVPNeT#5",
    "text",
    "optimizer_coverage",
    Tagger,
    parameters_left_out,
    TAGGED,
    module="fc",
    first_run=FirstRun("d13d60a", True, True, "`fc.weight`"),
)
add(
    "loss_per_text_for_loss_per_token",
    "A loss that is meant for each token is divided by the number of texts",
    "OpenNMT/OpenNMT-py#526",
    "text",
    "initial_loss",
    Normalised,
    change_by_longer_texts,
    TEXT,
    or_tests=("training_loss[reduction]", "accumulation"),
    line="return total /",
    first_run=FirstRun("d13d60a", True, False, "`Normalised.training_step`: the sum over each row's labels, without a line"),
)
