"""Reported bugs of train mode, drawn when the checks were finished: checkpointed blocks, padding, statistics, evaluations in between."""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import task_of, wild
from .training_checkpoints import TAGS, change_by_checkpointing

WIDTH, WORDS, CLASSES = 16, 23, 5
VIDEO = task_of(
    inputs={"frames": {"axes": ["batch", 4, 6]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", 4, 6]}},
)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
TRIPLES = task_of(
    inputs={"pair": {"axes": ["batch", 2], "values": {"ids": 7}}},
    outputs={"score": {"axes": ["batch"], "kind": "binary_scores"}},
)
SPECTRA = task_of(
    inputs={
        "phones": {"axes": ["batch", "time"], "values": {"ids": WORDS}},
        "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    outputs={"mel": {"axes": ["batch", "time", 4]}, "loss": {"axes": [], "kind": "loss"}},
    axes={"time": {"min": 3, "max": 16, "padding": "right"}},
    loss="model",
)
WAVES = task_of(
    inputs={"audio": {"axes": ["batch", "time", 5]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}}},
    outputs={"units": {"axes": ["batch", "time", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 3, "max": 24, "padding": "right"}},
)
TABLE = task_of(task_type="tabular_regression", num_features=6)
_pair = partial(wild, area="train_mode", draw=1)


class Chunked(nn.Module):
    """A tagger that computes chunks of two layers again; the bug gives each layer of a chunk what the first was given."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.use_checkpoint = wrong, False
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(4))

    def chunk(self, start: int, hidden: Tensor) -> Tensor:
        given = hidden
        for layer in self.layers[start : start + 2]:
            hidden = layer(given if self.wrong else hidden)
        return hidden

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.words(input_ids)
        if self.use_checkpoint:
            for start in (0, 2):
                hidden = checkpoint(self.chunk, start, hidden, use_reentrant=False)
        else:
            for layer in self.layers:
                hidden = layer(hidden)
        return self.head(hidden)


_pair(
    "chunk_of_layers_given_its_input",
    title="Of layers that are computed again together each is given the input of the first",
    report="NVIDIA/Megatron-LM#290",
    field="text",
    test="train_mode[checkpointing]",
    setup=partial(Model, TAGS),
    buggy=partial(Chunked, True),
    sound=Chunked,
    wrong=partial(change_by_checkpointing, lambda: (torch.randint(WORDS, (3, 7)),)),
)


class Motion(nn.Module):
    """Attention between the frames of a video, or to a context that is given beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, frames: Tensor, context: Tensor | None = None) -> Tensor:
        context = frames if context is None else context
        return frames + self.attention(frames, context, context, need_weights=False)[0]


class MotionBlock(nn.Module):
    """A residual layer with the step's embedding, then motion; the bug gives the checkpointed motion that embedding as its context."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.gradient_checkpointing = wrong, False
        self.steps, self.enter, self.motion = nn.Embedding(20, 6), nn.Linear(6, 6), Motion()

    @property
    def use_checkpoint(self) -> bool:
        return self.gradient_checkpointing

    @use_checkpoint.setter
    def use_checkpoint(self, on: bool) -> None:
        self.gradient_checkpointing = on

    def forward(self, frames: Tensor, step: Tensor) -> Tensor:
        embedded = self.steps(step)[:, None]
        hidden = frames + F.silu(self.enter(frames) + embedded)
        if not self.gradient_checkpointing:
            return self.motion(hidden)
        return checkpoint(self.motion, hidden, embedded if self.wrong else None, use_reentrant=False)


_pair(
    "motion_attends_to_the_step",
    title="Motion modules attend to the embedding of the step where they are checkpointed, and to the frames where they are not",
    report="huggingface/diffusers#6742",
    field="diffusion",
    test="train_mode[checkpointing]",
    setup=partial(Model, VIDEO),
    buggy=partial(MotionBlock, True),
    sound=MotionBlock,
    wrong=partial(change_by_checkpointing, lambda: (torch.randn(3, 4, 6), torch.randint(20, (3,)))),
)


class Detector(nn.Module):
    """A convolution and its norm that are computed again; the bug averages the statistics once more as it does so."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.use_checkpoint = wrong, True
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        if not self.use_checkpoint:
            hidden = self.norm(self.conv(image))
        elif self.wrong:
            hidden = checkpoint(lambda image: self.norm(self.conv(image)), image, use_reentrant=False)
        else:
            hidden = self.norm(checkpoint(self.conv, image, use_reentrant=False))
        return self.head(hidden.relu().mean((2, 3)))


def batches_counted_in_a_step(model: nn.Module) -> float:
    """How many batches more than one the norm counts in a step."""
    model.train()
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    return float(model.norm.num_batches_tracked) - 1


_pair(
    "statistics_of_a_recomputed_norm",
    title="Where a block is computed again in the backward pass, its batch norm averages its statistics twice a step",
    report="Tencent/YOLO-Master#262",
    field="vision",
    test="train_mode[checkpointing]",
    setup=partial(Model, IMAGES),
    buggy=partial(Detector, True),
    sound=Detector,
    wrong=batches_counted_in_a_step,
    module="norm",
    status=Status.WARN,
)


class Enriched(nn.Module):
    """Embeddings of a graph, enriched and kept until they are trained; the bug keeps those of an evaluation, which have no gradient."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.nodes, self.mix = nn.Embedding(7, 8), nn.Linear(8, 8)
        self.kept: Tensor | None = None

    def forward(self, pair: Tensor) -> Tensor:
        kept = self.kept
        if kept is None or (self.training and not (self.wrong and not kept.requires_grad)):
            kept = self.mix(self.nodes.weight).tanh() + self.nodes.weight.mean(0)
        self.kept = None if self.training else kept
        left, right = kept[pair[:, 0]], kept[pair[:, 1]]
        return (left * right).sum(1)


def gradient_after_an_evaluation(model: nn.Module) -> float:
    """1 where nothing has a gradient in the first step after an evaluation."""
    pair = torch.randint(7, (3, 2))
    with torch.no_grad():
        model.eval()(pair)
    return float(not model.train()(pair).requires_grad)


_pair(
    "evaluation_kept_for_training",
    title="After an evaluation in between, training goes on with representations that were kept from it and have no gradient",
    report="pykeen/pykeen#571",
    field="graphs",
    test="train_mode[after_eval]",
    setup=partial(Model, TRIPLES),
    buggy=partial(Enriched, True),
    sound=Enriched,
    wrong=gradient_after_an_evaluation,
)


class Acoustic(nn.Module):
    """Spectra of phones, with their loss; the bug sets padded frames to zero and counts them in the mean."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.phones, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, phones: Tensor, lengths: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        real = (torch.arange(phones.shape[1], device=phones.device) < lengths[:, None])[..., None]
        mel = self.head(self.phones(phones).tanh())
        goal = torch.ones_like(mel) if labels is None else labels
        apart = (mel - goal).square() * real
        counted = apart.numel() if self.wrong else 4 * lengths.sum()
        return {"mel": mel, "loss": apart.sum() / counted}


def change_of_the_spectral_loss(model: nn.Module) -> float:
    """How much nine padded frames change the loss."""
    phones, lengths = torch.randint(WORDS, (2, 7)), torch.tensor([7, 7])
    padded = F.pad(phones, (0, 9))
    return float((model(padded, lengths)["loss"] - model(phones, lengths)["loss"]).abs().detach())


_pair(
    "spectral_loss_counts_padding",
    title="The loss of spectra multiplies by the mask and divides by all frames, padded ones too",
    report="EveryVoiceTTS/EveryVoice#887",
    field="speech",
    test="train_mode[padding]",
    setup=partial(Model, SPECTRA),
    buggy=partial(Acoustic, True),
    sound=Acoustic,
    wrong=change_of_the_spectral_loss,
)


class PositionalConvolution(nn.Module):
    """A norm and a convolution over frames; the bug lets the norm see padded frames, as PyTorch's own does."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.norm = nn.Linear(5, WIDTH), nn.BatchNorm1d(WIDTH)
        self.conv, self.head = nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.Linear(WIDTH, CLASSES)

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        hidden = self.enter(audio) * real[..., None]
        normed = torch.zeros_like(hidden)
        if self.wrong:
            normed = self.norm(hidden.transpose(1, 2)).transpose(1, 2) * real[..., None]
        else:
            normed[real] = self.norm(hidden[real])
        return self.head(hidden + F.gelu(self.conv(normed.transpose(1, 2))).transpose(1, 2))


def change_by_padded_audio(model: nn.Module) -> float:
    """How much ten padded frames change a recording's scores in train mode."""
    audio, lengths = torch.randn(2, 9, 5), torch.tensor([9, 9])
    plain = copy.deepcopy(model).train()(audio, lengths)
    padded = copy.deepcopy(model).train()(F.pad(audio, (0, 0, 0, 10)), lengths)
    return float((plain - padded[:, :9]).abs().max().detach())


_pair(
    "positional_norm_over_padding",
    title="The batch norm before a positional convolution counts padded frames in training",
    report="huggingface/transformers#47739",
    field="speech",
    test="train_mode[padding]",
    setup=partial(Model, WAVES),
    buggy=partial(PositionalConvolution, True),
    sound=PositionalConvolution,
    wrong=change_by_padded_audio,
    module="norm",
    status=Status.WARN,
)


class KeptNorm(nn.Module):
    """A batch norm by hand; the bugs read mean 0 and variance 1 when they evaluate, or add epsilon twice there."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))

    def forward(self, rows: Tensor) -> Tensor:
        epsilon = 1.0 if self.wrong in ("twice", "once") else 1e-5
        if not self.training:
            mean, variance = self.mean, self.variance
            if self.wrong == "initial":
                mean, variance = torch.zeros_like(mean), torch.ones_like(variance)
            return (rows - mean) / (variance + epsilon).sqrt()
        mean, variance = rows.mean(0), rows.var(0, unbiased=False)
        self.mean = 0.9 * self.mean + 0.1 * mean.detach()
        self.variance = 0.9 * self.variance + 0.1 * (variance.detach() + (epsilon if self.wrong == "twice" else 0.0))
        return (rows - mean) / (variance + epsilon).sqrt()


class Regression(nn.Module):
    """A perceptron over features that are far from standard."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.norm, self.enter, self.leave = KeptNorm(wrong), nn.Linear(6, 12), nn.Linear(12, 1)
        self.scale = 1.0 if wrong in ("twice", "once") else 9.0

    def forward(self, features: Tensor) -> Tensor:
        return self.leave(self.enter(self.norm(self.scale * features + 1)).tanh()).squeeze(1)


def distance_of_the_modes(model: nn.Module) -> float:
    """How far eval mode is from train mode of a batch that it saw three hundred times."""
    rows = torch.randn(64, 6)
    with torch.no_grad():
        for _ in range(300):
            trained = model.train()(rows)
        return float((trained - model.eval()(rows)).abs().max())


_pair(
    "evaluates_by_initial_statistics",
    title="In eval mode a batch norm normalises by mean 0 and variance 1, whatever it was trained on",
    report="LaurentMazare/tch-rs#628",
    field="tables",
    test="train_mode[statistics]",
    setup=partial(Model, TABLE),
    buggy=partial(Regression, "initial"),
    sound=Regression,
    wrong=distance_of_the_modes,
    module="norm",
)
_pair(
    "epsilon_added_twice",
    title="Running variances hold epsilon already, and evaluation adds it once more",
    report="chainer/chainer#7506",
    field="tables",
    test="train_mode[statistics]",
    setup=partial(Model, TABLE),
    buggy=partial(Regression, "twice"),
    sound=partial(Regression, "once"),
    wrong=distance_of_the_modes,
    module="norm",
    missed="the outputs change by less than a variance of few rows, with or without the correction of its bias, may change them",
)
