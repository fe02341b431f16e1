"""Where a run's data is, as kept with the run; and the training and held-out data that a config names, opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import EvalConfig
from harness.data.dataset import Dataset, Stream
from harness.data.opening import open_dataset
from harness.errors import DataError
from harness.runtime import seeded
from harness.tasks import TaskSpec
from harness.tasks.keys import declared_keys


@dataclass(frozen=True)
class DataReference:
    """The data keys of a run, and the folder that their paths are relative to.

    Attributes:
        train: What the model learnt from; ``None`` where nothing was named.
        eval: What it was evaluated on; ``None`` where nothing was named.
        folder: What relative paths are relative to.
    """

    train: EvalConfig | None
    eval: EvalConfig | None
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """The reference as JSON values."""
        return {
            "train": self.train and self.train.model_dump(mode="json", exclude_defaults=True),
            "eval": self.eval and self.eval.model_dump(mode="json", exclude_defaults=True),
            "folder": str(self.folder.resolve()),
        }

    @classmethod
    def from_json(cls, stored: Any) -> DataReference | None:
        """The inverse of ``to_json``; ``None`` where something else is stored."""
        if not isinstance(stored, Mapping) or not isinstance(stored.get("folder"), str):
            return None
        try:
            train, evaluation = (_config(stored.get(key)) for key in ("train", "eval"))
        except ValidationError:
            return None
        return cls(train, evaluation, Path(stored["folder"]))

    @classmethod
    def of_run(cls, facts: Mapping[str, Any], configs: Mapping[str, Any]) -> DataReference | None:
        """The data of a recorded run; ``None`` where the run does not say.

        Args:
            facts: The run's facts; ``data`` is a reference, ``config_path`` the file of its config.
            configs: Its configs by kind.
        """
        known = cls.from_json(facts.get("data"))
        if known is not None:
            return known
        suite, path = configs.get("suite"), facts.get("config_path")
        folder = str(Path(path).parent) if isinstance(path, str) else "."
        if isinstance(suite, Mapping):
            return cls.from_json({"train": suite.get("train"), "eval": suite.get("eval"), "folder": folder})
        return cls.from_json({"eval": configs["eval"], "folder": folder}) if "eval" in configs else None


def _config(stored: Any) -> EvalConfig | None:
    return None if stored is None else EvalConfig.model_validate(stored)


_SHOWN = 12
_PIECE = 1 << 20
_HASHED = 1000
"""Rows that are hashed where Python gives them."""

_COMPARED = 32
"""Rows that Python gives of which a resumed run makes sure."""

_WHOLE, _BLOCKS = 1 << 30, 64
"""Bytes up to which a resumed run reads its files whole, and how many blocks of a file it reads beyond."""


def dataset_id(dataset: Dataset) -> str:
    """A name for a dataset's content: its source, its part, the number of rows, and a hash of what the examples are made from.

    The hash is that of the file's bytes, or of the files of a folder, together with the tokenizer, the classes and the sizes that turn
    rows into examples; a built-in set is made only from its sizes. Of rows that Python gives, it is that of the code and of the first rows.

    Args:
        dataset: What ``open_dataset`` returned.
    """
    origin = dataset.origin
    content = _how_it_is_read(dataset)
    if origin.is_python:
        content.update(_first_rows(dataset, _HASHED))
    for file in _files(origin.path):
        content.update(f"{file.name}\0".encode())
        with file.open("rb") as stream:
            while piece := stream.read(_PIECE):
                content.update(piece)
    return f"{origin.name}:{origin.part}:{len(dataset)}:{content.hexdigest()[:_SHOWN]}"


def _how_it_is_read(dataset: Dataset) -> Any:
    """A hash of what turns rows into examples."""
    origin = dataset.origin
    content, classes = hashlib.sha256(), origin.classes.names if origin.classes else ()
    for part in (_sizes(dataset), origin.tokenizer and origin.tokenizer.fingerprint, classes, origin.encoder.columns):
        content.update(f"{part!r}\0".encode())
    return content


def _first_rows(dataset: Dataset, count: int) -> bytes:
    """The first examples of a dataset as bytes."""
    return b"".join(
        f"{name} {list(tensor.shape)}\0".encode() + tensor.contiguous().view(-1).numpy().tobytes()
        for example in islice(dataset if isinstance(dataset, Stream) else dataset.examples, count)
        for name, tensor in example.items()
    )


def brief_id(dataset: Dataset) -> str:
    """A name for a dataset that takes no time: its source, its part, the number of rows, and the bytes of its files."""
    origin = dataset.origin
    return f"{origin.name}:{origin.part}, {len(dataset)} rows, {sum(file.stat().st_size for file in _files(origin.path))} bytes"


def content_hash(dataset: Dataset) -> str:
    """A hash of what a dataset's rows are read from, wherever it lies and whatever it is called.

    It is that of the bytes of its files, with their names inside a folder; of more than a gigabyte in all, of blocks spread evenly over each
    file. Of rows that Python gives it is that of the first rows, or of the code where these are drawn again each time.

    Args:
        dataset: What ``open_dataset`` returned.
    """
    origin, files = dataset.origin, _files(dataset.origin.path)
    content = _how_it_is_read(dataset)
    content.update(f"{origin.part} {len(dataset)}\0".encode())
    if origin.is_python:
        rows = [_seeded_rows(dataset, seed) for seed in (0, 1)]
        if rows[0] == rows[1]:
            content.update(rows[0])
            return content.hexdigest()[:_SHOWN]
    is_whole = sum(file.stat().st_size for file in files) <= _WHOLE
    for file in files:
        inside = "" if file == origin.path else file.relative_to(origin.path or file).as_posix()
        size = file.stat().st_size
        content.update(f"{inside} {size}\0".encode())
        with file.open("rb") as stream:
            for place in range(0, size, _PIECE) if is_whole else range(0, size, max(_PIECE, size // _BLOCKS)):
                stream.seek(place)
                content.update(stream.read(_PIECE))
    return content.hexdigest()[:_SHOWN]


def _seeded_rows(dataset: Dataset, seed: int) -> bytes:
    with seeded(seed):
        return _first_rows(dataset, _COMPARED)


def _sizes(dataset: Dataset) -> tuple[object, ...]:
    task = dataset.origin.task
    return (
        task.title,
        *([json.dumps(declared_keys(task.declared), sort_keys=True)] if task.declared is not None else []),
        task.vocab_size,
        task.max_seq_len,
        task.pad_token_id,
        task.image_size,
        task.num_classes,
        task.num_features,
        *((task.target_vocab_size,) if task.target_vocab_size else ()),
    )


def _files(path: Path | None) -> list[Path]:
    if path is None:
        return []
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


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
    learnt, judged = learnt.beside(judged), judged.beside(learnt)
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
