"""Gists on disk, by revision: what was fetched once is neither fetched nor changed again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from harness.files import new_folder
from harness.gists.errors import GistError
from harness.gists.gist import Gist, check_name
from harness.gists.settings import GistSettings

_ABOUT = "about.json"
_FILES = "files"


def find(gist_id: str, revision: str, settings: GistSettings) -> Gist | None:
    """A gist that was fetched before; ``None`` where there is none, or where its files are no longer what they were.

    Args:
        gist_id: A valid id.
        revision: A valid revision.
        settings: Where gists are kept.
    """
    folder = _folder(gist_id, revision, settings)
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        files = {check_name(name, gist_id): (folder / _FILES / name).read_bytes() for name in about["files"]}
        gist = Gist(gist_id, revision, str(about["owner"]), files, folder / _FILES)
        return gist if gist.sha256 == about["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, GistError):
        return None


def keep(gist: Gist, settings: GistSettings) -> Gist:
    """Writes a gist's files; returns the gist with its folder.

    Raises:
        GistError: The cache cannot be written.
    """
    folder = _folder(gist.id, gist.revision, settings)
    try:
        _write(gist, folder)
    except OSError as error:
        raise GistError(f"gist {gist.id}: cannot be kept in {folder}: {error.strerror}") from None
    return replace(gist, folder=folder / _FILES)


def _folder(gist_id: str, revision: str, settings: GistSettings) -> Path:
    return settings.cache / settings.host / gist_id / revision


def _write(gist: Gist, folder: Path) -> None:
    """Makes the folder of a gist, in place of a damaged one; where another process was faster, its folder stays."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with new_folder(folder) as partial:
            (partial / _FILES).mkdir()
            for name, content in gist.files.items():
                (partial / _FILES / name).write_bytes(content)
            (partial / _ABOUT).write_text(json.dumps(gist.to_json()), encoding="utf-8")
    except OSError:
        if not folder.is_dir():
            raise
