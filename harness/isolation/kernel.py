"""The kernel's sandbox, which holds for native code too: dropped capabilities, Landlock for files and TCP, seccomp for system calls."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import platform
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

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
    """Applies the kernel's sandbox to this process and its future threads; returns the names of the layers.

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
    """Devices that may be written to, as they keep nothing: the null device and GPUs."""
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


# The system calls of the isolated process: those that torch, NumPy and ONNX Runtime need, and no others.
#
# Measured: ``strace -f -c`` of isolated suites of the examples names each call that is made; calls that only ask, or that change
# nothing but the process, were added. Each has its number on x86-64 and on ARM64, ``-`` where that has none.

Instruction = tuple[int, int, int, int]
"""Operation, jump if so, jump if not, operand."""

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_ALLOWED = """
# files that are open
read 0 63, write 1 64, close 3 57, fstat 5 80, lseek 8 62, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66,
preadv 295 69, pwritev 296 70, preadv2 327 286, pwritev2 328 287, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72,
dup 32 23, dup2 33 -, dup3 292 24, fsync 74 82, fdatasync 75 83, sync_file_range 277 84, ftruncate 77 46, fallocate 285 47,
fadvise64 221 223, getdents 78 -, getdents64 217 61, sendfile 40 71, copy_file_range 326 285, splice 275 76, fstatfs 138 44,
readahead 187 213

# files by name, where Landlock lets them
open 2 -, openat 257 56, creat 85 -, stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291, statfs 137 43, access 21 -,
faccessat 269 48, faccessat2 439 439, truncate 76 45, getcwd 79 17, chdir 80 49, fchdir 81 50, rename 82 -, renameat 264 38,
renameat2 316 276, mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, readlink 89 -, readlinkat 267 78,
umask 95 166

# pipes, events and timers
pipe 22 -, pipe2 293 59, eventfd 284 -, eventfd2 290 19, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21,
epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, timerfd_create 283 85, timerfd_settime 286 86,
timerfd_gettime 287 87, signalfd4 289 74, timer_create 222 107, timer_settime 223 110, timer_gettime 224 108,
timer_getoverrun 225 109, timer_delete 226 111, getitimer 36 102, setitimer 38 103, alarm 37 -

# memory
mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, brk 12 214, msync 26 227, mincore 27 232,
mlock 149 228, mlock2 325 284, munlock 150 229, memfd_create 319 279, mbind 237 235, set_mempolicy 238 237,
get_mempolicy 239 236, pkey_alloc 330 289, pkey_free 331 290, pkey_mprotect 329 288, membarrier 324 283

# threads
futex 202 98, futex_waitv 449 449, futex_wake 454 454, futex_wait 455 455, futex_requeue 456 456, set_robust_list 273 99,
set_tid_address 218 96, rseq 334 293, sched_yield 24 124, arch_prctl 158 -, exit 60 93, exit_group 231 94, wait4 61 260,
waitid 247 95, restart_syscall 219 128

# signals to itself
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137,
rt_sigsuspend 130 133, sigaltstack 131 132, pause 34 -

# time
nanosleep 35 101, clock_nanosleep 230 115, gettimeofday 96 169, time 201 -, clock_gettime 228 113, clock_getres 229 114,
times 100 153

# what it is told
getpid 39 172, gettid 186 178, getppid 110 173, getpgid 121 155, getpgrp 111 -, getsid 124 156, getuid 102 174, geteuid 107 175,
getgid 104 176, getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158, capget 125 90, getpriority 140 141,
sched_getaffinity 204 123, sched_getscheduler 145 120, sched_getparam 143 121, sched_getattr 315 275,
sched_get_priority_max 146 125, sched_get_priority_min 147 126, sched_rr_get_interval 148 127, getcpu 309 168, getrusage 98 165,
getrlimit 97 163, setrlimit 160 164, sysinfo 99 179, uname 63 160, getrandom 318 278
"""

_UNCHANGED = """
chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54,
utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, flock 73 32
"""
"""Modes, owners, times and locks of files. A filter does not see of which file, so these calls succeed and do nothing: in the folder of
the process, which is nobody else's, nothing depends on them."""

_CHECKED = """
clone 56 220, clone3 435 435, kill 62 129, tgkill 234 131, prlimit64 302 261, sched_setaffinity 203 122, prctl 157 167,
ioctl 16 29, fcntl 72 25
"""

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000
_NEWER = 424
"""From here on the numbers are the same for every processor; what is not allowed of them is said not to exist, so that a library takes
an older way."""

_CLONE_THREAD = 0x10000
_NAMES_AND_QUESTIONS = (2, 3, 4, 15, 16, 21, 23, 29, 30, 39, 41, 42, 0x53564D41)
"""Of ``prctl``: not the signal at the parent's death, nor who may trace it."""

