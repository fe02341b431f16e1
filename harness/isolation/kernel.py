"""The kernel's part of the sandbox, for this process and for good: Landlock against writing, seccomp against sockets and programs, and limits.

They hold for native code as well, which Python's audit hook never sees: ``torch.save`` writes its files in C++. Both layers need Linux; what
the kernel does not offer is left out, and ``apply_sandbox`` says which layers are active. Limits (``resource.setrlimit``) need POSIX.

https://docs.kernel.org/userspace-api/landlock.html, https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import platform
import struct
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
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
