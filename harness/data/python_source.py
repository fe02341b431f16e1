"""Data that a config names in Python: what a function of the user's returns, or the dataloaders of a Lightning module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from harness.config import EvalConfig, SuiteConfig
from harness.data.python_rows import PythonRows, Telling
from harness.data.splits import Split, is_split
from harness.errors import DataError, did_you_mean
from harness.model_file import usual_factory
from harness.models.arguments import factory_arguments
from harness.runtime import seeded
from harness.tasks import TaskSpec
from harness.user_code import import_named

_LOADERS = {"train": "train_dataloader", "validation": "val_dataloader", "test": "test_dataloader"}
"""Lightning's hooks by split."""


def open_python(config: EvalConfig, task: TaskSpec, folder: Path, split: Split) -> PythonRows:
    """The rows that ``dataset`` or ``datamodule`` of a config names.

    Raises:
        ModelSourceError: There is no such file or name.
        DataError: The user's code raised, or returned nothing that holds rows.
    """
    key = "datamodule" if config.datamodule else "dataset"
    source = config.datamodule or config.dataset or ""
    if config.datamodule:
        source = _named_module(source, folder)
    made, name = import_named(source, folder, key), source.rpartition("/")[2]
    if config.datamodule:
        return PythonRows(name, task, lambda: _of_hooks(made, config.arguments, name, split), True)
    is_function = callable(made) and (isinstance(made, type) or not hasattr(made, "__getitem__"))
    takes_split = is_function and "split" in _parameters(made) and "split" not in config.arguments
    arguments = {**config.arguments, **({"split": split.name} if takes_split else {})}
    has_splits = False

    def load() -> Any:
        nonlocal has_splits
        with Telling(name), seeded(0):
            given = made(**arguments) if is_function else made
        has_splits = isinstance(given, Mapping) and bool(given) and all(map(is_split, given))
        return _of_split(given, name, split) if has_splits else _with_rows(given, name)

    rows = PythonRows(name, task, load, takes_split)
    rows.tells_splits = takes_split or has_splits
    return rows


def _named_module(source: str, folder: Path) -> str:
    """A datamodule's name; where the model's usual factory is meant and the file has none, the file's only model."""
    file, _, name = source.rpartition(":")
    is_usual = file.endswith(".py") and name == SuiteConfig.model_fields["model_factory"].default
    return f"{file}:{usual_factory((folder / file).resolve(), name)}" if is_usual else source


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (ValueError, TypeError):
        return {}


def _of_split(given: Mapping[str, Any], name: str, split: Split) -> Any:
    found = next((value for key, value in given.items() if split.names(key)), None)
    if found is None:
        raise DataError(
            f"`split`: {name} has no split {split.name!r}.{did_you_mean(split.name, given)} It has {', '.join(given)}"
        )
    return _with_rows(found, name)


def _with_rows(given: Any, name: str) -> Any:
    if hasattr(given, "__iter__") or hasattr(given, "__getitem__"):
        return given
    raise DataError(f"{name} gave a {type(given).__name__}, expected a dataset, a DataLoader, or an iterable of batches or rows")


def _of_hooks(made: Any, arguments: Mapping[str, Any], name: str, split: Split) -> Iterable[Any]:
    """The dataloaders of a LightningDataModule, or of a LightningModule, for a split; several are read one after the other."""
    hook = _LOADERS.get(split.name)
    if hook is None:
        raise DataError(
            f"`split`: a datamodule has no split {split.name!r}.{did_you_mean(split.name, _LOADERS)} It has {', '.join(_LOADERS)}"
        )
    is_model = hasattr(made, "forward") or not isinstance(made, type)
    with (
        Telling(name, ". To go without the model's own dataloaders, name data, or write `train: {}`" if is_model else ""),
        seeded(0),
    ):
        is_made = not isinstance(made, type) and (hasattr(made, hook) or not callable(made))
        module = made if is_made else made(**factory_arguments(made, arguments, "arguments"))
        if not hasattr(module, hook):
            raise DataError(
                f"{name}: a {type(module).__name__} has no `{hook}`, expected a LightningDataModule or a LightningModule"
            )
        if hasattr(module, "prepare_data"):
            module.prepare_data()
        if hasattr(module, "setup"):
            module.setup("test" if split.name == "test" else "fit")
        loaders = getattr(module, hook)()
    if loaders is None:
        raise DataError(f"{name}: `{hook}` gave nothing")
    several = (
        list(loaders.values()) if isinstance(loaders, Mapping) else loaders if isinstance(loaders, (list, tuple)) else [loaders]
    )
    return several[0] if len(several) == 1 else _Chained(several)  # type: ignore[no-any-return]


class _Chained:
    """Several dataloaders, one after the other."""

    def __init__(self, loaders: Sequence[Iterable[Any]]) -> None:
        self._loaders = loaders

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self._loaders)
