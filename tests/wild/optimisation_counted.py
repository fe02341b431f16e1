"""Reported bugs of optimizers, schedules and averages: the seventh draw."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .losses_scores import Learner
from .optimisation_averages import Recorder
from .optimisation_steps import configured
from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, ACTIONS, TAGS = 23, 16, 4, 5
TAGGED = task_of(task_type="token_classification", vocab_size=WORDS, max_seq_len=10, num_classes=TAGS)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=ACTIONS)
LINES = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=10, num_classes=ACTIONS)
NOISY = task_of(inputs={"noisy": {"axes": ["batch", 6]}}, outputs={"noise": {"axes": ["batch", 6], "kind": "values"}})


class Denoiser(Learner):
    """Averages its weights, and answers by the average; the bug saves it and does not bring it back."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 6))
        self.__dict__["average"] = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, noisy: Tensor) -> Tensor:
        return self.net(noisy) if self.training else self.__dict__["average"](noisy)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(batch["noisy"]), batch["labels"])

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for slow, fast in zip(self.__dict__["average"].parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast, 0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = copy.deepcopy(self.__dict__["average"].state_dict())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not self.wrong:
            self.__dict__["average"].load_state_dict(checkpoint["average"])


@torch.no_grad()
def average_left_in_the_file(model: Any) -> float:
    """How far the average is from the saved one after a checkpoint was loaded."""
    for each in model.net.parameters():
        each += 1
    model.on_train_batch_end(None, None, 0)
    file: dict[str, Any] = {}
    model.on_save_checkpoint(file)
    other = Denoiser(model.wrong)
    other.on_load_checkpoint(file)
    pairs = zip(model.__dict__["average"].parameters(), other.__dict__["average"].parameters(), strict=True)
    return max(float((left - right).abs().max()) for left, right in pairs)


class Tagger(Learner):
    """A tagger that takes a step every two batches; the bug takes the mean of their means, whatever they hold."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.words, self.mix = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head, self.count = nn.Linear(WIDTH, TAGS), 0

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.words(input_ids))[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        labels = batch["labels"].flatten()
        real = int((labels != -100).sum())
        summed = F.cross_entropy(self(batch["input_ids"]).flatten(0, 1), labels, ignore_index=-100, reduction="sum")
        self.manual_backward(summed / real / 2 if self.wrong else summed)
        self.count += real
        if batch_idx % 2 == 1 or self.trainer.is_last_batch:
            optimizer: Any = self.optimizers()
            if not self.wrong:
                for parameter in self.parameters():
                    if parameter.grad is not None:
                        parameter.grad /= self.count
            optimizer.step()
            optimizer.zero_grad()
            self.count = 0


def apart_from_both_in_one(model: Any) -> float:
    """How far the gradient of two batches with unequally many labels is from that of both in one."""
    optimizer = Recorder(model)
    model.optimizers, model.manual_backward = lambda: optimizer, lambda loss: loss.backward()
    model._trainer = type("Last", (), {"is_last_batch": False})()
    ids, labels = torch.randint(1, WORDS, (4, 10)), torch.randint(TAGS, (4, 10))
    labels[2:, 3:] = -100
    for number, rows in enumerate((slice(0, 2), slice(2, 4))):
        model.training_step({"input_ids": ids[rows], "labels": labels[rows]}, number)
    loss = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), ignore_index=-100)
    wanted = torch.autograd.grad(loss, [*model.parameters()])
    return max(float((a - b).abs().max()) for a, b in zip(wanted, optimizer.taken, strict=True))


class Warmed(Learner):
    """A classifier that takes a step every four batches under a warm-up; the bug gives the warm-up in batches and counts it in steps."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.words, self.mix, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, ACTIONS)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.words(input_ids)).relu().mean(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["input_ids"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        batches = steps * self.trainer.accumulate_grad_batches
        warm = max(1, (batches if self.wrong else steps) // 10)
        schedule = LambdaLR(optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm))))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_missing_after_a_tenth(model: Any) -> float:
    """The share of the rate that is missing after a tenth of the run."""
    found = configured(model, 5, 80, accumulate=4)
    for _ in range(10):
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    return max(0.0, 0.85 - float(found["optimizer"].param_groups[0]["lr"]) / 1e-2)


