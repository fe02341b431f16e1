"""A user's own checks, which join the suite and the report of every model config.

In a ``conftest.py``::

    from pytest_modeltiers.checks import model_check

    @model_check(tier=1, statement="Logits stay below 50")
    def logits_are_modest(subject):
        assert subject.logits(subject.batch()).abs().max() < 50

The function may ask for any fixture by name. It fails by an assertion, or returns ``Evidence`` (harness.evidence), whose status,
message and blame the report then shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.evidence import Evidence

FOUND: ContextVar[dict[str, Any] | None] = ContextVar("FOUND", default=None)
"""What the user's check that runs now has found."""

REGISTERED: dict[str, ModelCheck] = {}
"""Checks made by the decorator, by name."""


@dataclass(frozen=True)
class ModelCheck:
    """A check of the user's own.

    Attributes:
        function: Takes fixtures by name.
        tier: Tier whose class it joins.
        statement: What must hold, for the report.
    """

    function: Callable[..., Any]
    tier: int = 1
    statement: str = ""

    @property
    def name(self) -> str:
        """Name of the check; its test is ``test_<name>``."""
        return self.function.__name__.removeprefix("test_")


def model_check(tier: int = 1, statement: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as a check of every model config.

    Args:
        tier: 1 to 5.
        statement: What must hold; by default the first line of the docstring.

    Raises:
        ValueError: The tier does not exist.
    """
    if tier not in range(1, 6):
        raise ValueError(f"tier must be 1 to 5, got {tier}")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        text = statement or (function.__doc__ or "").strip().split("\n")[0].rstrip(".")
        check = ModelCheck(function, tier, text)
        REGISTERED[check.name] = check
        return function

    return register


def as_test(check: ModelCheck) -> Callable[..., None]:
    """A user's check as a test function: what it returns is its verdict, and an assertion that fails is one too."""
    from harness.evidence import Evidence

    @functools.wraps(check.function)
    def test(*args: Any, **kwargs: Any) -> None:
        finding: dict[str, Any] = {
            "property": check.name,
            "statement": check.statement,
            "evidence": None,
            "examples": 1,
            "cut": False,
        }
        FOUND.set(finding)
        try:
            result = check.function(*args, **kwargs)
        except AssertionError as error:
            finding["evidence"] = _of_assertion(check, error).to_json()
            raise
        if result is False:
            result = Evidence.failed(check.name, check.statement or f"{check.name} does not hold")
        if isinstance(result, Evidence):
            result = result.investigated()
            finding["evidence"] = result.to_json()

    return test


def _of_assertion(check: ModelCheck, error: AssertionError) -> Evidence:
    """What an assertion of the user's says, in one line; the statement where it has no message."""
    from harness.evidence import Evidence
    from harness.properties.places import raising_line

    said = str(error).strip().partition("\n")[0]
    statement = check.statement or f"{check.name} does not hold"
    told = f"{statement}: {said}" if said.startswith("assert ") else said or statement
    return Evidence.failed(check.name, told, place=raising_line(error))
