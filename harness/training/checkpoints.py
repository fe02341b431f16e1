"""Checkpoints: written aside and renamed, read without running code, and named by what they reached."""

from __future__ import annotations

import errno
import os
import re
import shutil
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from harness.errors import CheckpointError, WeightsError
from harness.files import replacing
from harness.models.weights import read_pickled

_SETTINGS = ("hyper_parameters", "datamodule_hyper_parameters", "hparams_type")
"""The keys under which Lightning's ``save_hyperparameters`` keeps the arguments of a model, and the class that holds them."""

STATE_KEY = "conductor"
"""Where a checkpoint keeps the supervisor's state: an earlier name, so that checkpoints of earlier versions can be resumed."""

LAST = "last.ckpt"
"""Name of the newest checkpoint."""

SETTINGS = "settings"
"""Where the supervisor's state holds them."""


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint so that a file of its name is always a whole one, whenever the process is killed.

    Raises:
        CheckpointError: It cannot be written; what was there before is untouched.
    """
    try:
        with replacing(path, one_writer=True) as partial, partial.open("wb") as file:
            rest = {key: value for key, value in content.items() if key not in _SETTINGS}
            torch.save({**rest, **_plain({key: content[key] for key in _SETTINGS if key in content})}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be written: {_reason(error)}; earlier checkpoints are unchanged") from error


_LOADED = (bool, int, float, complex, str, bytes, type(None), torch.Tensor, torch.dtype, torch.device)
"""What ``torch.load`` reads without running code."""

_LEFT_OUT = object()


def _plain(value: Any) -> Any:
    """Settings as dicts, without what is an object of another class: a checkpoint with one only loads by running code.

    The model that is resumed has them already, such as the network and the optimizer that Lightning's ``save_hyperparameters`` keeps.
    """
    if isinstance(value, (Namespace, SimpleNamespace)) or (is_dataclass(value) and not isinstance(value, type)):
        value = vars(value)
    if isinstance(value, Mapping):
        found = {name: _plain(each) for name, each in value.items()}
        return {name: each for name, each in found.items() if each is not _LEFT_OUT}
    if isinstance(value, (list, tuple)):
        kept = [_plain(each) for each in value]
        is_whole = all(each is not _LEFT_OUT for each in kept)
        return (kept if isinstance(value, list) else tuple(kept)) if is_whole else _LEFT_OUT
    if isinstance(value, Path):
        return str(value)
    return value if type(value) in _LOADED or isinstance(value, torch.Tensor) else _LEFT_OUT


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        CheckpointError: It is missing or damaged, holds something else, or would run code.
    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        there = f"; {path.parent} has {', '.join(near[-5:])}" if near else ""
        raise CheckpointError(f"`resume_from_checkpoint`: no such file {path}{there}")
    if part := _damaged_part(path):
        raise CheckpointError(
            f"`resume_from_checkpoint`: {path} is damaged: {part} is not what was written; resume from another checkpoint"
        )
    ours = "Checkpoints that this project writes hold only tensors, numbers and text"
    try:
        content = read_pickled(path, "resume_from_checkpoint", ours, map_location, mapped=False)
    except WeightsError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(
            f"`resume_from_checkpoint`: {path} is not a training checkpoint; give files with only weights as `weights`"
        )
    return content


def _damaged_part(path: Path) -> str:
    """The first part of a checkpoint whose bytes are not those that were written; torch writes a hash of each, and does not look at it.

    What is no archive at all, such as a truncated file, is told from what torch says of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        return "" if not zipfile.is_zipfile(path) else f"its list of parts ({error})"
    return f"its part {part.partition('/')[2] or part}" if part else ""


def check_fits(content: Mapping[str, Any], model: nn.Module, path: Path) -> None:
    """Checks that a checkpoint is one of this model.

    Args:
        content: What was read.
        model: Whose ``state_dict`` it should be; that of a plain model is saved with the prefix ``model.``.
        path: The file, for the message.

    Raises:
        CheckpointError: Names or shapes differ, or a value is not finite.
    """
    given, expected = content["state_dict"], model.state_dict()
    bare = {name.removeprefix("model."): tensor for name, tensor in given.items()}
    # A model may have a part that is called `model` itself, so the prefix goes where that makes the names fit, and not by its looks.
    saved = max(bare, given, key=lambda names: len(names.keys() & expected.keys()))
    parts = {
        "missing": [name for name in expected if name not in saved],
        "unexpected": [name for name in saved if name not in expected],
        "shape": [
            f"{name} {tuple(saved[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in saved and saved[name].shape != tensor.shape
        ],
    }
    wrong = "; ".join(f"{label}: {', '.join(names[:3])}{' …' * (len(names) > 3)}" for label, names in parts.items() if names)
    if wrong:
        raise CheckpointError(f"`resume_from_checkpoint`: {path} is not a checkpoint of this {type(model).__name__}; {wrong}")


