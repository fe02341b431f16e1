"""Models with a method that answers, beside forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.evidence import Status

from .declared import SCORES, Keys, plant_declared

SOURCE = "stable-baselines3#535"
SERIES: Keys = {
    "inputs": {"history": {"axes": ["batch", "time"]}},
    "outputs": SCORES,
    "axes": {"time": {"min": 2, "max": 8}},
}


class Answering(nn.Module):
    """A recurrent classifier whose twin steps into eval mode for an answer, and out of it."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net, self.drop, self.head = nn.GRU(1, 8, batch_first=True), nn.Dropout(0.4), nn.Linear(8, 4)

    def forward(self, history: Tensor) -> Tensor:
        return self.head(self.drop(self.net(history[..., None])[0][:, -1]))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        was = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was)


class InTheModeThatIs(Answering):
    """The bug does not step into eval mode."""

    @torch.inference_mode()
    def infer(self, series: Tensor) -> dict[str, Tensor]:
        if self.wrong:
            return {"shares": self(series).softmax(1)}
        with self.evaluating():
            return {"shares": self(series).softmax(1)}


class BackIntoTrainMode(Answering):
    """The bug steps out of eval mode into train mode, whatever mode there was."""

    @torch.no_grad()
    def classify(self, history: Tensor) -> Tensor:
        if not self.wrong:
            with self.evaluating():
                return self(history).argmax(1)
        self.eval()
        found = self(history).argmax(1)
        self.train()
        return found

    def infer(self, history: Tensor) -> Tensor:
        assert not self.training, "call eval() first"
        return self(history).argmax(1)


class OneRowLost(Answering):
    """The bug drops every axis of length 1 of an answer. The twin's training asks it too, in train mode."""

    def loss(self, history: Tensor) -> Tensor:
        return self.predict_proba(history).square().sum()

    def predict_proba(self, history: Tensor) -> Tensor:
        shares = self(history).softmax(-1)
        return shares.squeeze() if self.wrong else shares


for name, model, code, line, status in (
    ("answers_in_the_mode_that_is", InTheModeThatIs, "answers_by_mode", "def infer", Status.WARN),
    ("answers_and_goes_back_to_train_mode", BackIntoTrainMode, "leaves_another_mode", "def classify", Status.WARN),
    ("answers_one_row_without_its_axis", OneRowLost, "answers_by_batch", "def predict_proba", Status.FAIL),
):
    plant_declared(name, model, SERIES, "train_mode[own_answers]", code=code, line=line, status=status, source=SOURCE)
