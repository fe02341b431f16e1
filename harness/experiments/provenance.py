"""Where a run comes from: the machine, the process, the commit."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

_GIT_SECONDS = 5.0


def provenance(folder: Path | None = None) -> dict[str, Any]:
    """The host, the process id, and the commit of a folder.

    Args:
        folder: A folder in a Git repository; the current one by default.

    Returns:
        ``host``, ``pid``, ``git_commit``, and ``git_dirty``: whether tracked files differ from it. The last two are ``None`` outside of
        a repository, or where Git is missing or slow.
    """
    folder = folder or Path.cwd()
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "git_commit": commit or None,
        "git_dirty": None if changes is None else bool(changes),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # looking at a repository must not write to it
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
