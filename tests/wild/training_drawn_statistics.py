"""Reported bugs of what train mode does otherwise than eval mode: random paths, padding, running statistics."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

BANDS, FRAMES, WIDTH, CLASSES = 6, 12, 16, 4
NOISY = task_of(
    inputs={"image": {"axes": ["batch", 1, 8, 8]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", 1, 8, 8]}},
)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
SPEECH = task_of(
    inputs={"bands": {"axes": ["batch", "frames", BANDS]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "frames"}}},
    outputs={"sounds": {"axes": ["batch", "frames", CLASSES], "kind": "class_scores"}},
    axes={"frames": {"max": FRAMES, "padding": "right"}},
)
CODED = task_of(
    inputs={"bands": {"axes": ["batch", "frames", BANDS]}},
    outputs={"decoded": {"axes": ["batch", "frames", BANDS], "fits": False}},
    axes={"frames": {"max": FRAMES}},
)


class Middle(nn.Module):
    """A residual block with dropout that is recomputed in the backward pass; the bug draws other masks there."""

    def __init__(self, wrong: bool, use_checkpoint: bool) -> None:
        super().__init__()
        self.wrong, self.use_checkpoint = wrong, use_checkpoint
        self.into, self.dropout, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.3), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        if self.use_checkpoint and self.training:
            return checkpoint(self.block, x, step, use_reentrant=False, preserve_rng_state=not self.wrong)
        return self.block(x, step)

    def block(self, x: Tensor, step: Tensor) -> Tensor:
        return x + self.out(self.dropout(F.silu(self.into(x) + step[:, :, None, None])))


class Posed(nn.Module):
    """A denoiser with one checkpointed block."""

    def __init__(self, wrong: bool = False, use_checkpoint: bool = True) -> None:
        super().__init__()
        self.steps, self.first = nn.Embedding(20, 8), nn.Conv2d(1, 8, 3, padding=1)
        self.middle, self.last = Middle(wrong, use_checkpoint), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        return self.last(F.silu(self.middle(self.first(image), self.steps(step))))


def change_by_recomputing(model: Any) -> float:
    """How far the gradients with recomputation are from those without, with the same random masks."""
    image, step, grads = torch.randn(2, 1, 8, 8), torch.tensor([3, 4]), []
    model.train()
    for use in (False, True):
        model.middle.use_checkpoint = use
        torch.manual_seed(5)
        loss = model(image, step).square().mean()
        torch.manual_seed(6)
        grads.append(torch.autograd.grad(loss, model.middle.into.weight)[0])
    return float((grads[0] - grads[1]).norm() / grads[0].norm())


class BandStatistics(nn.Module):
    """Normalises by statistics of all recordings; the bug averages the deviations of each recording around its own mean."""

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("mean", torch.zeros(BANDS))
        self.register_buffer("variance", torch.ones(BANDS))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, bands: Tensor, real: Tensor) -> Tensor:
        if self.training:
            self.update(bands.detach(), real)
        return (bands - self.mean) / (self.variance + 1e-5).sqrt()

    def update(self, bands: Tensor, real: Tensor) -> None:
        weight = real[..., None].float()
        self.count += 1
        share = 1 / self.count
        self.mean += share * ((bands * weight).sum((0, 1)) / weight.sum((0, 1)) - self.mean)
        if self.wrong:
            own = (bands * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
            deviation = (((bands - own).square() * weight).sum(1) / weight.sum(1)).sqrt().mean(0)
            self.variance.copy_((self.variance.sqrt() + share * (deviation - self.variance.sqrt())).square())
        else:
            spread = ((bands - self.mean).square() * weight).sum((0, 1)) / weight.sum((0, 1))
            self.variance += share * (spread - self.variance)


class Listener(nn.Module):
    """A recogniser behind normalised bands."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.normalise, self.head = BandStatistics(wrong), nn.Linear(BANDS, CLASSES)

    def forward(self, bands: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(bands.shape[1], device=bands.device) < lengths[:, None]
        return self.head(self.normalise(bands, real))


def unlike_unit_spread(model: Any) -> float:
    """How far normalised recordings of several loudnesses are from a deviation of 1."""
    bands = torch.randn(8, 10, BANDS) + torch.arange(8.0)[:, None, None]
    real = torch.ones(8, 10, dtype=torch.bool)
    model.train()
    for _ in range(50):
        model.normalise(bands, real)
    spread = model.eval().normalise(bands, real).flatten(0, 1).std(0, unbiased=False)
    return float((spread - 1).abs().max())


class RandomDepth(nn.Module):
    """A block that is left out of some rows in training; the bug forgets that eval mode must weight it by how often it is kept."""

    def __init__(self, wrong: bool, drop_rate: float = 0.4) -> None:
        super().__init__()
        self.wrong, self.drop_rate = wrong, drop_rate
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x)
        if self.training and self.drop_rate:
            return x + out * (torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.drop_rate)
        return x + out if self.wrong else x + (1 - self.drop_rate) * out


