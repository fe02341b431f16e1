"""From a gist's id to its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.gists import cache
from harness.gists.admission import admit
from harness.gists.client import fetch_gist
from harness.gists.consent import trust as remember_trust
from harness.gists.gist import Gist, check_id, check_revision
from harness.gists.settings import GistSettings

if TYPE_CHECKING:
    from torch import nn


class TakesFacts(Protocol):
    """A run of an experiment database, to which facts can be added."""

    def add_facts(self, **facts: Any) -> None:
        """Adds facts to those the run has."""


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
    kept = cache.find(gist_id, check_revision(revision), settings) if revision else None
    if kept is not None:
        return kept
    gist = fetch_gist(gist_id, revision, settings)
    return cache.find(gist.id, gist.revision, settings) or cache.keep(gist, settings)


def load_gist_model(
    gist_id: str,
    revision: str | None = None,
    *,
    factory: str = "build_model",
    model_kwargs: Mapping[str, Any] | None = None,
    sha256: str | None = None,
    trust: bool = False,
    seed: int = 0,
    run: TakesFacts | None = None,
    show: Callable[[str], object] | None = print,
    settings: GistSettings | None = None,
) -> nn.Module:
    """Builds the model of a gist, in this process, which runs the gist's code.

    Args:
        gist_id: Its id.
        revision: The commit; the latest by default.
        factory: Callable in its ``model.py`` that returns the model.
        model_kwargs: Keyword arguments of the factory.
        sha256: The hash that its files must have.
        trust: Whether these very files are trusted, whatever the scan finds; remembered.
        seed: Seed of fresh weights.
        run: A run whose facts get ``gist_id``, ``revision`` and ``sha256``.
        show: Takes a description of the gist before its code runs.
        settings: How it is fetched; by default what the environment says.

    Returns:
        The model in eval mode.

    Raises:
        GistError: It cannot be had, or has another hash.
        UntrustedCodeError: The scan found something, and the files are not trusted.
        ModelSourceError: Its file does not import.
        FactoryError: The factory is missing or fails.
    """
    from harness.models.loading import source_of_file

    settings = settings or GistSettings.from_environment()
    gist = open_gist(gist_id, revision, settings)
    if show is not None:
        show(describe(gist))
    if trust and sha256 in (None, gist.sha256):
        remember_trust(gist, settings.consent)
    admit(gist, sha256, settings)
    if run is not None:
        run.add_facts(**gist.facts)
    return source_of_file(model_path(gist), "gist_id", factory, kwargs=dict(model_kwargs or {})).build(seed)


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
    return (
        f"gist {gist.id} by {gist.owner or 'nobody'}\n  revision  {gist.revision}\n  sha256    {gist.sha256}\n  files     {files}"
    )
