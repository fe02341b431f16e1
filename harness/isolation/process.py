"""The isolated process as its parent sees it; and what it may read: the code it imports and its project, without hidden files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import IsolationError
from harness.isolation import Channel
from harness.isolation.folder import OwnFolder, deleted_bytes
from harness.isolation.sandbox import Limits
from harness.processes import end_in_words, module_command, start_process, stop_process
from harness.wording import amount_of_memory

_KEPT = frozenset(
    {
        *("PATH", "LANG", "LANGUAGE", "TZ", "TERM", "CI", "PYTHONPATH", "PYTHONHASHSEED", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
        *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        *("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
        "PYTEST_XDIST_WORKER_COUNT",
    }
)
"""Variables the process inherits. The others may hold secrets."""

_IN_FOLDER = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "MODELTIERS_CACHE": "cache",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "HYPOTHESIS_STORAGE_DIRECTORY": "hypothesis",
}
"""Folders that libraries write in."""

_STARTING = 120.0
_TAKING = 30.0


class _TooMuchError(Exception):
    """The process used more than it may; the text says what it did."""


class IsolatedProcess:
    """A sandboxed process that answers messages, until it is closed.

    Args:
        target: ``module:function`` that is called there with the argument, a ``Channel`` to answer on, and the ``Guard``.
        argument: JSON-ready.
        own: Folders of the code that is not trusted.
        reads: Files and folders that it may read, in addition to Python, its packages, ``sys.path`` and the folders of the code.
        preload: Modules that are imported before the guard is there.
        limits: What it may use up.
        environment: Further variables for it.

    Raises:
        IsolationError: It could not be started.
    """

    def __init__(
        self,
        target: str,
        argument: Any,
        *,
        own: Sequence[Path] = (),
        reads: Sequence[Path] = (),
        preload: Sequence[str] = (),
        limits: Limits | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        if os.name != "posix":
            raise IsolationError('`isolation` "process" needs Linux or macOS')
        self._own_folder = OwnFolder()
        self.folder = self._own_folder.path
        self._limits = limits or Limits()
        # Without a name the other process could not put anything in its place.
        self._log: BinaryIO = tempfile.TemporaryFile()  # type: ignore[assignment]  # noqa: SIM115  # closed by close()
        self._process, self._channel = self._start(environment or {})
        self._own_folder.watch(self._process.pid)
        job = {
            "target": target,
            "argument": argument,
            "folder": str(self.folder),
            "own": [str(path) for path in own],
            "readable": [*map(str, reads), *imported_folders(own)],
            "parent": os.getpid(),
            "preload": list(preload),
            "limits": self._limits.to_json(),
            "sys_path": [entry for entry in sys.path if entry],
        }
        try:
            self._channel.send(job)
            self.layers: list[str] = list(self.receive(_STARTING)["layers"])
        except (OSError, KeyError, TypeError) as error:
            self.close()
            raise IsolationError(f"the isolated process could not be started: {error}") from None
        except IsolationError:
            self.close()
            raise

    def ask(self, message: Any, timeout: float | None = None) -> Any:
        """Sends a message and waits for the answer.

        Raises:
            IsolationError: The process died, did not answer in time, or answered nonsense; it is then ended.
        """
        self._pause(False)
        try:
            self._channel.send(message, _TAKING)
        except TimeoutError:
            self.kill()
            raise IsolationError("the isolated process does not take what it is asked, and was ended") from None
        except OSError:  # a process that is gone shows itself in the answer
            pass
        return self.receive(timeout)

    def receive(self, timeout: float | None = None) -> Any:
        """The next message of the process.

        Raises:
            IsolationError: As for ``ask``.
        """
        try:
            self._pause(False)
            answer = self._channel.receive(timeout, self._check_usage)
            self._pause(True)
            return answer
        except _TooMuchError as error:
            problem = f"the isolated process {error}, and was ended"
        except TimeoutError:
            problem = f"the isolated process did not answer within {timeout:g} s, and was ended"
        except (EOFError, OSError):
            problem = f"the isolated process died: {self._end()}"
        except ValueError as error:
            problem = f"the isolated process answered nonsense ({error}), and was ended"
        self.kill()
        raise IsolationError(problem)

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Ends the process and whatever it started."""
        stop_process(self._process)

    def close(self) -> None:
        """Ends the process and removes its folder."""
        if self._process.poll() is None:
            self.kill()
        with contextlib.suppress(OSError):
            self._channel.close()
        self._log.close()
        self._own_folder.remove()

    def _pause(self, is_paused: bool) -> None:
        """Stops it, or lets it run: it runs only while its answer is awaited, so nothing of the model runs between tests."""
        with contextlib.suppress(OSError):
            if self.is_alive:
                os.kill(self._process.pid, signal.SIGSTOP if is_paused else signal.SIGCONT)

    def _check_usage(self) -> None:
        files, size = self._own_folder.usage(self._limits.folder_files, self._limits.folder_bytes)
        size += deleted_bytes(self._process.pid) + os.fstat(self._log.fileno()).st_blocks * 512
        if files > self._limits.folder_files:
            raise _TooMuchError(f"made more than {self._limits.folder_files:,} files, or folders within each other")
        if size > self._limits.folder_bytes:
            raise _TooMuchError(f"wrote more than {amount_of_memory(self._limits.folder_bytes)}")

    def __enter__(self) -> IsolatedProcess:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _start(self, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], Channel]:
        to_child, from_child = os.pipe(), os.pipe()
        command = module_command("harness.isolation.child", str(to_child[0]), str(from_child[1]), tied=False)  # it has no threads
        inherited = (to_child[0], from_child[1])
        process = start_process(command, self._log, self._environment() | environment, self.folder, inherited)
        os.close(to_child[0])
        os.close(from_child[1])
        return process, Channel(from_child[0], to_child[1])

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")}
        for variable, name in _IN_FOLDER.items():
            (self.folder / name).mkdir()
            kept[variable] = str(self.folder / name)
        # Packages that were put on the path by hand, this one for one, must be found before the job is read.
        path = os.pathsep.join([*filter(None, [kept.get("PYTHONPATH")]), str(Path(__file__).parents[2])])
        return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}

    def _end(self) -> str:
        """How a process ended, in words."""
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"it {end_in_words(status, self._log)}"


