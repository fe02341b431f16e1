"""What is fetched, from a real server; and what is said when the server fails, lies, dawdles or sends somewhere else."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from gist_server import MODEL, REVISION, Answer, GistServer, body, endless, hang_up, silence, status

from harness.gists import GistError, GistSettings
from harness.gists.cache import open_gist

ID = "abc123"


@pytest.fixture
def quick(settings: GistSettings) -> GistSettings:
    return replace(settings, timeout=0.3, deadline=0.6, pause=0.01, max_bytes=100_000)


def message(settings: GistSettings, gist_id: str = ID, revision: str | None = None) -> str:
    with pytest.raises(GistError) as caught:
        open_gist(gist_id, revision, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_gist_has_its_files_owner_and_revision(server: GistServer, settings: GistSettings) -> None:
    server.publish(ID, {"model.py": MODEL, "notes.md": "ünïcode"})
    gist = open_gist(ID, settings=settings)
    assert (gist.owner, gist.revision, gist.model_file) == ("ada", REVISION, "model.py")
    assert gist.files == {"model.py": MODEL.encode(), "notes.md": "ünïcode".encode()}
    assert gist.folder is not None
    assert (gist.folder / "notes.md").read_text(encoding="utf-8") == "ünïcode"
    assert server.asked == [(f"/gists/{ID}", "Bearer secret")]


def test_a_truncated_file_is_fetched_whole_and_without_the_token(server: GistServer, settings: GistSettings) -> None:
    file = server.file(ID, "model.py", MODEL) | {"truncated": True, "content": MODEL[:20]}
    server.publish(ID, {"model.py": file})
    assert open_gist(ID, settings=settings).files["model.py"] == MODEL.encode()
    assert server.asked[-1] == (f"/raw/{ID}/model.py", None)


def test_the_hash_tells_apart_what_a_sloppy_one_would_not(server: GistServer, settings: GistSettings) -> None:
    hashes = set()
    for number, files in enumerate(({"ab": "c"}, {"a": "bc"}, {"a": "b", "c": ""}, {"a": "b"}, {"a": "", "c": "b"})):
        server.publish(f"{ID}{number}", files)
        hashes.add(open_gist(f"{ID}{number}", settings=settings).sha256)
    assert len(hashes) == 5


def test_a_known_revision_is_not_fetched_again(server: GistServer, settings: GistSettings) -> None:
    server.publish(ID, {"model.py": MODEL})
    first = open_gist(ID, settings=settings)
    server.answers.clear()
    assert open_gist(ID, REVISION, settings) == first
    assert len(server.asked) == 1


def test_files_that_were_changed_in_the_cache_are_fetched_again(server: GistServer, settings: GistSettings) -> None:
    server.publish(ID, {"model.py": MODEL})
    folder = open_gist(ID, settings=settings).folder
    assert folder is not None
    (folder / "model.py").write_text("import os")
    assert open_gist(ID, REVISION, settings).files["model.py"] == MODEL.encode()
    assert (folder / "model.py").read_text() == MODEL


def test_a_server_that_fails_for_a_moment_is_asked_again(server: GistServer, quick: GistSettings) -> None:
    server.publish(ID, {"model.py": MODEL})
    sound: Any = server.answers[f"/gists/{ID}"]
    server.answers[f"/gists/{ID}"] = [status(503), hang_up, sound]
    assert open_gist(ID, settings=quick).owner == "ada"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "said", "requests"),
    [
        (status(404), "no such gist or revision", 1),
        (status(401), "the token in GITHUB_TOKEN is refused", 1),
        (status(403), "access is forbidden", 1),
        (status(403, x_ratelimit_remaining="0", x_ratelimit_reset="1700000000"), "rate limit is reached until 22:13:20 UTC", 1),
        (status(403, x_ratelimit_remaining="0", x_ratelimit_reset="soon"), "rate limit is reached", 1),
        (status(500), "the server answered 500, in 3 attempts", 3),
        (hang_up, "in 3 attempts", 3),
        (silence(1.0), "no answer within 0.3 s, in 3 attempts", 3),
        (endless(), "refused, it is larger than 100,000 bytes", 1),
        (endless(pause=0.2), "not complete after 0.6 s", 1),
        (status(302, Location="http://elsewhere.invalid/x"), "redirects to another host, elsewhere.invalid", 1),
        (status(302, Location=f"/gists/{ID}"), "redirects in circles", 4),
        (body("<html>"), "not that of the gist API", 1),
        (body("[" * 100_000), "not that of the gist API", 1),
        (body("[]"), "not that of the gist API", 1),
        (body("{}"), "not that of the gist API", 1),
        (body(json.dumps({"id": "other"})), "the server sent another gist", 1),
        (body(json.dumps({"id": ID, "truncated": True})), "more files than the API lists", 1),
        (body(json.dumps({"id": ID, "files": {"model.py": None}})), "not that of the gist API", 1),
        (body(json.dumps({"id": ID, "files": {}, "history": [{"version": "../x"}]})), "`gist_revision`", 1),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    server: GistServer, quick: GistSettings, answer: Answer, said: str, requests: int
) -> None:
    server.answers[f"/gists/{ID}"] = answer
    quick = replace(quick, deadline=0.6 if "0.6" in said else 20.0)
    started = time.monotonic()
    assert said in message(quick)
    assert len(server.asked) == requests
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"raw_url": "https://evil.invalid/model.py"}, "another host"),
        ({"raw_url": "http://gist.githubusercontent.com/model.py"}, "another host"),
        ({"raw_url": "https://gist.githubusercontent.com.evil.invalid/"}, "another host"),
        ({"raw_url": "https://gist.githubusercontent.com@evil.invalid/"}, "another host"),
        ({"raw_url": "file:///etc/passwd"}, "another host"),
        ({"size": 10**9}, "larger than"),
        ({"size": len(MODEL) + 1}, "as the API says"),
    ],
)
def test_a_file_is_fetched_from_github_alone(server: GistServer, quick: GistSettings, change: dict[str, Any], said: str) -> None:
    server.publish(ID, {"model.py": server.file(ID, "model.py", MODEL) | {"truncated": True} | change})
    assert said in message(quick)
    assert len(server.asked) <= 2


def test_a_raw_file_that_redirects_elsewhere_is_refused(server: GistServer, quick: GistSettings) -> None:
    server.publish(ID, {"model.py": server.file(ID, "model.py", MODEL) | {"truncated": True}})
    server.answers[f"/raw/{ID}/model.py"] = status(301, Location="http://elsewhere.invalid/")
    assert "redirects to another host" in message(quick)


@pytest.mark.parametrize("name", ["../model.py", "a/b.py", "a\\b.py", ".bashrc", "..", "C:x.py", "a\x00.py", "", "x" * 300])
def test_a_file_cannot_be_called_what_leads_out_of_the_folder(server: GistServer, quick: GistSettings, name: str) -> None:
    server.publish(ID, {name: server.file(ID, "model.py", MODEL)})
    assert "a file of it is called" in message(quick)


def test_files_that_differ_in_case_alone_are_refused(server: GistServer, quick: GistSettings) -> None:
    server.publish(ID, {"Model.py": MODEL, "model.py": MODEL})
    assert "differ only in case" in message(quick)


@pytest.mark.parametrize("gist_id", ["../users/x", "a/b", "", "a?b", "https://gist.github.com/ada/abc"])
def test_an_id_is_no_path(server: GistServer, quick: GistSettings, gist_id: str) -> None:
    assert "expected only the id" in message(quick, gist_id)
    assert server.asked == []


def test_a_revision_is_a_commit(quick: GistSettings) -> None:
    assert "40 hexadecimal digits" in message(quick, ID, "main")


def test_a_base_url_without_encryption_is_refused() -> None:
    with pytest.raises(GistError, match="expected an https address"):
        GistSettings(base_url="http://api.github.invalid")


def test_nobody_reads_the_token_in_a_message(settings: GistSettings) -> None:
    assert "secret" not in repr(settings)


def test_which_file_holds_the_model(server: GistServer, settings: GistSettings) -> None:
    server.publish(ID, {"net.py": MODEL, "notes.md": "x"})
    assert open_gist(ID, settings=settings).model_file == "net.py"
    server.publish("two", {"a.py": MODEL, "b.py": MODEL})
    with pytest.raises(GistError, match=r"no model\.py.*it has a\.py, b\.py"):
        _ = open_gist("two", settings=settings).model_file
