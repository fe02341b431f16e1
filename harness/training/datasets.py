"""What a training learns from, and what it is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.config import EvalConfig
from harness.data.dataset import Dataset
from harness.data.opening import open_dataset
from harness.errors import DataError
from harness.tasks import TaskSpec

_LEARNT, _HELD_OUT = "[:90%]", "[90%:]"


@dataclass(frozen=True)
class Datasets:
    """The two datasets of a training.

    Attributes:
        train: What it learns from.
        held_out: What it is judged on.
        notes: What a user should know about the choice, a sentence each.
    """

    train: Dataset
    held_out: Dataset
    notes: tuple[str, ...] = ()


def open_datasets(task: TaskSpec, train: EvalConfig | None, held_out: EvalConfig | None, folder: Path = Path()) -> Datasets:
    """Opens the data that ``train`` and ``eval`` of a config name, and finds the one that is not named.

    Without ``train`` it is the training split of what ``eval`` names; without ``eval`` the validation split of what ``train`` names, or
    where a file tells no splits apart, a tenth of its rows. Without both it is the built-in set of the task.

    Raises:
        DataError: Something is missing, unreadable, or does not fit the task.
    """
    learnt = _named(train) or _of_same_place(held_out)
    judged = _named(held_out) or _of_same_place(train)
    opened = open_dataset(learnt, task, folder, "train")
    rest = open_dataset(judged, task, folder, "validation", like=opened)
    if not rest.origin.is_same_as(opened.origin):
        return Datasets(opened, rest)
    if _named(train) and _named(held_out):
        note = f"the model is evaluated on its training rows, {opened.origin.name}: memorised rows look like generalisation"
        return Datasets(opened, rest, (note,))
    if not _named(train):
        raise DataError(
            f"`train`: `eval` names all of {opened.origin.name}, which leaves no rows to learn from; give `train` a `path`, "
            "or shares such as 'train[:90%]' as `split`"
        )
    opened = open_dataset(learnt.model_copy(update={"split": _LEARNT}), task, folder, "train")
    rest = open_dataset(judged.model_copy(update={"split": _HELD_OUT}), task, folder, "validation", like=opened)
    return Datasets(opened, rest, (f"no `eval` data is named: 10% of the rows of {opened.origin.name} are held out",))


def _named(config: EvalConfig | None) -> EvalConfig | None:
    return config if config is not None and config.is_named else None


def _of_same_place(other: EvalConfig | None) -> EvalConfig:
    """Another split of what the other config names."""
    return other.source() if other is not None else EvalConfig()
