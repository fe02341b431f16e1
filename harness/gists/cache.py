"""Gists on disk, by revision: what was fetched once is neither fetched nor changed again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from harness.files import new_folder
from harness.gists.client import fetch_gist
from harness.gists.gist import Gist, GistError, GistSettings, check_id, check_name, check_revision

_ABOUT = "about.json"
_FILES = "files"


def open_gist(gist_id: str, revision: str | None = None, settings: GistSettings | None = None) -> Gist:
    """A gist with its files on disk: from the cache where the revision is known and there, else from the API.

    Args:
        gist_id: Its id.
        revision: The commit; the latest by default, which needs the network each time.
        settings: How it is fetched; by default what the environment says.

    Raises:
        GistError: It cannot be had.
        MissingPackageError: ``httpx`` is not installed.
    """
    settings = settings or GistSettings.from_environment()
    check_id(gist_id)
    kept = find(gist_id, check_revision(revision), settings) if revision else None
    if kept is not None:
        return kept
    gist = fetch_gist(gist_id, revision, settings)
    return find(gist.id, gist.revision, settings) or keep(gist, settings)


def find(gist_id: str, revision: str, settings: GistSettings) -> Gist | None:
    """A gist that was fetched before; ``None`` where there is none, or where its files are no longer what they were."""
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
        raise GistError(f"gist {gist.id}: cannot be stored in {folder}: {error.strerror}") from None
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


def model_path(gist: Gist) -> Path:
    """The file of a gist that holds its model.

    Raises:
        GistError: There is none.
    """
    if gist.folder is None:
        raise ValueError("a gist that was not written to disk")
    return gist.folder / gist.model_file


def describe(gist: Gist) -> str:
    """The gist in a few lines, for people."""
    files = ", ".join(f"{name} ({len(content):,} bytes)" for name, content in sorted(gist.files.items()))
    return f"gist {gist.id} by {gist.owner or 'an anonymous user'}\n  revision  {gist.revision}\n  sha256    {gist.sha256}\n  files     {files}"
