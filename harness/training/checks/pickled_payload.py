"""Objects pickled for another process, whatever file of the user's their classes come from, and the process that unpickles them."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from harness.errors import TrainingError, UserError
from harness.files import replacing
from harness.user_code import is_users_file, raised

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
    if _is_found(name, file):
        return importlib.import_module(name)
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
