"""Resource limits of the isolated process, and Python's audit hook, which refuses what the kernel refuses and says what was tried and where."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import FrameType
from typing import Any

from harness.wording import visible

_OPEN_FILES = 4096
_ROOM = 8 * 2**30
_SHARE = 0.9


@dataclass(frozen=True)
class Limits:
    """Limits of a process.

    Attributes:
        cpu_seconds: Processor time of all its threads together, after which the kernel ends it.
        file_bytes: Size of any file that it writes.
        memory_bytes: Address space beyond what it has when the limit is set; by default nine tenths of the memory that is free then,
            at least 8 GiB.
        folder_bytes: Size of all that it has written and not removed.
        folder_files: How many files and folders it may have.
    """

    cpu_seconds: int = 3600
    file_bytes: int = 2**30
    memory_bytes: int | None = None
    folder_bytes: int = 16 * 2**30
    folder_files: int = 50_000

    def apply(self) -> None:
        """Applies the limits to this process for good; a limit that is already lower stays."""
        import resource

        memory = _address_space() + (self.memory_bytes or max(_ROOM, int(_SHARE * _free_memory())))
        wanted = {
            resource.RLIMIT_CPU: self.cpu_seconds,
            resource.RLIMIT_FSIZE: self.file_bytes,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_NOFILE: _OPEN_FILES,
            resource.RLIMIT_AS: memory,
        }
        for kind, value in wanted.items():
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            with contextlib.suppress(ValueError):  # macOS has no limit on the address space
                resource.setrlimit(kind, (value, value))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def _address_space() -> int:
    """Bytes of address space this process has; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _free_memory() -> int:
    """Bytes of memory that are free or can be freed; 0 where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = next((line for line in file if line.startswith("MemAvailable:")), "")
        return int(found.split()[1]) * 1024 if found else 0
    except OSError:
        return 0


_CTYPES = os.path.dirname(ctypes.__file__) + os.sep
_SYSTEM_LIBRARIES = ("/usr/", "/lib", "/opt/")
_MANY = 200
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_PROCESS = "starts a process"
_NETWORK = "uses the network"
_ALWAYS = {
    **dict.fromkeys(("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile"), _PROCESS),
    **dict.fromkeys(("subprocess.Popen", "pty.spawn"), _PROCESS),
    **dict.fromkeys(("os.kill", "os.killpg"), "signals a process"),
    **dict.fromkeys(("socket.__new__", "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"), _NETWORK),
    **dict.fromkeys(("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"), _NETWORK),
    **dict.fromkeys(
        ("socket.sethostname", "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect"), _NETWORK
    ),
    **dict.fromkeys(("sqlite3.load_extension", "sqlite3.enable_load_extension"), "loads native code"),
    **dict.fromkeys(("os.symlink", "os.link"), "makes a link"),
    **dict.fromkeys(("resource.setrlimit", "resource.prlimit"), "changes its limits"),
    **dict.fromkeys(("sys.addaudithook", "sys.remote_exec"), "changes the interpreter"),
}
"""Events that are refused whatever their arguments are."""

_NATIVE = ("ctypes.dlopen", "ctypes.dlsym", "ctypes.dlsym/handle")
"""Events that are refused unless an installed package asks: some look for the C library when they are imported."""

_PATHS = {
    **dict.fromkeys(("os.remove", "os.rmdir", "shutil.rmtree"), ("deletes", 1)),
    "os.rename": ("renames", 2),
    **dict.fromkeys(
        ("os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr"), ("changes", 1)
    ),
    **dict.fromkeys(("os.chflags", "os.lockf", "sqlite3.connect"), ("changes", 1)),
}
"""Events that are refused outside the folder: what they do, and how many of their arguments are paths."""

_OWN_CODE = {
    "code.__new__": "makes bytecode",
    "sys.settrace": "traces the interpreter",
    "sys.setprofile": "traces the interpreter",
    "os.chdir": "changes the working folder",
    "os.fchdir": "changes the working folder",
    "gc.get_objects": "looks through all objects",
    "gc.get_referrers": "looks through all objects",
}
"""Events that are refused when the model's own code asks; the libraries have reasons of their own."""


@dataclass(frozen=True)
class Attempt:
    """Something that was refused.

    Attributes:
        event: Name of the audit event.
        what: What it does.
        place: ``model.py, line 7``: the innermost line of the model's own code; of any code where none of the model's took part.
        own: Whether code of the model's own took part.
    """

    event: str
    what: str
    place: str
    own: bool

    def __str__(self) -> str:
        return f"{self.what} ({self.event}; {self.place})"

    def to_json(self) -> dict[str, Any]:
        """The attempt as JSON-ready values."""
        return asdict(self)


class RefusedError(PermissionError):
    """The guard refused something."""


