"""The folder of the isolated process: its size, its removal, and the process that removes it if its owner has died.

Whatever the other process put there is looked at by descriptor, not followed, and not by recursion. Only the standard library is imported, as
the process that waits (``main``) is to be up at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_DEEPEST = 64
_LISTED = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_DONE = b"removed"
_ENDING = 10.0


class OwnFolder:
    """A new folder, opened once.

    Attributes:
        path: Where it lies.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="modeltiers-isolated-"))
        self._descriptor = os.open(self.path, _LISTED)
        self._janitor: subprocess.Popen[bytes] | None = None
        self._pipe = -1

    def watch(self, pid: int) -> None:
        """Starts a process that ends a process group and removes the folder, if this process ends before doing so."""
        reading, self._pipe = os.pipe()
        root = str(Path(__file__).parents[2])
        boot = f"import sys; sys.path.insert(0, {root!r}); from harness.isolation.folder import main; main()"
        command = [sys.executable, "-I", "-S", "-c", boot, str(reading), str(pid), str(self.path)]
        nowhere = subprocess.DEVNULL
        self._janitor = subprocess.Popen(
            command, stdin=nowhere, stdout=nowhere, stderr=nowhere, pass_fds=(reading,), start_new_session=True, cwd="/"
        )
        os.close(reading)

    def usage(self, files: int, size: int) -> tuple[int, int]:
        """The number of its files and their bytes; stops counting a little above the limits."""
        count = total = 0
        waiting: list[tuple[str, int]] = [(".", 0)]
        while waiting and count <= files and total <= size:
            place, depth = waiting.pop()
            for name, found in self._entries(place):
                count += 1
                total += found.st_blocks * 512
                if stat.S_ISDIR(found.st_mode):
                    waiting.append((f"{place}/{name}", depth + 1))
                    count += files if depth > _DEEPEST else 0
                if count > files or total > size:
                    break
        return count, total

    def remove(self) -> None:
        """Removes it with all that is in it; for a process that is gone."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            empty(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
        if self._janitor is not None:
            with contextlib.suppress(OSError):
                os.write(self._pipe, _DONE)
            os.close(self._pipe)
            try:
                self._janitor.wait(_ENDING)
            except subprocess.TimeoutExpired:
                self._janitor.kill()
                self._janitor.wait()

    def _entries(self, place: str) -> Iterator[tuple[str, os.stat_result]]:
        try:
            descriptor = os.open(place, _LISTED, dir_fd=self._descriptor)
        except OSError:  # it is gone, or its name is too long to be opened; no more can be put there then
            return
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        yield entry.name, entry.stat(follow_symlinks=False)
        finally:
            os.close(descriptor)


def deleted_bytes(pid: int) -> int:
    """Bytes of the files that a process has open and that have no name any more; 0 where the system does not say."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                found = os.stat(entry.path)
                total += found.st_blocks * 512 if stat.S_ISREG(found.st_mode) and not found.st_nlink else 0
    return total


def empty(folder: int) -> None:
    """Removes all that is in an open folder.

    What lies in a folder of it is moved up first, so that however deep it is, only one more folder is ever open.
    """
    number = 0
    while names := _some_names(folder):
        for name in names:
            if not _is_folder(name, folder):
                os.unlink(name, dir_fd=folder)
                continue
            os.chmod(name, stat.S_IRWXU, dir_fd=folder)
            inner = os.open(name, _LISTED, dir_fd=folder)
            try:
                while inside := _some_names(inner):
                    for one in inside:
                        number += 1
                        if _is_folder(one, inner):
                            os.chmod(one, stat.S_IRWXU, dir_fd=inner)  # what is moved must be writable, as its ".." changes
                            os.rename(one, f"{number}-{os.urandom(8).hex()}", src_dir_fd=inner, dst_dir_fd=folder)
                        else:
                            os.unlink(one, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=folder)


def _some_names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry, _ in zip(entries, range(1000), strict=False)]


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def main() -> None:
    """Waits for the end of the process that holds the other end of a pipe; ends what it left, and removes its folder."""
    pipe, group, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    folder = os.open(path, _LISTED)
    if os.read(pipe, len(_DONE)) == _DONE:
        return
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)
    for _ in range(100):  # until what was ended writes no more
        with contextlib.suppress(OSError):
            empty(folder)
            os.rmdir(path)
            return
        time.sleep(0.05)
