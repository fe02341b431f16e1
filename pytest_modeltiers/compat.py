"""Every private part of pytest and Hypothesis that the plugin uses, and what happens in a version without it.

All of it was seen in pytest 9.2 and Hypothesis 6.170.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def fixtures_by_name(item: pytest.Item) -> dict[str, Any]:
    """The definitions of every fixture that a test may ask for, the one that counts last: ``item._fixtureinfo``.

    pytest has no public way to ask whether a user's fixture took the place of ours. Without it, tests that ask for ours are errors.
    """
    found: dict[str, Any] = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    return found


_OWN_PACKAGES = ("harness", "pytest_modeltiers")


@contextmanager
def modules_may_raise() -> Iterator[None]:
    """Drawing continues where a loaded module raises when it is asked for its file: ``providers._get_local_constants``.

    Hypothesis looks for constants in every loaded module. A module that is imported at its first use (speechbrain has such) may lack a
    package then, and its ImportError would end the draw. Without this private part that error is reported as an internal one.

    Our own modules are marked as read (``providers._seen_modules``): they have no constants of the model, an installed package is not
    read either, and reading them takes a second. Without that private part a checkout draws other sizes than an installed package.
    """
    try:
        from hypothesis.internal.conjecture import providers

        search = providers._get_local_constants
    except (ImportError, AttributeError):
        yield
        return

    read = getattr(providers, "_seen_modules", None)

    def search_guarded() -> Any:
        if isinstance(read, set):
            read.update(id(module) for name, module in [*sys.modules.items()] if name.partition(".")[0] in _OWN_PACKAGES)
        try:
            return search()
        except Exception:
            return providers._local_constants

    providers._get_local_constants = search_guarded
    try:
        yield
    finally:
        providers._get_local_constants = search