_FILE_CONTROLS = (0, 1, 2, 3, 4, 5, 9, 36, 1030, 1031, 1032, 1033, 1034)
"""Of ``fcntl``: not whom a signal is sent to, no leases, no notices."""
_LOCKS = (6, 7, 37, 38)

_CONTROLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""Of ``ioctl``: is it a terminal, how wide, how much is there, does it block, is it inherited."""
_DRIVERS = (0x00, 0x46, 0x4B, 0x64)
"""Kinds of ``ioctl`` that drivers of GPUs have; that of terminals (0x54), which can type into one, is not among them."""


def program(machine: str, pid: int) -> list[Instruction]:
    """The seccomp filter of a process.

    A refused call fails with EPERM, as if a right were missing. ``clone3``, whose arguments a filter cannot see, is said not to exist, and the
    C library then uses ``clone``, of which only threads are let through.

    Args:
        machine: A key of ``MACHINES``.
        pid: The process, which may signal and limit itself only.
    """
    calls = _numbers(_CHECKED, machine)
    steps = [(_LOAD, 0, 0, _MACHINE), (_JUMP_EQUAL, 1, 0, MACHINES[machine]), _fails(errno.EPERM), (_LOAD, 0, 0, _NUMBER)]
    steps += [(_JUMP_AT_LEAST, 0, 1, _X32), _fails(errno.EPERM)] if machine == "x86_64" else []
    steps += _when(calls["clone3"], [_fails(errno.ENOSYS)])
    steps += _when(calls["clone"], [_argument(0), (_JUMP_BITS, 0, 1, _CLONE_THREAD), *_ALLOWS_OR_REFUSES])
    for name in ("kill", "tgkill"):
        steps += _when(calls[name], _first_is((pid,)))
    for name in ("prlimit64", "sched_setaffinity"):
        steps += _when(calls[name], _first_is((0, pid)))
    steps += _when(calls["prctl"], _first_is(_NAMES_AND_QUESTIONS))
    claimed = [step for lock in _LOCKS for step in ((_JUMP_EQUAL, 0, 1, lock), _fails(0))]
    steps += _when(calls["fcntl"], [_argument(1), *claimed, *_among(_FILE_CONTROLS)])
    kind = [(_AND, 0, 0, 0xFF00), *_among([driver << 8 for driver in _DRIVERS])]
    steps += _when(calls["ioctl"], [_argument(1), *_lets(_CONTROLS), *kind])
    for number in _numbers(_UNCHANGED, machine).values():
        steps += _when(number, [_fails(0)])
    return [*steps, *_ranges(sorted(_numbers(_ALLOWED, machine).values()))]


def _numbers(table: str, machine: str) -> dict[str, int]:
    """The calls of a table that a processor has, by name."""
    column = list(MACHINES).index(machine) + 1
    lines = ",".join(line for line in table.splitlines() if not line.startswith("#"))
    cells = [cell.split() for cell in lines.split(",") if cell.strip()]
    return {cell[0]: int(cell[column]) for cell in cells if cell[column] != "-"}


def _fails(number: int) -> Instruction:
    """Refuses a call with this error number; with 0 the call does nothing and succeeds."""
    return (_RETURN, 0, 0, _ERRNO | number)


_LETS = (_RETURN, 0, 0, _ALLOW)
_ALLOWS_OR_REFUSES = (_LETS, _fails(errno.EPERM))


def _argument(place: int) -> Instruction:
    # All that are looked at are ints, of which the kernel takes the lower half.
    return (_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * place)


def _when(number: int, steps: Sequence[Instruction]) -> list[Instruction]:
    """Steps that decide one system call."""
    return [(_JUMP_EQUAL, 0, len(steps), number), *steps]


def _lets(values: Sequence[int]) -> list[Instruction]:
    return [step for value in values for step in ((_JUMP_EQUAL, 0, 1, value), _LETS)]


def _among(values: Sequence[int]) -> list[Instruction]:
    return [*_lets(values), _fails(errno.EPERM)]


def _first_is(values: Sequence[int]) -> list[Instruction]:
    """The first argument must be one of these."""
    return [_argument(0), *_among(values)]


def _ranges(numbers: Sequence[int]) -> Iterator[Instruction]:
    """Allows ascending numbers, as ranges of neighbours, and refuses those between."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    for first, last in runs:
        yield (_JUMP_AT_LEAST, 3, 0, last + 1)
        yield (_JUMP_AT_LEAST, 0, 1, first)
        yield _LETS
        yield _fails(errno.EPERM if first <= _NEWER else errno.ENOSYS)
    yield _fails(errno.ENOSYS)
