"""The two layers of the sandbox: the kernel's (Landlock and seccomp), and Python's audit hook, which says what was tried and where."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import platform
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import FrameType
from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_BIND_AND_CONNECT_TCP = 0b11
_OTHERS_SOCKETS_AND_SIGNALS = 0b11

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER, _PARENT_DEATH_SIGNAL = 38, 22, 2, 1
_KILL = 9

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_REFUSED_CALLS = {
    # socket connect ptrace process_vm_* execve execveat fork vfork mount unshare setns bpf userfaultfd open_by_handle_at io_uring_*
    # pidfd_getfd
    "x86_64": (41, 42, 101, 310, 311, 59, 322, 57, 58, 165, 272, 308, 321, 323, 304, 425, 426, 427, 438),
    "aarch64": (198, 203, 117, 270, 271, 221, 281, 40, 97, 268, 280, 282, 265, 425, 426, 427, 438),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_CLONE_THREAD = 0x10000
_X32 = 0x40000000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def apply_sandbox(folder: Path) -> list[str]:
    """Applies what layers the kernel offers to this process and its threads to come; returns their names."""
    if not sys.platform.startswith("linux"):
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PARENT_DEATH_SIGNAL, _KILL, 0, 0, 0)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return []
    layers = (("Landlock", _landlock(libc, folder)), ("seccomp", _seccomp(libc)))
    return [name for name, active in layers if active]


def _landlock(libc: ctypes.CDLL, folder: Path) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    files = _EXECUTE | _WRITE_FILE | _REMOVE_AND_MAKE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("QQQ", files, _BIND_AND_CONNECT_TCP if version >= 4 else 0, _OTHERS_SOCKETS_AND_SIGNALS)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        return False
    try:
        allowed = [_allow(libc, ruleset, folder, files & ~_EXECUTE)]
        allowed += [_allow(libc, ruleset, Path(device), files & (_WRITE_FILE | _TRUNCATE)) for device in _devices()]
        return all(allowed) and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _devices() -> list[str]:
    """Devices that are written to without leaving a mark."""
    return [os.devnull, *glob.glob("/dev/nvidia*[0-9l]"), *glob.glob("/dev/kfd"), *glob.glob("/dev/dri/*[0-9]")]


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, access: int) -> bool:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]
    try:
        rule = struct.pack("=Qi", access, descriptor)
        return bool(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) == 0)
    finally:
        os.close(descriptor)


def _seccomp(libc: ctypes.CDLL) -> bool:
    machine = platform.machine()
    if machine not in _MACHINES:
        return False
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _program(machine))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(_SET_SECCOMP, _FILTER, ctypes.create_string_buffer(program, len(program)), 0, 0) == 0)


def _program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter, as (operation, steps if so, steps if not, operand): a refused call fails with EPERM, as if a right were missing.

    Of ``clone`` only threads are let through; ``clone3``, whose arguments a filter cannot see, is said not to exist, and the C library
    then uses ``clone``.
    """
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    number, machine_of_call, low_flags = 0, 4, 16
    program = [(_LOAD, 0, 0, machine_of_call), (_JUMP_EQUAL, 1, 0, _MACHINES[machine]), refuse, (_LOAD, 0, 0, number)]
    program += [(_JUMP_AT_LEAST, 0, 1, _X32), refuse] if machine == "x86_64" else []
    for call in _REFUSED_CALLS[machine]:
        program += [(_JUMP_EQUAL, 0, 1, call), refuse]
    program += [(_JUMP_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    program += [(_JUMP_EQUAL, 0, 3, _CLONE[machine]), (_LOAD, 0, 0, low_flags), (_JUMP_BITS, 1, 0, _CLONE_THREAD), refuse]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


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
    """

    cpu_seconds: int = 3600
    file_bytes: int = 2**30
    memory_bytes: int | None = None

    def apply(self) -> None:
        """Puts the limits on this process, for good; no limit is raised that is lower already."""
        import resource

        memory = _address_space() + (self.memory_bytes or max(_ROOM, int(_SHARE * _free_memory())))
        wanted = {
            resource.RLIMIT_CPU: self.cpu_seconds,
            resource.RLIMIT_FSIZE: self.file_bytes,
            resource.RLIMIT_CORE: 0,
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
    **dict.fromkeys(("ctypes.dlopen", "ctypes.dlsym", "ctypes.dlsym/handle"), "loads native code"),
    **dict.fromkeys(("sqlite3.load_extension", "sqlite3.enable_load_extension"), "loads native code"),
    **dict.fromkeys(("os.symlink", "os.link"), "makes a link"),
    **dict.fromkeys(("resource.setrlimit", "resource.prlimit"), "changes its limits"),
    **dict.fromkeys(("sys.addaudithook", "sys.remote_exec"), "changes the interpreter"),
}
"""Events that are refused whatever their arguments are."""

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
    """

    def __init__(self, folder: Path, own: Sequence[Path] = ()) -> None:
        self._folder = os.path.realpath(folder)
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
        judge, refuse, events = self._judge, self._refuse, frozenset({*_ALWAYS, *_PATHS, *_OWN_CODE, "open", "import"})

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in events:
                what = judge(event, arguments)
                if what:
                    refuse(event, what)

        return hook

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> str:
        """What an event would do that is refused; empty for one that is allowed."""
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
        return f"writes {_shown(path)}" if writes and not self._is_writable(path) else ""

    def _judge_import(self, filename: Any) -> str:
        if not isinstance(filename, str) or not filename.endswith(tuple(EXTENSION_SUFFIXES)):
            return ""
        return "" if self._is_installed(os.path.realpath(filename)) else f"loads native code from {_shown(filename)}"

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
    return text if len(text) <= 120 else f"…{text[-119:]}"
