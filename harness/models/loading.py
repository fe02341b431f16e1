"""Models from a file, an import or the embedded stubs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from urllib.error import URLError

import torch
from torch import nn

from harness.config import SuiteConfig
from harness.errors import ConfigError, FactoryError, ModelSourceError, UserError, did_you_mean
from harness.files import read_regular
from harness.gists import GistSettings, admit
from harness.gists import trust as trust_gist
from harness.gists.cache import describe, model_path, open_gist
from harness.model_file import usual_factory
from harness.models.arguments import factory_arguments
from harness.models.stubs import build_stub
from harness.models.weights import CHECKPOINT, checkpoint_arguments, load_weights, pretrained_factory, refuse_incomplete
from harness.models.wrapped import call_by, refuse_compiled, unwrapped, with_signature
from harness.runtime import seeded
from harness.scan import ScanWarning, dangerous_calls, part_run, scan_source
from harness.user_code import command_line_of, import_dotted, import_file, is_raised_by_code, missing_package, raised

NO_NETWORK = (URLError, ConnectionError, TimeoutError)
"""What a download raises where there is no network."""


class TakesFacts(Protocol):
    """A run of an experiment database, to which facts can be added."""

    def add_facts(self, **facts: Any) -> None:
        """Adds facts to those the run has."""


@dataclass(frozen=True)
class ModelSource:
    """A way to build a model as often as needed.

    Attributes:
        factory: Callable that returns a fresh model.
        origin: Where it comes from, for messages and reports.
        kwargs: Keyword arguments of the factory.
        weights: File the weights are loaded from; ``None`` for fresh ones.
        device: Device the model is moved to.
        facts: What an experiment database remembers of it, such as ``gist_id``, ``revision`` and ``sha256``.
        call: The method that is called in place of forward; empty for forward.
        is_trained: Whether the factory loads weights itself.
        takes_compiled: Whether a model whose Python code is gone may be built, as tier 1 can judge it.
    """

    factory: Callable[..., nn.Module]
    origin: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    device: str = "cpu"
    facts: dict[str, str] = field(default_factory=dict)
    call: str = ""
    is_trained: bool = False
    takes_compiled: bool = False

    @property
    def has_fresh_weights(self) -> bool:
        """Whether the weights are those that the model is made with."""
        return self.weights is None and not self.is_trained

    def build(self, seed: int = 0) -> nn.Module:
        """A model in eval mode; the same seed gives the same fresh weights, and the global random state is left as it was.

        Raises:
            FactoryError: The factory raised, or returned no ``nn.Module``, or one that cannot be moved to the device.
            WeightsError: The weights do not fit, or not all of them are there, which is said before anything is built.
        """
        if self.weights is not None:
            refuse_incomplete(self.weights)
        with seeded(seed), command_line_of(self.origin.rpartition(":")[0] or self.origin):
            try:
                model = self.factory(**factory_arguments(self.factory, self.kwargs))
            except UserError:
                raise
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                if isinstance(error, KeyboardInterrupt) and not is_raised_by_code(error):
                    raise
                raise FactoryError(f"{self.origin} raised {raised(error)}{self._path_hint(error)}") from error
        if not isinstance(model, (nn.Module, torch.export.ExportedProgram)):
            raise FactoryError(f"{self.origin} returned {_describe(model)}, expected an nn.Module")
        model = unwrapped(model)
        if self.takes_compiled:
            model = with_signature(model)
        refuse_compiled(model, self.origin)
        if self.call:
            call_by(model, self.call, self.origin)
        if torch.get_default_device().type == "meta":  # where a model has no data, which only moves with `to_empty`
            return model.eval()
        if self.weights is not None:
            load_weights(model, self.weights)
        try:
            return model.to(self.device).eval()
        except Exception as error:
            raise FactoryError(f"{self.origin}: moving the model to {self.device!r} raised {raised(error)}") from error

    def _path_hint(self, error: BaseException) -> str:
        """What to do where a path among the arguments was not found, or something was to be downloaded."""
        if isinstance(error, NO_NETWORK):
            return ". It downloads something while it is built, and there is no network here: is there an argument such as pretrained=False?"
        if not isinstance(error, FileNotFoundError) or str(error.filename) not in _names_in(self.kwargs):
            return missing_package(error)
        return f". A path in `model_kwargs` is relative to the current folder, {Path.cwd()}; write it absolute"


def _names_in(value: Any) -> set[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return {value} if isinstance(value, str) else {name for each in inner for name in _names_in(each)}


def model_source(config: SuiteConfig, *, takes_compiled: bool = False) -> ModelSource:
    """Finds the model a config names; with no model key, the embedded stub of its task.

    Args:
        config: The config.
        takes_compiled: Whether the model may be TorchScript or an exported program.

    Raises:
        ModelSourceError: The file or module does not import.
        FactoryError: It has no such factory.
        ConfigError: The config asks for a source or device that is not available, or for isolation where there is none.
    """
    if config.isolation:
        raise ConfigError(
            f'{config.path}: `isolation` "process": here the model would be built in this very process; only the tests '
            '(`pytest --model-config`, `modeltiers tiers`) run in isolation. To continue without isolation: "isolation": null'
        )
    weights = config.resolve(config.weights) if config.weights else None
    options: dict[str, Any] = {"kwargs": config.model_kwargs, "weights": weights, "device": _device(config)}
    options |= {"call": config.call or "", "takes_compiled": takes_compiled}
    if config.model:
        return _saved(config, options)
    return _made(config, options)


def _saved(config: SuiteConfig, options: dict[str, Any]) -> ModelSource:
    """The model of a folder of ``save_pretrained``, or of a checkpoint of Lightning."""
    path = config.resolve(str(config.model))
    if path.suffix != CHECKPOINT:
        return ModelSource(pretrained_factory(path), f"{path.name}/", **options, is_trained=True)
    made = _made(config, {**options, "weights": path})
    return replace(made, kwargs={**checkpoint_arguments(path, made.factory), **config.model_kwargs})


def _made(config: SuiteConfig, options: dict[str, Any]) -> ModelSource:
    """The model that code makes."""
    if config.gist_id:
        return _from_gist(config, options)
    if config.model_file:
        path = config.resolve(config.model_file)
        factory = (
            config.model_factory if "model_factory" in config.model_fields_set else usual_factory(path, config.model_factory)
        )
        if not config.trust_model:
            refuse_dangerous(path, "model_file", factory, config.model_kwargs)
        warn_of_findings(path)
        return source_of_file(path, "model_file", factory, **options)
    if config.model_import:
        name, _, attribute = config.model_import.partition(":")
        attribute = attribute or config.model_factory
        module = import_dotted(name, config.path.parent, "model_import")
        return ModelSource(_find_factory(module, attribute, name), f"{name}:{attribute}", **options)
    task = config.task_spec()
    options["kwargs"] = {}
    return ModelSource(lambda: build_stub(task), f"embedded {task.task_name} stub", **options)


def source_of_file(path: Path, key: str, factory: str, **options: Any) -> ModelSource:
    """The model of a Python file, which is imported.

    Args:
        path: The file.
        key: The config key that named it, for messages.
        factory: Name of the callable in it that returns the model.
        options: Further attributes of the source.

    Raises:
        ModelSourceError: The file does not import.
        FactoryError: It has no such factory.
    """
    return ModelSource(_find_factory(import_file(path, key), factory, str(path)), f"{path.name}:{factory}", **options)


TRUST = "MODELTIERS_TRUST_MODEL"
"""Environment variable by which ``--trust`` reaches the processes that build the model too."""


def refuse_dangerous(path: Path, key: str, factory: str | None = None, kwargs: Mapping[str, Any] | None = None) -> None:
    """Refuses a local file that would start a program or use the network when it is imported, or when its model is built.

    Args:
        path: The file.
        key: The config key that named it, for the message.
        factory: The callable in it that builds the model; ``None`` for the import only.
        kwargs: Its arguments.

    Raises:
        ModelSourceError: It would; the message has the line.
    """
    if os.environ.get(TRUST):
        return
    finding = next(dangerous_calls(path, factory, kwargs), None)
    if finding is not None:
        raise ModelSourceError(
            f'`{key}`: {finding}. No model needs that: move it below `if __name__ == "__main__":`, or, if you trust the file, run with '
            '--trust (pytest: --trust-model) or write "trust_model": true'
        )


def warn_of_findings(path: Path) -> None:
    """Warns of what a file of the user's own does that no model needs; it is run all the same."""
    try:
        found, part = scan_source(read_regular(path), path.name), part_run(path)
    except OSError:
        return  # the import says what is wrong
    grave = [finding for finding in found if finding.grave and (part is None or part.has(finding.line))]
    if grave:
        more = f" (and {len(grave) - 1} more)" if len(grave) > 1 else ""
        warnings.warn(f"`model_file`: {grave[0]}{more}", ScanWarning, stacklevel=2)


