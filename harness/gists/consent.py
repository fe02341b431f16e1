"""Whether a gist's code may run: what the scan finds in it, and the hashes that the user said they trust."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.files import write_whole
from harness.gists.gist import Gist, GistError, GistSettings, UntrustedCodeError
from harness.scan import Finding, scan_files

_SHOWN = 3


def admit(gist: Gist, sha256: str | None = None, settings: GistSettings | None = None) -> list[Finding]:
    """Lets a gist pass, or refuses it; returns what the scan found.

    Raises:
        GistError: It has another hash.
        UntrustedCodeError: The scan found something, and the user does not trust these files.
    """
    if sha256 and sha256 != gist.sha256:
        raise GistError(
            f"gist {gist.id}: its files are not those that were pinned: sha256 {gist.sha256} (revision {gist.revision}), "
            f"`gist_sha256` is {sha256}"
        )
    findings = scan_files(gist.files)
    settings = settings or GistSettings.from_environment()
    if findings and not is_trusted(gist.sha256, settings.consent):
        shown = "; ".join(map(str, findings[:_SHOWN]))
        more = f"; and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
        raise UntrustedCodeError(
            f"gist {gist.id}: not run because the scan found what no model needs: {shown}{more}. Read the code; if you trust these "
            f"files (sha256 {gist.sha256}): modeltiers gist {gist.id} --revision {gist.revision} --trust"
        )
    return findings


def is_trusted(sha256: str, file: Path) -> bool:
    """Whether the user trusts files with this hash.

    Raises:
        GistError: The file of consent cannot be read.
    """
    return sha256 in _trusted_in(file)


def trust(gist: Gist, file: Path) -> None:
    """Remembers that the user trusts these very files.

    Raises:
        GistError: The file of consent cannot be read or written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            trusted = _trusted_in(file)
            trusted[gist.sha256] = {
                "gist_id": gist.id,
                "revision": gist.revision,
                "owner": gist.owner,
                "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
            write_whole(file, json.dumps({"trusted": trusted}, indent=2) + "\n")
    except OSError as error:
        raise GistError(f"{file}: cannot be written: {error.strerror}") from None


def _trusted_in(file: Path) -> dict[str, Any]:
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