@dataclass(frozen=True)
class RunSettings:
    """What a run is trained with, as its checkpoints keep it, so that a resumed run says what it does otherwise.

    Attributes:
        values: By the config's key; of ``train`` and ``eval`` the data's ``name``, and a hash of its ``content``, which decides.
    """

    values: Mapping[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(self.values)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing: the settings of a resumed run are those of its config."""

    def differences(self, content: Mapping[str, Any], path: Path) -> list[str]:
        """What is said of settings that differ from those of a checkpoint; training continues with those of the config.

        Args:
            content: The checkpoint; one of an earlier version has no settings, and nothing is said.
            path: Its file, for messages.

        Raises:
            CheckpointError: With another setting the run cannot continue from there.
        """
        kept = _state_of_run(content).get(SETTINGS, {})
        changed = {
            key: _shown(kept[key], value) for key, value in self.values.items() if key in kept and not _is_same(kept[key], value)
        }
        for key, (before, now) in changed.items():
            why = _COUNTED.get(key)
            if why:
                raise CheckpointError(
                    f"`resume_from_checkpoint`: {path} was written by a run with `{key}` {before}, and this one has {now}: {why}; "
                    f"write `{key}` as it was, or train from the beginning"
                )
        return [
            f"`{key}` is {now} from here on; in the run that is resumed it was {before}" for key, (before, now) in changed.items()
        ]


def _is_same(before: Any, now: Any) -> bool:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return bool(before["content"] == now["content"])
    return bool(before == (now["name"] if isinstance(now, Mapping) else now))  # an earlier version kept the name only


def _shown(before: Any, now: Any) -> tuple[Any, Any]:
    """Both for people; data of one name with its hash."""
    names = [value["name"] if isinstance(value, Mapping) else value for value in (before, now)]
    if names[0] != names[1]:
        return names[0], names[1]
    return f"{names[0]} (content {before['content']})", f"{names[1]} (content {now['content']})"


_ORDER = "which rows of the epoch are left follows from it"
_COUNTED = {
    "batch_size": "how far the run got is counted in batches",
    "accumulate_grad_batches": "how far the run got is counted in steps",
    "seed": _ORDER,
    "train": _ORDER,
}
"""Settings that a run cannot continue without, with the reason."""


def _state_of_run(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The supervisor's state in a checkpoint of either engine."""
    state = content.get(STATE_KEY) or content.get("callbacks", {}).get("Bridge", {}).get(STATE_KEY)
    return state if isinstance(state, Mapping) else {}


class CheckpointFolder:
    """The checkpoints of one run: the last one, and the best.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / LAST

    @property
    def best(self) -> Path | None:
        """The best checkpoint, where there is one."""
        return next(iter(sorted(self.folder.glob("epoch=*.ckpt"))), None)

    def set_aside(self) -> Path | None:
        """Moves the checkpoints of an earlier run into their own folder; returns it."""
        files = [*self.folder.glob("*.ckpt"), *self.folder.glob("dashboard.*")] if self.folder.is_dir() else []
        if not files:
            return None
        number = next(n for n in range(1, 1_000_000) if not (self.folder / f"earlier-{n}").exists())
        target = self.folder / f"earlier-{number}"
        target.mkdir()
        for file in files:
            file.rename(target / file.name)
        return target

    def drop_unfinished(self) -> None:
        """Deletes checkpoints that a killed run left half written: a run that continues may never write those of their names again."""
        for partial in self.folder.glob(".*.ckpt.partial"):
            partial.unlink(missing_ok=True)

    def keep_best(self, name: str, source: Path | None = None) -> None:
        """Makes a checkpoint, by default the last one, the best as well, and drops the one that was.

        Raises:
            CheckpointError: It cannot be written.
        """
        path, source = self.folder / name, source or self.last
        try:
            # A run that is resumed may find it kept; to rename one of two names of a file to the other would do nothing, and leave both.
            if not (path.exists() and path.samefile(source)):
                with replacing(path, one_writer=True) as partial:
                    partial.unlink(missing_ok=True)
                    try:
                        os.link(source, partial)
                    except OSError:  # a file system without hard links
                        shutil.copyfile(source, partial)
            for other in self.folder.glob("epoch=*.ckpt"):
                if other != path:
                    other.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {_reason(error)}") from error


def file_name(name: str) -> str:
    """A run's name as the name of a file, whatever characters it has."""
    return re.sub(r"[^\w=,.+-]+", "_", name).lstrip(".") or "training"


def checkpoint_name(epoch: int, metric: str, value: float) -> str:
    """``epoch=02-val_loss=0.1234.ckpt``."""
    return f"epoch={epoch:02d}-{metric}={value:.4f}.ckpt"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    # torch's writer hides what the system said behind its own assertion.
    return "the disk is full" if "PytorchStreamWriter" in text or "unexpected pos" in text else text.splitlines()[0]
