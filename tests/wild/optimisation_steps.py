"""Reported bugs of what surrounds a step: schedules, clipping, accumulation."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .register import pair_of_one_class, task_of

BANDS, FRAMES, SOUNDS, CELLS = 6, 10, 5, 7
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=4)
SPEECH = task_of(
    inputs={"bands": {"axes": ["batch", "frames", BANDS]}},
    outputs={"sounds": {"axes": ["batch", "frames", SOUNDS], "kind": "class_scores"}},
    axes={"frames": {"max": FRAMES}},
)
NOISE = task_of(
    inputs={"image": {"axes": ["batch", 1, 8, 8]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", 1, 8, 8]}},
)
GRAPHS = task_of(
    inputs={"nodes": {"axes": ["batch", CELLS, 4]}},
    outputs={"links": {"axes": ["batch", CELLS, CELLS], "kind": "binary_scores"}},
)


class Trained(lightning.LightningModule):
    """What the models of this file share: a bug or none, and a loss."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


def configured(model: Any, epochs: int, batches: int, accumulate: int = 1) -> Any:
    """What a model configures for a run of some length, without running it."""

    class Length:
        max_epochs, accumulate_grad_batches = epochs, accumulate
        estimated_stepping_batches = epochs * batches // accumulate

    model.__dict__["_trainer"], length = None, Length()
    model._fabric = None
    model._trainer = length
    return model.configure_optimizers()


class Contrasted(Trained):
    """An image encoder under a cosine of as many steps as an epoch has batches; the bug has Lightning step it by epoch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.net(pixel_values)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        cosine = CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "epoch" if self.wrong else "step"}}


def share_of_rate_at_the_end(model: nn.Module) -> float:
    """The share of the learning rate that is left when a run of 5 epochs of 20 batches ends."""
    found = configured(model, 5, 20)
    schedule = found["lr_scheduler"]
    for _ in range(5 if schedule["interval"] == "epoch" else 100):
        found["optimizer"].step()
        schedule["scheduler"].step()
    return float(found["optimizer"].param_groups[0]["lr"] / 3e-3)


class Voice(Trained):
    """A recogniser that calls its optimizer itself; the bug never calls the schedule."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.frames, self.head = nn.GRU(BANDS, 16, batch_first=True), nn.Linear(16, SOUNDS)

    def forward(self, bands: Tensor) -> Tensor:
        return self.head(self.frames(bands)[0])

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch["bands"]).flatten(0, 1), batch["labels"].flatten())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()

    def on_train_epoch_end(self) -> None:
        if not self.wrong:
            schedule: Any = self.lr_schedulers()
            schedule.step()

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [ExponentialLR(optimizer, 0.9)]


def unmoved_rate(model: Any) -> float:
    """How near the learning rate after an epoch is to that before it, where the schedule should have multiplied it by 0.9."""
    (optimizer,), (schedule,) = model.configure_optimizers()
    model.lr_schedulers = lambda: schedule
    optimizer.step()
    model.on_train_epoch_end()
    return abs(float(optimizer.param_groups[0]["lr"]) / 3e-3 - 0.9)


class Denoiser(Trained):
    """A denoiser under a line to 0; the bug counts the batches of the run, of which several make a step."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.steps, self.into, self.out = nn.Embedding(20, 8), nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        return self.out(F.silu(self.into(image) + self.steps(step)[:, :, None, None]))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(self(batch["image"], batch["step"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        total = int(self.trainer.estimated_stepping_batches) * (self.trainer.accumulate_grad_batches if self.wrong else 1)
        line = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": line, "interval": "step"}}


def share_of_line_at_the_end(model: nn.Module) -> float:
    """The share of the learning rate that is left when a run of 5 epochs of 20 batches ends, two of which make a step."""
    found = configured(model, 5, 20, accumulate=2)
    for _ in range(50):
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    return float(found["optimizer"].param_groups[0]["lr"] / 3e-3)


class Segmenter(Contrasted):
    """Scales its loss, and clips; the bug clips before the factor is taken out."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.scaler.scale(self.loss(batch)).backward()
        if not self.wrong:
            self.scaler.unscale_(optimizer)
        clip_grad_norm_(self.parameters(), 1.0)
        self.scaler.step(optimizer)
        self.scaler.update()

    def configure_optimizers(self) -> Any:
        return Trained.configure_optimizers(self)


def lost_gradient(model: Any) -> float:
    """Which share of a gradient of norm below the limit is lost before the step."""
    batch = {"pixel_values": torch.randn(4, 3, 8, 8) / 50, "labels": torch.arange(4)}
    model.loss(batch).backward()
    meant = [p.grad.clone() for p in model.parameters()]
    factor = min(1.0, 1.0 / float(torch.nn.utils.get_total_norm(meant)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model.optimizers = lambda: optimizer
    model.training_step(batch, 0)
    return max(float((p.grad - factor * g).norm() / (factor * g).norm()) for p, g in zip(model.parameters(), meant, strict=True))


class Linked(Trained):
    """A graph autoencoder that clips its gradients; the bug does so after the step."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.nodes = nn.Linear(4, 8)

    def forward(self, nodes: Tensor) -> Tensor:
        x = self.nodes(nodes)
        return x @ x.transpose(1, 2)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch["nodes"]), batch["labels"].float())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.loss(batch).backward()
        if not self.wrong:
            clip_grad_norm_(self.parameters(), 0.05)
        optimizer.step()
        if self.wrong:
            clip_grad_norm_(self.parameters(), 0.05)


def step_above_the_limit(model: Any) -> float:
    """How far a step of rate 1 goes beyond the limit of its gradient."""
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.optimizers = lambda: optimizer
    model.training_step({"nodes": torch.randn(3, CELLS, 4), "labels": torch.ones(3, CELLS, CELLS)}, 0)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    return max(0.0, float((after - before).norm()) - 0.05)


add = partial(pair_of_one_class, area="optimisation", judge=Training)
add(
    "cosine_of_steps_by_epoch",
    "A cosine over as many steps as there are batches is stepped once an epoch, and hardly moves",
    "sthalles/SimCLR#8",
    "vision",
    "learning_rate_schedule",
    Contrasted,
    share_of_rate_at_the_end,
    IMAGES,
    status=Status.WARN,
)
add(
    "schedule_lost_in_manual_optimisation",
    "The move to manual optimisation left nobody who steps the decay of the learning rate",
    "voicepaw/so-vits-svc-fork#291",
    "speech",
    "learning_rate_schedule",
    Voice,
    unmoved_rate,
    SPEECH,
    status=Status.WARN,
)
add(
    "schedule_counts_accumulated_batches",
    "The length of the schedule counts batches, and the schedule is stepped once for several of them",
    "huggingface/diffusers#2632",
    "diffusion",
    "learning_rate_schedule",
    Denoiser,
    share_of_line_at_the_end,
    NOISE,
    status=Status.WARN,
    judge=partial(Training, config={"accumulate_grad_batches": 2}),
)
add(
    "clipped_before_unscaling",
    "Gradients are clipped with the factor of mixed precision still in them",
    "milesial/Pytorch-UNet#468",
    "vision",
    "gradient_clipping",
    Segmenter,
    lost_gradient,
    IMAGES,
)
add(
    "clipped_after_the_step",
    "clip_grad_norm is called after the optimizer's step, so it does nothing",
    "VGraphRNN/VGRNN#4",
    "graphs",
    "gradient_clipping",
    Linked,
    step_above_the_limit,
    GRAPHS,
)
