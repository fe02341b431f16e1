"""What an artifact answers to batches that may take its process down."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.batches import Batch
from harness.export.fresh.replay import STAGE
from harness.export.fresh.run import run_child, why_no_answer, write_request

_MODULE = "harness.export.fresh.answer"


@dataclass(frozen=True)
class Answer:
    """What an artifact made of a batch.

    Attributes:
        logits: The logits; ``None`` where there are none.
        refusal: Why there are none, in one line.
        is_fatal: Whether the process did not live to say it.
    """

    logits: Tensor | None = None
    refusal: str = ""
    is_fatal: bool = False


def answers(format: str, path: Path, fields: Sequence[str], batches: Sequence[Batch], timeout: float = 120.0) -> list[Answer]:
    """Runs an artifact on one batch after another in a process of its own; where that dies, another one goes on behind the batch.

    Args:
        format: A format that holds the computation.
        path: The artifact.
        fields: Names of the inputs, in order.
        batches: The inputs; each holds the fields.
        timeout: Seconds until a process is stopped.
    """
    given: list[Answer] = []
    while len(given) < len(batches):
        given += _some(format, path, fields, batches[len(given) :], timeout)
    return given


def _some(format: str, path: Path, fields: Sequence[str], batches: Sequence[Batch], timeout: float) -> list[Answer]:
    """The answers of one process, up to where it died."""
    with tempfile.TemporaryDirectory(prefix="modeltiers-answers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_request(folder, format, path, fields, batches)
        status = run_child(folder, timeout, 1, _MODULE)
        given = [_answer(folder, number) for number in range(len(batches))]
        if status == 0:
            return [answer for answer in given if answer is not None]
        end = Answer(refusal=why_no_answer(folder, status, timeout), is_fatal=True)
        stage = folder / STAGE
        if not stage.is_file():  # it cannot even be loaded
            return [end] * len(batches)
        last = int(stage.read_text(encoding="utf-8"))
        return [answer or end for answer in given[: last + 1]]


def _answer(folder: Path, number: int) -> Answer | None:
    logits, refusal = folder / f"{number}.npy", folder / f"{number}.txt"
    if refusal.is_file():
        return Answer(refusal=refusal.read_text(encoding="utf-8"))
    return Answer(torch.from_numpy(np.load(logits, allow_pickle=False))) if logits.is_file() else None
