"""Work done in child processes: objects pickled for them, whatever file of the user's their classes come from, and a trial among those."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.config import TrainingConfig, load_config
from harness.errors import TrainingError, UserError
from harness.files import replacing
from harness.models.loading import model_source
from harness.processes import end_in_words, environment_of_child, module_command, start_process, stop_process
from harness.properties.subject import Subject
from harness.tasks import TaskSpec
from harness.training.engines.batch_formats import BatchFormat
from harness.training.trial import Trial
from harness.user_code import command_line_of, is_users_file, raised

_LOG = "log.txt"
_GRACE = 5.0
"""Seconds that the others have after one of them has ended badly."""

_POLL = 0.02


@dataclass(frozen=True)
class Answer:
    """What a process made of its work.

    Attributes:
        result: What the work returned; ``None`` after an error.
        error: What went wrong, in one line; empty where nothing did.
        text: The whole message of what was raised.
        kind: Name of its class.
        began: Whether it came to do the work at all.
        is_late: Whether it was stopped because time was up.
    """

    result: Any = None
    error: str = ""
    text: str = ""
    kind: str = ""
    began: bool = False
    is_late: bool = False


@dataclass(frozen=True)
class Settings:
    """What of this process decides on the bits of a result.

    Attributes:
        threads: Of each operator.
        dtype: Of new floating tensors.
        precision: Of float32 matrix products.
        deterministic: Whether kernels that vary are refused.
    """

    threads: int
    dtype: torch.dtype
    precision: str
    deterministic: bool

    @staticmethod
    def here() -> Settings:
        """Those of this process."""
        return Settings(
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
        )

    def apply(self) -> None:
        """Makes them this process's."""
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(self.deterministic)


def run_in_processes(
    work: Callable[[Any], Any],
    contents: Sequence[Any],
    timeout: float,
    environments: Sequence[Mapping[str, str]] | None = None,
) -> list[Answer]:
    """Runs a function in several processes at once, each on its own item.

    Args:
        work: A function at the top of a module.
        contents: What each process is given.
        timeout: Seconds until they, and what they started, are stopped.
        environments: Further environment variables of each.

    Returns:
        An answer from each; one that raises, dies or hangs answers with an error.

    Raises:
        PackingError: What they are given cannot be pickled.
    """
    environments = environments or [{} for _ in contents]
    payloads = [pack((work, content, Settings.here())) for content in contents]
    with tempfile.TemporaryDirectory(prefix="modeltiers-apart-", ignore_cleanup_errors=True) as name:
        folders = [Path(name) / str(number) for number in range(len(payloads))]
        children: list[subprocess.Popen[bytes]] = []
        try:
            for folder, payload, environment in zip(folders, payloads, environments, strict=True):
                folder.mkdir()
                payload.write(folder / PAYLOAD)
                command = module_command("harness.training.checks.child_processes", str(folder))
                own = {**environment_of_child(torch.get_num_threads()), **environment}
                children.append(start_process(command, folder / _LOG, own))
            late = _wait(children, timeout)
        finally:
            for child in children:
                stop_process(child)
        return [
            _answer(folder, child.returncode, number in late)
            for number, (folder, child) in enumerate(zip(folders, children, strict=True))
        ]


def _wait(children: Sequence[subprocess.Popen[bytes]], timeout: float) -> set[int]:
    """Waits for all; returns the numbers of those that were not done in time."""
    end = time.monotonic() + timeout
    while True:
        status = [child.poll() for child in children]
        if all(code is not None for code in status):
            return set()
        if any(code for code in status):
            end = min(end, time.monotonic() + _GRACE)
            timeout_is_ours = False
        else:
            timeout_is_ours = True
        if time.monotonic() > end:
            return {number for number, code in enumerate(status) if code is None and timeout_is_ours}
        time.sleep(_POLL)


def _answer(folder: Path, status: int, is_late: bool) -> Answer:
    file, stage = folder / ANSWER, folder / STAGE
    began = stage.is_file() and stage.read_text(encoding="utf-8") == "working"
    if not file.is_file():
        how = "it did not finish in time" if is_late else f"it {end_in_words(status, folder / _LOG)}"
        return Answer(error=how, began=began, is_late=is_late)
    answer = pickle.loads(file.read_bytes())
    return Answer(answer["result"], answer["error"], answer["text"], answer["kind"], answer["unpacked"])


_INSTALLED = ("site-packages", "dist-packages")
_MAIN = "__main__"

PAYLOAD, ANSWER, STAGE = "payload", "answer", "stage"
"""Names of the files in a child's folder."""


class PackingError(TrainingError):
    """Something cannot be given to another process."""


@dataclass(frozen=True)
class PickledPayload:
    """A packed object.

    Attributes:
        content: The pickled object.
        modules: Files of the modules that its classes and functions come from, where those are the user's.
        path: Where Python looks for modules.
    """

    content: bytes
    modules: dict[str, str]
    path: tuple[str, ...]

    def write(self, file: Path) -> None:
        """Writes it to a file."""
        header = json.dumps({"modules": self.modules, "path": self.path}).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + self.content)

    @staticmethod
    def read(file: Path) -> PickledPayload:
        """Reads one that this run wrote."""
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        return PickledPayload(data[8 + size :], header["modules"], tuple(header["path"]))

    def unpack(self) -> Any:
        """The object, in a process that may know none of its modules; what their import raises is raised."""
        sys.path.extend(entry for entry in self.path if entry not in sys.path)
        for name, file in self.modules.items():
            _import(name, Path(file))
        return pickle.loads(self.content)


