"""Gists fetched from GitHub and kept on disk: whole or not at all, by revision, with the hash of every file."""

from __future__ import annotations

import base64
import binascii
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import MissingPackageError
from harness.files import new_folder
from harness.gists import Gist, GistError, GistSettings, check_id, check_name, check_revision

if TYPE_CHECKING:
    import httpx


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
        raise GistError(f"gist {gist_id}: refused, two of its files have names that differ only in case")
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
        raise GistError(f"gist {gist_id}: refused, {name} is on another host: {url}")
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


_TRY_AGAIN = (408, 429, 500, 502, 503, 504)
_REDIRECTS = 3
_CHUNK = 2**16


def fetch(url: str, settings: GistSettings, headers: Mapping[str, str], *, what: str) -> bytes:
    """The body of an answer.

    Raises:
        GistError: The server refuses, fails each time, is too slow, sends too much, or redirects to another host.
        MissingPackageError: ``httpx`` is not installed.
    """
    try:
        import httpx
    except ImportError:
        raise MissingPackageError('`gist_id` needs httpx: pip install "pytest-modeltiers[gist]"') from None
    problem = ""
    # trust_env would let a .netrc send a password along; proxies are still needed, so only that is kept out.
    with httpx.Client(timeout=settings.timeout, follow_redirects=False, auth=_no_password) as client:
        for attempt in range(settings.attempts):
            if attempt:
                time.sleep(settings.pause * 2 ** (attempt - 1))
            try:
                status, answer_headers, body = _one(client, url, settings, headers, what)
            except httpx.TimeoutException:
                problem = f"no answer within {settings.timeout:g} s"
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            except httpx.InvalidURL as error:
                raise GistError(f"{what}: {error}") from None
            else:
                if status == 200:
                    return body
                if status not in _TRY_AGAIN or _is_rate_limit(answer_headers):
                    raise GistError(f"{what}: {_meaning(status, answer_headers, settings)}")
                problem = f"the server answered {status}"
    raise GistError(f"{what}: {problem}, in {settings.attempts} attempts")


def _one(
    client: httpx.Client, url: str, settings: GistSettings, headers: Mapping[str, str], what: str
) -> tuple[int, httpx.Headers, bytes]:
    """One attempt; redirects are followed as long as they stay on the same host."""
    ends = time.monotonic() + settings.deadline
    for _ in range(_REDIRECTS + 1):
        with client.stream("GET", url, headers=dict(headers)) as answer:
            if not answer.has_redirect_location:
                return answer.status_code, answer.headers, _body(answer, settings, ends, what)
            there = answer.url.join(answer.headers["location"])
        here = answer.url
        if (there.scheme, there.host, there.port) != (here.scheme, here.host, here.port):
            raise GistError(f"{what}: refused, the server redirects to another host, {there.host}")
        url = str(there)
    raise GistError(f"{what}: the server redirects in circles")


def _body(answer: httpx.Response, settings: GistSettings, ends: float, what: str) -> bytes:
    """The body, read no further than the limits go."""
    body = bytearray()
    for chunk in answer.iter_bytes(_CHUNK):
        body += chunk
        if len(body) > settings.max_bytes:
            raise GistError(f"{what}: refused, it is larger than {settings.max_bytes:,} bytes")
        if time.monotonic() > ends:
            raise GistError(f"{what}: not complete after {settings.deadline:g} s")
    return bytes(body)


def _is_rate_limit(headers: httpx.Headers) -> bool:
    return headers.get("x-ratelimit-remaining") == "0"


def _meaning(status: int, headers: httpx.Headers, settings: GistSettings) -> str:
    """What a status means to the user."""
    if _is_rate_limit(headers):
        reset = headers.get("x-ratelimit-reset", "")
        when = (
            f" until {datetime.fromtimestamp(int(reset), timezone.utc):%H:%M:%S} UTC"
            if reset.isdigit() and len(reset) < 12
            else ""
        )
        more = "" if settings.token else "; with a token in GITHUB_TOKEN the limit is higher"
        return f"the API's rate limit is reached{when}{more}"
    if status == 401:
        return "the token in GITHUB_TOKEN is refused"
    if status == 403:
        return "access is forbidden (403)"
    if status in (404, 422):
        return "no such gist or revision, or this token may not read it"
    return f"the server answered {status}"


def _no_password(request: httpx.Request) -> httpx.Request:
    """Sends a request as it is, without a password from a .netrc."""
    return request


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
