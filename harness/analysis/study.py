"""The model under analysis, with what the checks of tier 2 share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from harness.config import SuiteConfig
from harness.data.loader import Loader, make_loader
from harness.data.opening import open_dataset
from harness.properties.model_variants import calibrated_subject, moved
from harness.properties.subject import Subject

_BATCH = 32


@dataclass
class Study:
    """A model that is looked into; nothing a check does may change it.

    Attributes:
        subject: The model under test.
        source: The config it came from, which names its data; ``None`` for a model without one.
        seconds: What one check may take; what would need longer is left out, with the reason.
    """

    subject: Subject
    source: SuiteConfig | None = None
    seconds: float = math.inf

    def __post_init__(self) -> None:
        """A fresh model with batch norm is looked into with statistics that saw a few batches."""
        self.subject = calibrated_subject(self.subject)

    def too_long(self, needed: float) -> str:
        """Why a check that needs so many seconds is left out; empty where there is time for it."""
        return "" if needed <= self.seconds else f"`time_budget` leaves {self.seconds:.0f} s, and this would take {needed:.0f}"

    def moved(self) -> nn.Module:
        """A copy of the model with fresh weights moved at random, as a little training would; loaded weights stay as they are."""
        return moved(self.subject)

    @cached_property
    def labelled(self) -> Loader | None:
        """The rows that ``eval`` of the config names, in their order; ``None`` where it names none.

        Raises:
            DataError: The data is missing, unreadable, or does not fit the task.
        """
        data = self.source.eval if self.source is not None else None
        if self.source is None or data is None or not (data.path or data.dataset_id):
            return None
        task, folder, train = self.subject.task, self.source.path.parent, self.source.train
        like = open_dataset(train, task, folder, "train") if train is not None and train.path and data.path else None
        dataset = open_dataset(data, task, folder, "validation", like=like)
        return make_loader(dataset, task, data.batch_size or _BATCH)
