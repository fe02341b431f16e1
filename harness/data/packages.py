"""Packages that only some data needs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from harness.errors import MissingPackageError


def optional_package(module: str, purpose: str) -> Any:
    """Imports a module of an optional package.

    Args:
        module: The module's full name.
        purpose: What needs it, to begin the message with.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = {"PIL": "pillow"}.get(module.partition(".")[0], module.partition(".")[0])
        raise MissingPackageError(
            f"{purpose} needs {package}, not installed here: pip install 'pytest-modeltiers[data]'"
        ) from error
