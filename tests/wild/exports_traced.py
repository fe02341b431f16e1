"""Reported bugs of models whose exported file is made for the example that it was traced with."""

from __future__ import annotations

import math
import warnings
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.tasks import TaskSpec
from tests.planted_bugs.setups import Factory
from tests.planted_bugs.tier4.exports import Exported, of

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES = 8, 4
BOXES = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"boxes": {"axes": ["batch", 16, CLASSES], "kind": "class_scores"}},
)
FRAMES = task_of(
    inputs={"frames": {"axes": ["batch", "time", 5]}},
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 4, "max": 40}},
)


def exported(format: str, task: TaskSpec, build: Factory) -> Exported:
    """A model as a file of one format."""
    return Exported(of(build, format, task=task), format)


class Head(nn.Module):
    """Scores of the places of an image; the bug takes another way while it is exported, made for one image."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.features, self.scores = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1), nn.Conv2d(WIDTH, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        found = self.scores(self.features(image).relu())
        if self.wrong and torch.onnx.is_in_onnx_export():
            return found.reshape(1, CLASSES, -1).permute(0, 2, 1)
        return found.flatten(2).permute(0, 2, 1)


def images_lost_in_an_export(model: nn.Module) -> float:
    """How many of three images have no scores of their own while the model is exported."""
    whether, torch.onnx.is_in_onnx_export = torch.onnx.is_in_onnx_export, lambda: True
    try:
        with torch.no_grad():
            return 3.0 - len(model(torch.randn(3, 3, 8, 8)))
    finally:
        torch.onnx.is_in_onnx_export = whether


class Downsampled(nn.Module):
    """Means of four frames each, the last filled up with its last frame; the bug counts what is missing as a number of Python."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.weight, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 1), nn.Linear(WIDTH, CLASSES)

    def forward(self, frames: Tensor) -> Tensor:
        x = self.enter(frames)
        time = int(x.shape[1]) if self.wrong else x.shape[1]
        missing = (4 - time % 4) % 4
        x = F.pad(x.transpose(1, 2), (0, missing), mode="replicate").unflatten(2, (-1, 4)).mean(3).transpose(1, 2)
        return self.head((self.weight(x).softmax(1) * x.tanh()).sum(1))


def change_of_a_trace(model: nn.Module) -> float:
    """How far a trace of eight frames is from the model at ten; infinite where it refuses them."""
    other = torch.randn(2, 10, 5)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, torch.randn(2, 8, 5), check_trace=False)
        try:
            return float((traced(other) - model(other)).abs().max())
        except RuntimeError:
            return math.inf


add = partial(pair_of_one_class, area="exports", draw=3, long=True)
add(
    "exported_for_one_image",
    "The head of a detector takes another way while it is exported, which is written for one image",
    "linghu8812/tensorrt_inference#54",
    "vision",
    "dynamic_axes",
    Head,
    images_lost_in_an_export,
    BOXES,
    judge=partial(exported, "onnx"),
    or_tests=("numerical_consistency", "exports"),
    missed="the exporter does not say that it exports to ONNX, so that the file is right",
    first_run=FirstRun(
        "039188d",
        found=False,
        named=False,
        said="nothing: the exporter of torch.export does not say that it exports to ONNX, so that the file is right",
    ),
)
add(
    "missing_frames_of_the_example",
    "How many frames are missing to a multiple of the stride is a constant of the trace, so that other lengths are refused",
    "k2-fsa/icefall#778",
    "speech",
    "dynamic_axes",
    Downsampled,
    change_of_a_trace,
    FRAMES,
    judge=partial(exported, "torchscript"),
    or_tests=("numerical_consistency", "exports"),
    missed="the model is scripted, not traced, so that the file is right",
    first_run=FirstRun(
        "039188d", found=False, named=False, said="nothing: the model is scripted, not traced, so that the file is right"
    ),
)