def pack(content: Any) -> PickledPayload:
    """Packs an object.

    Raises:
        PackingError: It holds what cannot be pickled, or what no other process can import.
    """
    buffer = io.BytesIO()
    packer = _Packer(buffer)
    try:
        packer.dump(content)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise PackingError(f"the model cannot be pickled for another process: {type(error).__name__}: {reason}") from error
    return PickledPayload(buffer.getvalue(), packer.files(), tuple(sys.path))


class _Packer(pickle.Pickler):
    """Remembers whose classes and functions it met; caches that hang on objects of this process stay behind."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        self._names: dict[str, None] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Called for every object that is not of a plain builtin type."""
        if isinstance(obj, WeakKeyDictionary):
            return WeakKeyDictionary, ()
        owner = obj if isinstance(obj, type) or callable(obj) else type(obj)
        self._names.setdefault(getattr(owner, "__module__", None) or type(obj).__module__)
        return NotImplemented

    def files(self) -> dict[str, str]:
        """The files of the user's modules, packages before what is inside them."""
        found: dict[str, str] = {}
        if _MAIN in self._names:  # run there again, a script may do all that it does here
            raise PackingError(
                "the model cannot be pickled for another process: its code is in the running script, notebook or prompt; move it to a module"
            )
        for name in self._names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                known = ".".join(parts[:end])
                file = getattr(sys.modules.get(known), "__file__", None)
                if file and file.endswith(".py") and is_users_file(file) and not any(place in file for place in _INSTALLED):
                    found[known] = file
        return found


def _import(name: str, file: Path) -> ModuleType:
    """A module by its name where that leads to its file, and from the file otherwise."""
    loaded = sys.modules.get(name)
    if loaded is not None and _is_file(getattr(loaded, "__file__", None), file):
        return loaded
    with command_line_of(file):
        return importlib.import_module(name) if _is_found(name, file) else _import_file(name, file)


def _import_file(name: str, file: Path) -> ModuleType:
    places = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_found(name: str, file: Path) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and _is_file(spec.origin, file)


def _is_file(found: str | None, file: Path) -> bool:
    return found is not None and Path(found).resolve() == file.resolve()


def main() -> int:
    """Does the work in the folder that the command line names; returns the exit status."""
    folder = Path(sys.argv[1]).resolve()
    answer: dict[str, Any] = {"unpacked": False, "error": "", "text": "", "kind": "", "result": None}
    try:
        _note(folder, "starting")
        work, content, settings = PickledPayload.read(folder / PAYLOAD).unpack()
        answer["unpacked"] = True
        _note(folder, "working")
        settings.apply()
        answer["result"] = work(content)
    except (Exception, SystemExit) as error:
        answer["error"] = str(error) if isinstance(error, UserError) else raised(error)
        answer["text"], answer["kind"] = str(error), type(error).__name__
    _write(folder, answer)
    sys.stdout.flush()
    # A process group that waits for a process which is gone would keep this one from ending.
    os._exit(1 if answer["error"] else 0)


def _note(folder: Path, stage: str) -> None:
    (folder / STAGE).write_text(stage, encoding="utf-8")  # for the parent, should this process not live to say it


def _write(folder: Path, answer: dict[str, Any]) -> None:
    with replacing(folder / ANSWER) as partial, partial.open("wb") as file:
        pickle.dump(answer, file)


if __name__ == "__main__":
    main()


@dataclass(frozen=True)
class TrialSpec:
    """What it takes to train a model.

    Attributes:
        config: The training keys.
        task: What the model is for.
        batch_format: How its training step takes batches.
        batches_per_step: How many it takes before an optimizer step.
        validates: Whether a validation pass follows each epoch.
        model: The model; ``None`` where it is built from the config file.
        adapter: How it is called; ``None`` likewise.
        file: The config file.
        seed: What it is built from.
        weights: What is loaded into a model that was built; ``None`` to leave it as it is.
    """

    config: TrainingConfig
    task: TaskSpec
    batch_format: BatchFormat
    batches_per_step: int = 1
    validates: bool = False
    model: nn.Module | None = None
    adapter: Adapter | None = None
    file: Path | None = None
    seed: int = 0
    weights: dict[str, Tensor] | None = None

    @staticmethod
    def of(trial: Trial, model: nn.Module | None = None) -> TrialSpec:
        """The model itself, as it is."""
        subject = trial.subject
        model = subject.fresh() if model is None else model
        how = trial.batch_format, trial.batches_per_step, trial.validates
        return TrialSpec(trial.config, subject.task, *how, model, subject.adapter)

    @staticmethod
    def rebuilding(trial: Trial, seed: int = 0, weights: dict[str, Tensor] | None = None) -> TrialSpec | None:
        """The config file to build it from; ``None`` where there is none."""
        source = trial.source
        if source is None or trial.subject.rebuild is None or not source.path.is_file():
            return None
        how = trial.batch_format, trial.batches_per_step, trial.validates
        return TrialSpec(trial.config, trial.subject.task, *how, file=source.path, seed=seed, weights=weights)

    def trial(self) -> Trial:
        """The trial, in whatever process this is."""
        model, adapter = self.model, self.adapter
        if model is None or adapter is None:
            assert self.file is not None
            source = load_config(self.file)
            model = model_source(source).build(self.seed)
            adapter = make_adapter(self.task, source.adapter, source.path.parent)
            if self.weights is not None:
                model.load_state_dict(self.weights)
        trial = Trial(Subject(model, adapter, self.task), self.config)
        trial.batch_format, trial.batches_per_step, trial.validates = self.batch_format, self.batches_per_step, self.validates
        return trial