_LONGEST = 1000
_NEVER = frozenset(map(Path, ("/", "/proc", "/sys", "/dev", "/run", "/etc", "/var", "/home", "/root", "/tmp")))


def imported_folders(own: Iterable[Path] = ()) -> list[str]:
    """What may be read for imports: the folders on ``sys.path``, those of packages installed as editable, and those of the code itself.

    Args:
        own: Folders of the code that is not trusted.
    """
    entries = [Path(entry) for entry in sys.path if entry]
    return sorted({str(found) for folder in (*entries, *_editable(), *own) for found in visible_entries(folder)})


def visible_entries(folder: Path) -> Iterator[Path]:
    """The files and folders in a folder, except hidden ones: ``.git``, ``.env`` and ``.ssh`` hold secrets and no code.

    A file is itself. Links that lead out of the folder are left out, as are folders that hold those of users and processes.
    """
    if _is_for_packages(folder) or folder.is_file():
        yield folder
        return
    try:
        here, children = folder.resolve(), sorted(folder.iterdir())
    except OSError:
        return
    private = _private_folders()
    for child in children:
        target = child.resolve()
        if not child.name.startswith(".") and here in target.parents and target not in private:
            yield child


def named_paths(keys: Any, folder: Path) -> Iterator[Path]:
    """The files and folders that the keys of a config name, except those in hidden folders of the user's home.

    Args:
        keys: Keys and values, nested as they are.
        folder: What relative paths start from.
    """
    if isinstance(keys, dict):
        keys = list(keys.values())
    if isinstance(keys, (list, tuple)):
        for value in keys:
            yield from named_paths(value, folder)
    elif isinstance(keys, (str, Path)) and str(keys) and len(str(keys)) < _LONGEST and "\0" not in str(keys):
        path = Path(folder, keys).resolve()
        if path not in _private_folders() and path != folder.resolve() and not _is_hidden(path) and path.exists():
            yield path


def _is_hidden(path: Path) -> bool:
    home = _home()
    return home is not None and home in path.parents and path.relative_to(home).parts[0].startswith(".")


def _private_folders() -> set[Path]:
    """Home folders, and what holds them."""
    home = _home()
    return set(_NEVER) if home is None else {*_NEVER, home, *home.parents}


def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except (OSError, RuntimeError):  # a user without one
        return None


def _is_for_packages(folder: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(folder.parts))


def _editable() -> Iterator[Path]:
    """Folders of packages that setuptools finds by a table instead of a path."""
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            places = getattr(module, "MAPPING", None)
            yield from (Path(place) for place in (places or {}).values() if os.path.exists(place))
