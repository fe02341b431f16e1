"""A server that plays the API, and settings and an environment that lead to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gist_server import GistServer

from harness.gists import GistSettings


@pytest.fixture
def server() -> Iterator[GistServer]:
    server = GistServer()
    yield server
    server.close()


@pytest.fixture
def environment(server: GistServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELTIERS_GIST_API", server.url)
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setenv("MODELTIERS_GISTS", str(tmp_path / "gists"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    # A proxy between the test and its own server would answer in its place.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def settings(environment: None) -> GistSettings:
    return GistSettings.from_environment()