class Gain(nn.Module):
    """A norm with a gain; the bug does not say any more that it is not to decay."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))
        if not wrong:
            self.scale.no_decay = True  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x * x.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


class Decayed(Learner):
    """A tagger whose parameters say whether they decay."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.words, self.norm = nn.Embedding(WORDS, WIDTH), Gain(wrong)
        self.mix, self.head = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, TAGS)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.norm(self.words(input_ids)))[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["input_ids"]).transpose(1, 2), batch["labels"], ignore_index=-100)

    def configure_optimizers(self) -> Any:
        spared = [p for name, p in self.named_parameters() if getattr(p, "no_decay", False) or "bias" in name]
        rest = [p for p in self.parameters() if all(p is not each for each in spared)]
        groups = [{"params": rest, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-2)


def decayed_scales(model: Any) -> float:
    """The decay that the norm's gain gets."""
    groups = model.configure_optimizers().param_groups
    return next(float(group["weight_decay"]) for group in groups if any(p is model.norm.scale for p in group["params"]))


class Frozen(Learner):
    """A detector with a frozen part; the bug leaves its batch norm in train mode."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).requires_grad_(False)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, ACTIONS))

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        if not self.wrong:
            self.backbone.eval()
        return self

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.backbone(pixel_values))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.head.parameters(), lr=1e-2)


def statistics_that_move(model: Any) -> float:
    """How far the running mean of the frozen part moves in a step."""
    before = model.train().backbone[1].running_mean.clone()
    model(torch.randn(4, 3, 8, 8) + 1)
    return float((model.backbone[1].running_mean - before).abs().max())


add = partial(pair_of_one_class, judge=Training, draw=7, long=True)
add(
    "average_saved_and_not_loaded",
    "Averaged weights are saved in a checkpoint and not loaded where training goes on from it",
    "PixArt-alpha/PixArt-sigma#156",
    "diffusion",
    "resume",
    Denoiser,
    average_left_in_the_file,
    NOISY,
    or_tests=("averaged_weights",),
    area="optimisation",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="resume fails"),
)
add(
    "mean_of_two_means",
    "A step over two batches takes the mean of their means, however many labels they have",
    "meta-pytorch/torchtune#1875",
    "text",
    "accumulation",
    Tagger,
    apart_from_both_in_one,
    TAGGED,
    area="optimisation",
    line="summed / real / 2",
    first_run=FirstRun(
        "67ba39c0", found=True, named=True, said="accumulation fails, with the line, where the pair expected a warning"
    ),
)
add(
    "warm_up_in_batches",
    "A warm-up is given in batches and counted in steps of several batches each, so that it is as many times too long",
    "ml-explore/mlx-lm#582",
    "text",
    "learning_rate_schedule",
    Warmed,
    rate_missing_after_a_tenth,
    LINES,
    area="optimisation",
    line="warm = max(",
    status=Status.WARN,
    first_run=FirstRun(
        "67ba39c0",
        found=False,
        named=False,
        said="learning_rate_schedule says that the rate goes from 0.000625 over 0.01 to 6.94e-05",
    ),
    missed="how long a warm-up takes is a choice",
)
add(
    "gain_that_decays_again",
    "A norm does not say any more that its gain is not to decay",
    "ServiceNow/Fast-LLM#545",
    "text",
    "parameter_groups[decay]",
    Decayed,
    decayed_scales,
    TAGGED,
    area="optimisation",
    module="norm.scale",
    status=Status.WARN,
    first_run=FirstRun(
        "67ba39c0", found=False, named=False, said="parameter_groups[decay] says that decay goes to 5 parameters and spares 3"
    ),
)
add(
    "statistics_of_a_frozen_part",
    "A part that is frozen still moves the statistics of its batch norm",
    "ultralytics/ultralytics#8753",
    "vision",
    "step_updates",
    Frozen,
    statistics_that_move,
    IMAGES,
    area="state",
    module="backbone",
    status=Status.WARN,
    first_run=FirstRun("67ba39c0", found=True, named=True, said="step_updates warns in backbone.1"),
)
