"""System calls by name, as a library in C makes them; for the attempts that are to show what stops native code."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)  # loaded before the guard is there: native code of a library needs no leave
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS)

NUMBERS = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "copy_file_range": (326, 285),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fallocate": (285, 47),
    "fanotify_init": (300, 262),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fcntl": (72, 25),
    "flock": (73, 32),
    "fsetxattr": (190, 7),
    "fsopen": (430, 430),
    "ftruncate": (77, 46),
    "get_robust_list": (274, 100),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "landlock_create_ruleset": (444, 444),
    "linkat": (265, 37),
    "listen": (50, 201),
    "lsetxattr": (189, 6),
    "memfd_create": (319, 279),
    "migrate_pages": (256, 238),
    "mkdirat": (258, 34),
    "mknodat": (259, 33),
    "mlockall": (151, 230),
    "mmap": (9, 222),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "readlinkat": (267, 78),
    "reboot": (169, 142),
    "recvmsg": (47, 212),
    "removexattr": (197, 14),
    "renameat2": (316, 276),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "seccomp": (317, 277),
    "semctl": (66, 191),
    "semget": (64, 190),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setdomainname": (171, 162),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setresuid": (117, 147),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapon": (167, 224),
    "symlinkat": (266, 36),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unlinkat": (263, 35),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utimensat": (280, 88),
    "vhangup": (153, 58),
}
"""On x86-64 and on ARM64, which lacks some."""


def call(name: str, *arguments: Any) -> int:
    """Makes a system call; texts are handed over as C has them.

    Raises:
        OSError: It failed.
    """
    number = NUMBERS[name][platform.machine() == "aarch64"]
    if number is None:
        raise OSError(errno.ENOSYS, f"{name}: this processor has none")
    ready = [_as_c(argument) for argument in arguments]
    ctypes.set_errno(0)
    result = _syscall(ctypes.c_long(number), *ready)
    if result == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return int(result)


def reached(name: str, *arguments: Any) -> None:
    """Makes a system call that cannot succeed, to see whether it reaches the kernel.

    Raises:
        OSError: It was refused.
    """
    try:
        call(name, *arguments)
    except OSError as error:
        if error.errno in _REFUSALS:
            raise


def memory(content: bytes) -> ctypes.Array[ctypes.c_char]:
    """A place in memory for a call to read or to write."""
    return ctypes.create_string_buffer(content, len(content))


def read_memory_of(pid: int, address: int, size: int) -> bytes:
    """Some memory of another process.

    Raises:
        OSError: It was refused.
    """
    here = memory(bytes(size))
    word = ctypes.c_size_t
    mine, theirs = (word * 2)(ctypes.addressof(here), size), (word * 2)(address, size)
    call("process_vm_readv", pid, mine, 1, theirs, 1, 0)
    return here.raw


def _as_c(argument: Any) -> Any:
    if isinstance(argument, str):
        return ctypes.c_char_p(os.fsencode(argument))
    return ctypes.c_long(argument) if isinstance(argument, int) else argument
