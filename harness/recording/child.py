"""The process in which the user's command runs, watched."""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from harness.recording import INPUTS, RESULT, TENSORS, WEIGHTS, Command, EndOfRecording
from harness.recording.watch import Watch
from harness.user_code import raised

_ENDING = 10.0
"""Seconds that the user's code has to end once it was stopped."""


def main() -> None:
    """Runs the command of the file that is named, and leaves what was seen beside it."""
    job = Path(sys.argv[1])
    run(Command(**json.loads(job.read_text(encoding="utf-8"))), job.parent)


def run(command: Command, folder: Path) -> None:
    """Runs a command, and ends this process.

    Args:
        command: The command.
        folder: Where what was seen is left.
    """
    finished = threading.Lock()

    def finish(ended: str = "") -> None:
        if not finished.acquire(blocking=False):
            return
        _write(watch, ended, folder)
        timer = threading.Timer(_ENDING, lambda: os._exit(0))  # the user's code may go on whatever is raised
        timer.daemon = True
        timer.start()

    sys.argv = [command.target, *command.arguments]
    sys.path.insert(0, os.getcwd() if command.is_module else str(Path(command.target).resolve().parent))
    name, file = (command.target, _file_of(command.target)) if command.is_module else (Path(command.target).stem, command.target)
    main = (name, str(Path(file).resolve()) if file else "")
    watch = Watch(command, main, finish)
    watch.install()

    def stop() -> None:
        finish(f"it was stopped after {command.seconds:g} s")
        os._exit(0)

    late = threading.Timer(command.seconds, stop)
    late.daemon = True
    late.start()
    try:
        _run_as_main(command, main[1])
    except EndOfRecording:
        pass
    except SystemExit as error:
        finish(f"it ended with {error.code!r}" if error.code else "")
    except KeyboardInterrupt:
        finish("it was interrupted")
    except BaseException as error:
        if not watch.is_over:
            finish(f"it raised {raised(error)}")
    finish()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _run_as_main(command: Command, file: str) -> None:
    """Runs the code as ``__main__``, which stays, as ``runpy`` does not let it: what was seen is read from it at the end."""
    module = ModuleType("__main__")
    module.__file__ = file
    if command.is_module:
        spec = _spec_of(command.target)
        if spec is None or not isinstance(spec.loader, InspectLoader):
            raise ModuleNotFoundError(f"No module named {command.target!r}", name=command.target)
        code = spec.loader.get_code(spec.name)
        module.__spec__, module.__package__ = spec, spec.name.rpartition(".")[0]
        sys.argv[0] = file
    else:
        code = compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
    if code is None:
        raise ModuleNotFoundError(f"{command.target} has no code", name=command.target)
    sys.modules["__main__"] = module
    exec(code, vars(module))


def _spec_of(module: str) -> ModuleSpec | None:
    spec = find_spec(module)
    return find_spec(f"{module}.__main__") if spec is not None and spec.submodule_search_locations else spec


def _file_of(module: str) -> str:
    try:
        spec = _spec_of(module)
    except (ImportError, ValueError):
        return ""
    return (spec.origin or "") if spec is not None else ""


def _write(watch: Watch, ended: str, folder: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        recording, inputs, tensors, weights = watch.recording(ended)
        torch.save(inputs, folder / INPUTS)
        torch.save(tensors, folder / TENSORS)
        if weights is not None:
            torch.save({name: value.cpu() for name, value in weights.items()}, folder / WEIGHTS)
        (folder / RESULT).write_text(json.dumps(recording.to_json()), encoding="utf-8")


if __name__ == "__main__":
    main()
