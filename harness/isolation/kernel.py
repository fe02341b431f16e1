"""The kernel's walls, for native code too: fewer rights (capabilities, user), Landlock for files and TCP, seccomp for system calls."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import platform
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.isolation.system_calls import MACHINES, program

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE = 1 << 0, 1 << 1, 1 << 2
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE, _DEVICE_CONTROL = 1 << 13, 1 << 14, 1 << 15
_BIND_AND_CONNECT_TCP = 0b11
_OTHERS_SOCKETS_AND_SIGNALS = 0b11

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER, _PARENT_DEATH_SIGNAL = 38, 22, 2, 1
_SET_DUMPABLE, _KEEP_CAPABILITIES = 4, 8
_KILL = 9

_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION = 0x20080522
_READ_EVERYTHING = 2
_NEEDED_TO_STEP_DOWN = (0, 1, 2, 5, 6, 7)
"""Capabilities without which the folder could not be given away, read and removed again:
CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, KILL, SETGID, SETUID."""

_NOBODY = 65534

_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", "/gnu/store", "/run/opengl-driver"),
    *("/sys/devices", "/sys/fs/cgroup", "/sys/kernel/mm", "/sys/module", "/sys/bus", "/sys/class"),
    *(
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/etc/timezone",
        "/etc/passwd",
        "/etc/group",
        "/etc/nsswitch.conf",
        "/etc/os-release",
    ),
    *("/etc/mime.types", "/etc/fonts", "/etc/alternatives", "/etc/hosts", "/etc/locale.alias", "/etc/OpenCL", "/etc/vulkan"),
    *("/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/version", "/proc/loadavg", "/proc/uptime", "/proc/filesystems"),
    *("/proc/vmstat", "/proc/devices", "/proc/sys", "/proc/driver"),
    *("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
)
"""What may be read of the system: programs and libraries, facts about the machine; nothing of other processes, users and services."""


def system_folders() -> list[str]:
    """What every isolated process may read: of the system, of itself, and Python with its packages."""
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, str(Path(__file__).parents[1])}
    packages = [entry for entry in sys.path if {"site-packages", "dist-packages"} & set(Path(entry).parts)]
    return [*_SYSTEM, f"/proc/{os.getpid()}", *python, *packages, str(Path(__file__).parents[2] / "pytest_modeltiers")]


def apply_kernel_walls(folder: Path, readable: Sequence[str], parent: int) -> list[str]:
    """Applies what the kernel offers to this process and its threads to come; returns the names of the layers.

    Args:
        folder: The only one that may be written in.
        readable: Files and folders that may be read beside it.
        parent: The process at whose death this one is to die.
    """
    if not sys.platform.startswith("linux"):
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    _give_up_rights(libc, folder)
    # After that: a change of user takes it back.
    libc.prctl(_PARENT_DEATH_SIGNAL, _KILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the process that asked is gone")
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return []
    layers = (("Landlock", _landlock(libc, folder, readable)), ("seccomp", _seccomp(libc)))
    return [name for name, active in layers if active]


def _give_up_rights(libc: ctypes.CDLL, folder: Path) -> None:
    """Gives up all capabilities; root becomes nobody, who may still read everything, where that is allowed."""
    machine, kept = platform.machine(), 0
    if machine not in _CAPSET:
        return
    if os.geteuid() == 0 and _may_step_down():
        with contextlib.suppress(OSError):  # a user namespace may have no such user
            _become_nobody(libc, folder)
            kept = 1 << _READ_EVERYTHING
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    libc.syscall(_CAPSET[machine], header, struct.pack("6I", kept, kept, 0, 0, 0, 0))
    libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)  # or /proc/self would be root's


def _may_step_down() -> bool:
    with open("/proc/self/status", encoding="ascii") as file:
        held = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff")), 0)
    devices = [os.stat(device).st_mode for device in _devices()]
    everybody = stat.S_IROTH | stat.S_IWOTH
    return all(held >> bit & 1 for bit in _NEEDED_TO_STEP_DOWN) and all(mode & everybody == everybody for mode in devices)


def _become_nobody(libc: ctypes.CDLL, folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
    libc.prctl(_KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)  # type: ignore[attr-defined,unused-ignore]
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)  # type: ignore[attr-defined,unused-ignore]


def _landlock(libc: ctypes.CDLL, folder: Path, readable: Sequence[str]) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    writing = _WRITE_FILE | (_TRUNCATE if version >= 3 else 0)
    files = _EXECUTE | _READ_FILE | writing | _REMOVE_AND_MAKE | (_REFER if version >= 2 else 0)
    attributes = struct.pack("QQQ", files, _BIND_AND_CONNECT_TCP if version >= 4 else 0, _OTHERS_SOCKETS_AND_SIGNALS)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        return False
    rules = [(str(folder), files & ~_EXECUTE), *((device, writing | _READ_FILE) for device in _devices())]
    try:
        allowed = all(_allow(libc, ruleset, path, access) for path, access in rules)
        for path in dict.fromkeys(readable):
            with contextlib.suppress(OSError):  # not every system has each
                _allow(libc, ruleset, path, _READ_FILE)
        return allowed and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)
        # The kernel forgets a folder of /proc that nobody has open, and the rule for it.
        _kept.append(os.open("/proc/self", os.O_PATH | os.O_CLOEXEC))  # type: ignore[attr-defined,unused-ignore]


_kept: list[int] = []


def _devices() -> list[str]:
    """Devices that are written to without leaving a mark."""
    return [os.devnull, *glob.glob("/dev/nvidia*[0-9l]"), *glob.glob("/dev/kfd"), *glob.glob("/dev/dri/*[0-9]")]


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> bool:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]
    try:
        rule = struct.pack("=Qi", access, descriptor)
        return bool(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) == 0)
    finally:
        os.close(descriptor)


def _seccomp(libc: ctypes.CDLL) -> bool:
    machine = platform.machine()
    if machine not in MACHINES:
        return False
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program(machine, os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    filter = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(_SET_SECCOMP, _FILTER, ctypes.create_string_buffer(filter, len(filter)), 0, 0) == 0)