def _from_gist(config: SuiteConfig, options: dict[str, Any]) -> ModelSource:
    """The model of a gist, once it is admitted; weights may lie in the gist."""
    gist = open_gist(str(config.gist_id), config.gist_revision)
    admit(gist, config.gist_sha256)
    path = model_path(gist)
    if config.weights in gist.files and not options["weights"].is_file():
        options["weights"] = path.parent / str(config.weights)
    source = source_of_file(path, "gist_id", config.model_factory, **options, facts=gist.facts)
    return replace(source, origin=f"gist {gist.id[:12]}@{gist.revision[:12]} {source.origin}")


def load_gist_model(
    gist_id: str,
    revision: str | None = None,
    *,
    factory: str = "build_model",
    model_kwargs: Mapping[str, Any] | None = None,
    sha256: str | None = None,
    trust: bool = False,
    seed: int = 0,
    run: TakesFacts | None = None,
    show: Callable[[str], object] | None = print,
    settings: GistSettings | None = None,
) -> nn.Module:
    """Builds the model of a gist, in this process, which runs the gist's code.

    Args:
        gist_id: Its id.
        revision: The commit; the latest by default.
        factory: Callable in its ``model.py`` that returns the model.
        model_kwargs: Keyword arguments of the factory.
        sha256: The hash that its files must have.
        trust: Whether these very files are trusted, whatever the scan finds; remembered.
        seed: Seed of fresh weights.
        run: A run whose facts get ``gist_id``, ``revision`` and ``sha256``.
        show: Takes a description of the gist before its code runs.
        settings: How it is fetched; by default what the environment says.

    Returns:
        The model in eval mode.

    Raises:
        GistError: It cannot be had, or has another hash.
        UntrustedCodeError: The scan found something, and the files are not trusted.
        ModelSourceError: Its file does not import.
        FactoryError: The factory is missing or fails.
    """
    settings = settings or GistSettings.from_environment()
    gist = open_gist(gist_id, revision, settings)
    if show is not None:
        show(describe(gist))
    if trust and sha256 in (None, gist.sha256):
        trust_gist(gist, settings.consent)
    admit(gist, sha256, settings)
    if run is not None:
        run.add_facts(**gist.facts)
    return source_of_file(model_path(gist), "gist_id", factory, kwargs=dict(model_kwargs or {})).build(seed)


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
        device = torch.device(config.device)
    except RuntimeError:
        raise ConfigError(f"{config.path}: `device`: got {config.device!r}, expected cpu, cuda, cuda:0 or mps") from None
    if device.type != "cpu" and not _is_here(device):
        raise ConfigError(f'{config.path}: `device`: {config.device!r} is not available here; use "cpu" or run where it is')
    return config.device


def _is_here(device: torch.device) -> bool:
    if not torch.accelerator.is_available():
        return False
    here = torch.accelerator.current_accelerator()
    return here is not None and here.type == device.type and (device.index or 0) < torch.accelerator.device_count()


def _describe(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"a {type(value).__name__}"