class Guard:
    """Refuses what a model has no need to do.

    Args:
        folder: The folder that may be written in.
        own: Folders of the model's code.
        readable: What may be read beside the folder.
    """

    def __init__(self, folder: Path, own: Sequence[Path] = (), readable: Sequence[str] = ()) -> None:
        self._folder = os.path.realpath(folder)
        read: set[str] = {os.path.realpath(path) for path in (str(folder), os.devnull, *readable)}
        self._readable, self._readable_folders = frozenset(read), tuple(path + os.sep for path in read)
        self._own = tuple(os.path.realpath(path) + os.sep for path in own)
        installed = (sys.prefix, sys.base_prefix, Path(__file__).parents[1])
        self._installed = tuple(os.path.realpath(path) + os.sep for path in installed)
        self._seen: list[Attempt] = []

    def install(self) -> None:
        """Begins to refuse, for as long as the process lives."""
        sys.addaudithook(self._hook())

    def taken(self) -> list[Attempt]:
        """What was refused since the last call."""
        seen, self._seen[:] = self._seen[:], []
        return seen

    def _hook(self) -> Callable[[str, tuple[Any, ...]], None]:
        # Bound to locals: nobody who later changes a module's names changes what the hook does first.
        judge, refuse, events = self._judge, self._refuse, frozenset({*_ALWAYS, *_NATIVE, *_PATHS, *_OWN_CODE, "open", "import"})

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in events:
                what = judge(event, arguments)
                if what:
                    refuse(event, what)

        return hook

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> str:
        """What is refused about an event; empty for one that is allowed."""
        if event in _NATIVE:
            return "" if self._is_for_a_package(event, arguments) else "loads native code"
        if event in _ALWAYS:
            return _ALWAYS[event]
        if event == "open":
            return self._judge_open(*arguments)
        if event == "import":
            return self._judge_import(arguments[1])
        if event in _OWN_CODE:
            return _OWN_CODE[event] if self._place()[1] else ""
        does, paths = _PATHS[event]
        outside = next((path for path in arguments[:paths] if not self._is_writable(path)), None)
        return "" if outside is None else f"{does} {_shown(outside)}"

    def _judge_open(self, path: Any, mode: str | None, flags: int) -> str:
        # os.open gives no mode; a folder opened by it could be written in by a path relative to it, which is then not to be seen.
        writes = bool(flags & _WRITES) or (mode is not None and bool(set(mode) & set("wax+")))
        if mode is None and not writes and not isinstance(path, int):
            writes = os.path.isdir(path)
        if writes:
            return "" if self._is_writable(path) else f"writes {_shown(path)}"
        return "" if self._is_readable(path) else f"reads {_shown(path)}"

    def _judge_import(self, filename: Any) -> str:
        if not isinstance(filename, str) or not filename.endswith(tuple(EXTENSION_SUFFIXES)):
            return ""
        return "" if self._is_installed(os.path.realpath(filename)) else f"loads native code from {_shown(filename)}"

    def _is_for_a_package(self, event: str, arguments: tuple[Any, ...]) -> bool:
        """Whether the code that asks for a library is a package's, and the library the system's or a package's."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith((__file__, _CTYPES)):
            frame = frame.f_back
        if frame is None or not self._is_installed(frame.f_code.co_filename):
            return False
        library = arguments[0] if event == "ctypes.dlopen" else None
        if not isinstance(library, (str, bytes)) or os.sep not in os.fsdecode(library):
            return True
        path = os.path.realpath(os.fsdecode(library))
        return self._is_installed(path) or path.startswith(_SYSTEM_LIBRARIES)

    def _is_installed(self, path: str) -> bool:
        """Whether a file belongs to Python or its packages, and not to the folder that may be written in."""
        if path.startswith(self._folder + os.sep):
            return False
        return (
            path.startswith(self._installed)
            or f"{os.sep}site-packages{os.sep}" in path
            or f"{os.sep}dist-packages{os.sep}" in path
        )

    def _is_writable(self, path: Any) -> bool:
        if isinstance(path, int) or path == ":memory:":  # opened before, and judged then; a database without a file
            return True
        try:
            name = os.path.realpath(os.fsdecode(path))
        except (TypeError, ValueError):
            return False
        return name in (self._folder, os.devnull) or name.startswith(self._folder + os.sep)

    def _is_readable(self, path: Any) -> bool:
        """Whether a file may be read, or does not exist: code that looks for an optional file must see that it is missing."""
        if isinstance(path, int):
            return True
        try:
            name = os.path.realpath(os.fsdecode(path))
        except (TypeError, ValueError):
            return False
        return name in self._readable or name.startswith(self._readable_folders) or not os.path.isfile(name)

    def _refuse(self, event: str, what: str) -> None:
        place, own = self._place()
        attempt = Attempt(event, what, place, own)
        if len(self._seen) < _MANY:
            self._seen.append(attempt)
        raise RefusedError(f"refused by isolation: the code {what} ({place})")

    def _place(self) -> tuple[str, bool]:
        """The innermost line of the model's own code, and whether there is one."""
        frame: FrameType | None = sys._getframe(1)
        nearest = ""
        while frame is not None:
            name = frame.f_code.co_filename
            if name != __file__:
                line = f"{os.path.basename(name)}, line {frame.f_lineno}"
                if name.startswith(self._own) and not self._is_installed(name):
                    return line, True
                nearest = nearest or line
            frame = frame.f_back
        return nearest or "no line of Python", False


def _shown(path: Any) -> str:
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else repr(path)
    text = visible(text)
    return text if len(text) <= 120 else f"…{text[-119:]}"