class Deep(nn.Module):
    """An image classifier with one such block."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.residual, self.head = RandomDepth(wrong), nn.Linear(3 * 64, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.residual(pixel_values).flatten(1))


def eval_beside_mean_of_training(model: Any) -> float:
    """How far eval mode is from what training gives on average, which is linear in how often the block is kept."""
    image = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model.head((image + (1 - model.residual.drop_rate) * model.residual.block(image)).flatten(1))
        return float((model.eval()(image) - expected).abs().max())


class SharedCodes(nn.Module):
    """Two quantisers of the same codes, the second for what the first leaves; the bug moves the codes between the two."""

    codes: Tensor

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("codes", torch.randn(12, WIDTH) / 2)

    def forward(self, x: Tensor) -> Tensor:
        left, total, seen = x.detach(), torch.zeros_like(x), []
        for _ in range(2):
            nearest = torch.cdist(left.flatten(0, -2), self.codes).argmin(1).view(left.shape[:-1])
            seen.append((left, nearest))
            if self.wrong and self.training:
                self.move(*seen[-1])
            total = total + self.codes[nearest]
            left = left - self.codes[nearest]
        if self.training and not self.wrong:
            for each in seen:
                self.move(*each)
        return x + (total - x).detach()

    def move(self, values: Tensor, nearest: Tensor) -> None:
        kept = F.one_hot(nearest.flatten(), len(self.codes)).float()
        means = kept.T @ values.flatten(0, -2) / kept.sum(0).clamp(min=1)[:, None]
        self.codes = torch.where(kept.sum(0)[:, None] > 0, 0.8 * self.codes + 0.2 * means, self.codes)


class Codec(nn.Module):
    """An encoder and a decoder of speech with such codes between them."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.encoder, self.quantiser, self.decoder = nn.Linear(BANDS, WIDTH), SharedCodes(wrong), nn.Linear(WIDTH, BANDS)

    def forward(self, bands: Tensor) -> Tensor:
        return self.decoder(self.quantiser(self.encoder(bands)))


def eval_beside_training(model: nn.Module) -> float:
    """How far train mode is from eval mode with the codes it began with."""
    bands = torch.randn(4, 10, BANDS)
    with torch.no_grad():
        known = model.eval()(bands)
        return float((model.train()(bands) - known).abs().max())


class MaskedNorm(nn.BatchNorm1d):
    """A batch norm over the real frames."""

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        if real is None:
            return super().forward(x)
        y = x.transpose(1, 2)
        normed = torch.zeros_like(y)
        normed[real] = super().forward(y[real])
        return normed.transpose(1, 2)


class Convolved(nn.Module):
    """A convolution over time and a batch norm; the bug has the norm count the frames that only fill the batch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.first, self.norm, self.head = nn.Conv1d(BANDS, 8, 3, padding=1), MaskedNorm(8), nn.Conv1d(8, CLASSES, 1)

    def forward(self, bands: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(bands.shape[1], device=bands.device) < lengths[:, None]
        x = self.first((bands * real[..., None]).transpose(1, 2)) * real[:, None]
        x = self.norm(x) if self.wrong else self.norm(x, real)
        return self.head(F.relu(x)).transpose(1, 2)


class PlainConvolved(Convolved):
    """The same with a batch norm that knows of no padding."""

    def __init__(self) -> None:
        super().__init__(wrong=True)
        self.norm = nn.BatchNorm1d(8)


def change_by_filling(model: nn.Module) -> float:
    """How far real frames change in train mode when a batch is filled up with more frames."""
    bands, lengths = torch.randn(3, 8, BANDS), torch.tensor([8, 7, 6])
    with torch.no_grad():
        before = model.train()(bands, lengths)
        after = model.train()(F.pad(bands, (0, 0, 0, 4)), lengths)[:, :8]
    real = torch.arange(8) < lengths[:, None]
    return float((after - before)[real].abs().max())


add = partial(pair_of_one_class, area="train_mode", judge=Model, draw=2)
add(
    "recomputed_with_other_masks",
    "Checkpointing does not restore the random state, so that dropout drops other units when it recomputes",
    "ankanbhunia/PIDM#66",
    "diffusion",
    "train_mode[checkpointing]",
    Posed,
    change_by_recomputing,
    NOISY,
    module="middle",
    first_run=FirstRun("d13d60a", True, True, "`middle.out`"),
)
add(
    "deviations_averaged_over_recordings",
    "The running deviation averages that of each recording around its own mean, and so misses what lies between recordings",
    "speechbrain/speechbrain#2835",
    "speech",
    "train_mode[statistics]",
    Listener,
    unlike_unit_spread,
    SPEECH,
    module="normalise",
    first_run=FirstRun("d13d60a", False, False, "eval mode and train mode use the same statistics, so they agree"),
    missed="both modes normalise by the same statistics, and nothing asks whether what is normalised has a deviation of 1",
)
add(
    "random_depth_not_weighted_in_eval",
    "A block that training leaves out of some rows is not weighted by its share in eval mode",
    "mosaicml/composer#372",
    "vision",
    "train_mode[equals_eval]",
    Deep,
    eval_beside_mean_of_training,
    IMAGES,
    module="residual",
    first_run=FirstRun(
        "d13d60a",
        False,
        False,
        "with the rate set to zero both modes agree; the twin, which weights, is taken for wrong",
        ("train_mode[equals_eval]",),
    ),
    missed="LayerDrop and NFNets weight in neither mode on purpose, so nothing tells that it was forgotten",
)
add(
    "shared_codes_move_between_quantisers",
    "Codes that several quantisers share are moved before the next one uses them, in train mode only",
    "lucidrains/vector-quantize-pytorch#162",
    "speech",
    "train_mode[equals_eval]",
    Codec,
    eval_beside_training,
    CODED,
    module="quantiser",
    or_tests=("train_mode[statistics]",),
    first_run=FirstRun(
        "d13d60a",
        False,
        False,
        "a module that keeps a state is judged in eval mode; then skipped, as if random numbers were drawn",
    ),
    missed="eval mode is off by a seventh of the spread of the outputs, where a half is asked for",
)
add(
    "batch_norm_counts_filled_frames",
    "The batch norm of a recogniser counts the zeros that fill short recordings",
    "SeanNaren/deepspeech.pytorch#312",
    "speech",
    "train_mode[padding]",
    Convolved,
    change_by_filling,
    SPEECH,
    buggy=PlainConvolved,
    module="norm",
    status=Status.WARN,
    first_run=FirstRun("d13d60a", True, True, "`norm`"),
)
