"""What an isolated process may use up (``resource.setrlimit``)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from typing import Any

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
