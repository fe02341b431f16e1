"""Models that were saved whole: a folder of ``save_pretrained``, and a checkpoint of Lightning with the arguments of its class."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import ModelSourceError, WeightsError, optional_package
from harness.model_file import architecture_of, settings_of

CHECKPOINT = ".ckpt"
"""What a checkpoint of Lightning ends in."""

_ARGUMENTS = "hyper_parameters"
"""The key of a checkpoint of Lightning under which ``save_hyperparameters`` keeps the arguments."""


def pretrained_factory(folder: Path) -> Callable[..., nn.Module]:
    """What loads the model of a folder of ``save_pretrained``, in float32 where no other ``dtype`` is given.

    Args:
        folder: The folder.

    Raises:
        ModelSourceError: It is no such folder, or loading it would run code that lies in it.
        MissingPackageError: Transformers is not installed.
    """
    if not folder.exists():
        raise ModelSourceError(
            f"`model`: no such folder {folder}; a model of the Hub is downloaded first: hf download NAME --local-dir DIR"
        )
    settings = settings_of(folder)
    if settings is None:
        what = "a folder without a readable config.json" if folder.is_dir() else "a file"
        raise ModelSourceError(
            f"`model`: {folder} is {what}, expected a folder of save_pretrained, or a .ckpt of Lightning; a Python file is `model_file`"
        )
    if "auto_map" in settings:
        raise ModelSourceError(
            f"`model`: the model of {folder} is made by code in the folder, which is not run; name a `model_file` that imports it"
        )
    transformers = optional_package("transformers", "`model` as a folder of save_pretrained", "huggingface")
    name = architecture_of(settings) or "AutoModel"
    cls = getattr(transformers, name, None)
    if cls is None:
        raise ModelSourceError(
            f"`model`: transformers {transformers.__version__} has no {name}, which {folder / 'config.json'} names"
        )
    return partial(_loaded, cls, folder)


def _loaded(cls: Any, folder: Path, **options: Any) -> nn.Module:
    from transformers.utils import logging

    shows = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        found: nn.Module = cls.from_pretrained(folder, local_files_only=True, **{"dtype": torch.float32, **options})
    finally:
        if shows:
            logging.enable_progress_bar()
    return found


def checkpoint_arguments(path: Path, factory: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that a class of a Lightning checkpoint was made with, as far as it takes them.

    Args:
        path: The checkpoint; no code in it is run.
        factory: The class.

    Raises:
        WeightsError: The file is missing, cannot be read, or would run code.
    """
    if not path.is_file():
        raise WeightsError(f"`model`: no such file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"`model`: {path} is refused: loading it would run code ({reason}). Give its weights alone as `weights`, and the arguments of "
            "the class as `model_kwargs`"
        ) from None
    except Exception as error:
        raise WeightsError(
            f"`model`: {path} cannot be read: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        ) from None
    kept = content.get(_ARGUMENTS, {}) if isinstance(content, dict) else {}
    parameters = inspect.signature(factory).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {str(name): value for name, value in dict(kept).items() if takes_any or name in parameters}
