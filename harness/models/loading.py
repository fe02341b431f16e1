"""Models from a file, an import or the embedded stubs."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from harness.config import SuiteConfig
from harness.errors import ConfigError, FactoryError, ModelSourceError, UserError, did_you_mean
from harness.models.stubs import build_stub
from harness.models.weights import load_weights
from harness.randomness import seeded


@dataclass(frozen=True)
class ModelSource:
    """A way to build a model as often as needed.

    Attributes:
        factory: Callable that returns a fresh model.
        origin: Where it comes from, for messages and reports.
        kwargs: Keyword arguments of the factory.
        weights: File the weights are loaded from; ``None`` for fresh ones.
        device: Device the model is moved to.
    """

    factory: Callable[..., nn.Module]
    origin: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    device: str = "cpu"

    def build(self, seed: int = 0) -> nn.Module:
        """A model in eval mode; the same seed gives the same fresh weights, and the global random state is left as it was.

        Raises:
            FactoryError: The factory raised, or returned no ``nn.Module``.
            WeightsError: The weights do not fit.
        """
        with seeded(seed):
            try:
                model = self.factory(**self.kwargs)
            except UserError:
                raise
            except Exception as error:
                raise FactoryError(f"{self.origin} raised {_where(error)}") from error
        if not isinstance(model, nn.Module):
            raise FactoryError(f"{self.origin} returned {_describe(model)}, expected an nn.Module")
        if self.weights is not None:
            load_weights(model, self.weights)
        return model.to(self.device).eval()


def model_source(config: SuiteConfig) -> ModelSource:
    """Finds the model a config names; with no model key, the embedded stub of its task.

    Raises:
        ModelSourceError: The file or module does not import.
        FactoryError: It has no such factory.
        ConfigError: The config asks for a source or device that is not available.
    """
    weights = config.resolve(config.weights) if config.weights else None
    options: dict[str, Any] = {"kwargs": config.model_kwargs, "weights": weights, "device": _device(config)}
    if config.gist_id:
        raise ConfigError(
            f"{config.path}: `gist_id`: loading models from gists is not part of this version; download it and use `model_file`"
        )
    if config.model_file:
        path = config.resolve(config.model_file)
        module = import_file(path)
        return ModelSource(
            _find_factory(module, config.model_factory, str(path)), f"{path.name}:{config.model_factory}", **options
        )
    if config.model_import:
        name, _, attribute = config.model_import.partition(":")
        attribute = attribute or config.model_factory
        module = _import_module(name, config.path.parent)
        return ModelSource(_find_factory(module, attribute, name), f"{name}:{attribute}", **options)
    task = config.task_spec()
    options["kwargs"] = {}
    return ModelSource(lambda: build_stub(task), f"embedded {task.task_name} stub", **options)


def import_file(path: Path) -> ModuleType:
    """Imports a Python file under a name of its own, so that its classes can be pickled and its siblings imported.

    Raises:
        ModelSourceError: The file is missing or raises on import.
    """
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ModelSourceError(f"`model_file`: no such file {path}.{did_you_mean(path.name, near)}")
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelSourceError(f"`model_file`: {path} is not a Python file; expected a name ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelSourceError(f"`model_file`: importing {path} raised {_where(error, path)}") from error
    return module


def _import_module(name: str, folder: Path) -> ModuleType:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ModelSourceError(f"`model_import`: importing {name!r} raised {_where(error)}") from error


def _find_factory(module: ModuleType, name: str, where: str) -> Callable[..., nn.Module]:
    target: Any = module
    for part in name.split("."):
        target = getattr(target, part, None)
    if callable(target):
        return target
    if target is not None:
        raise FactoryError(
            f"`model_factory`: {name!r} in {where} is {_describe(target)}, expected a callable that returns an nn.Module"
        )
    callables = [
        key for key, value in vars(module).items() if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    has = ", ".join(callables) if callables else "nothing callable"
    raise FactoryError(f"`model_factory`: {where} has no {name!r}.{did_you_mean(name, callables)} It defines: {has}")


def _device(config: SuiteConfig) -> str:
    try:
        kind = torch.device(config.device).type
    except RuntimeError:
        raise ConfigError(f"{config.path}: `device`: got {config.device!r}, expected cpu, cuda, cuda:0 or mps") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, True):
        raise ConfigError(f'{config.path}: `device`: {config.device!r} is not available here; use "cpu" or run where it is')
    return config.device


def _where(error: BaseException, path: Path | None = None) -> str:
    """``ZeroDivisionError: division by zero (model.py, line 7)``: the innermost frame of the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f
        for f in frames
        if (path is None or Path(f.filename) == path) and "importlib" not in f.filename and __file__ != f.filename
    ]
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else (own[-1].lineno if own else None)
    file = Path(error.filename or "").name if isinstance(error, SyntaxError) else (Path(own[-1].filename).name if own else "")
    place = f" ({file}, line {line})" if line else ""
    text = (error.msg if isinstance(error, SyntaxError) else str(error)).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}{place}"


def _describe(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"a {type(value).__name__}"
