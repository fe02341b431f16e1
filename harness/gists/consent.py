"""The hashes of foreign files that the user said they trust."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.files import write_whole
from harness.gists.errors import GistError
from harness.gists.gist import Gist


def is_trusted(sha256: str, file: Path) -> bool:
    """Whether the user trusts files with this hash.

    Raises:
        GistError: The file of consent cannot be read.
    """
    return sha256 in _read(file)


def trust(gist: Gist, file: Path) -> None:
    """Remembers that the user trusts these very files.

    Raises:
        GistError: The file of consent cannot be read or written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            trusted = _read(file)
            trusted[gist.sha256] = {
                "gist_id": gist.id,
                "revision": gist.revision,
                "owner": gist.owner,
                "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
            write_whole(file, json.dumps({"trusted": trusted}, indent=2) + "\n")
    except OSError as error:
        raise GistError(f"{file}: cannot be written: {error.strerror}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        trusted = content["trusted"]
        if not isinstance(trusted, dict):
            raise TypeError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        raise GistError(f'{file}: cannot be read as {{"trusted": {{sha256: …}}}}; correct or delete it') from None
    return trusted
