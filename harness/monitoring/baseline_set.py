"""The rows that a baseline was scored on: a candidate can be compared with it on these, and on no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data.data_reference import dataset_id
from harness.errors import DataError
from harness.monitoring.data import open_window
from harness.training.datasets import open_datasets

if TYPE_CHECKING:
    from harness.data.data_reference import DataReference
    from harness.data.dataset import Dataset
    from harness.tasks import TaskSpec


@dataclass(frozen=True)
class BaselineSet:
    """The rows that a baseline was scored on, or why they are not at hand.

    Attributes:
        name: What the baseline's scores say of them, as ``dataset_id`` does.
        data: The rows; ``None`` where they are not at hand.
        is_window: Whether they are the rows that are monitored.
        lacking: Why they are not at hand, in words; empty where they are.
    """

    name: str
    data: Dataset | None
    is_window: bool = False
    lacking: str = ""

    @property
    def title(self) -> str:
        """The file and the part of it, or the built-in set: what a person calls it."""
        return self.data.origin.name if self.data is not None else self.name.rpartition(":")[0]


def find_baseline_set(
    name: str, window: Dataset, reference: DataReference | None, task: TaskSpec, folder: Path = Path()
) -> BaselineSet:
    """Finds the rows that a baseline was scored on, by their content.

    Args:
        name: What its scores say of them.
        window: The rows that are monitored.
        reference: Where the baseline's run says that its data is.
        task: What the rows are for.
        folder: Where else relative paths may lead: the folder of the candidate's config.
    """
    if dataset_id(window) == name:
        return BaselineSet(name, window, is_window=True)
    if reference is None:
        return BaselineSet(name, None, lacking="its run does not say where they are")
    lacking: dict[str, None] = {}
    for opened in _ways(reference, task, folder):
        try:
            found = opened()
        except (DataError, OSError) as error:
            lacking[str(error)] = None
            continue
        if dataset_id(found) == name:
            return BaselineSet(name, found)
        lacking[f"{found.origin.name} has other rows now, or is read otherwise"] = None
    return BaselineSet(name, None, lacking=next(iter(lacking)))


def _ways(reference: DataReference, task: TaskSpec, folder: Path) -> Iterator[Callable[[], Dataset]]:
    """The rows as a training and as a monitoring opens them, where the run says and beside the candidate's config."""
    for place in dict.fromkeys((reference.folder, folder)):
        yield partial(_held_out, reference, task, place)
        yield partial(open_window, task, reference.eval, reference.train, place)


def _held_out(reference: DataReference, task: TaskSpec, folder: Path) -> Dataset:
    return open_datasets(task, reference.train, reference.eval, folder).held_out
