"""GitHub's API for gists (https://docs.github.com/rest/gists/gists#get-a-gist)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from harness.gists.errors import GistError
from harness.gists.gist import Gist, check_id, check_name, check_revision
from harness.gists.requests import fetch
from harness.gists.settings import GistSettings

_BINARY = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".npy", ".onnx", ".pkl")
"""Endings of files whose content the API's JSON cannot hold unharmed."""


def fetch_gist(gist_id: str, revision: str | None, settings: GistSettings) -> Gist:
    """Fetches a gist with all its files.

    Args:
        gist_id: Its id.
        revision: The commit; the latest by default.
        settings: How.

    Raises:
        GistError: It cannot be had, or the answer is not that of a gist.
        MissingPackageError: ``httpx`` is not installed.
    """
    path = f"/gists/{check_id(gist_id)}" + (f"/{check_revision(revision)}" if revision else "")
    headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28", "User-Agent": "pytest-modeltiers"}
    if settings.token:
        headers["Authorization"] = f"Bearer {settings.token}"
    body = fetch(settings.base_url + path, settings, headers, what=f"gist {gist_id}")
    try:
        return _read(json.loads(body), gist_id, revision, settings)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise GistError(f"gist {gist_id}: the server's answer is not that of the gist API ({type(error).__name__})") from None


def _read(answer: Mapping[str, Any], gist_id: str, revision: str | None, settings: GistSettings) -> Gist:
    if answer["id"] != gist_id:
        raise GistError(f"gist {gist_id}: refused, the server sent another gist")
    if answer.get("truncated"):
        raise GistError(f"gist {gist_id}: refused, it has more files than the API lists")
    owner = (answer.get("owner") or {}).get("login", "")
    files: dict[str, bytes] = {}
    for name, file in answer["files"].items():
        files[check_name(name, gist_id)] = _content(name, file, gist_id, settings)
        if sum(map(len, files.values())) > settings.max_bytes:
            raise GistError(f"gist {gist_id}: refused, its files are larger than {settings.max_bytes:,} bytes together")
    if len({name.casefold() for name in files}) < len(files):
        raise GistError(f"gist {gist_id}: refused, two of its files have names that differ in case alone")
    return Gist(gist_id, revision or check_revision(answer["history"][0]["version"]), str(owner), files)


def _content(name: str, file: Mapping[str, Any], gist_id: str, settings: GistSettings) -> bytes:
    """A file's content: from the answer where it is whole there, else from the address that the answer gives."""
    text, size = file.get("content"), int(file["size"])
    if text is not None and not file.get("truncated") and not name.endswith(_BINARY):
        content = _decoded(text, file.get("encoding"))
        if len(content) == size:
            return content
    url = str(file["raw_url"])
    if not settings.may_serve_files(url):
        raise GistError(f"gist {gist_id}: refused, {name} is said to lie on another host: {url}")
    if size > settings.max_bytes:
        raise GistError(f"gist {gist_id}: refused, {name} is larger than {settings.max_bytes:,} bytes")
    content = fetch(url, settings, {"User-Agent": "pytest-modeltiers"}, what=f"gist {gist_id}: {name}")
    if len(content) != size:
        raise GistError(f"gist {gist_id}: {name} has {len(content):,} bytes, not {size:,} as the API says")
    return content


def _decoded(text: str, encoding: str | None) -> bytes:
    if encoding != "base64":
        return text.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
