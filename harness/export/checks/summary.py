"""Tier 4 in a few figures a format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.evidence import Evidence, Status


def summary_of(found: dict[str, Evidence]) -> dict[str, Any]:
    """``{status, max_abs_diff, max_rel_diff, latency_ms, path, checks}`` from the evidence of one format's checks."""

    def detail(check: str, *keys: str) -> Any:
        value: Any = found[check].details if check in found else {}
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return {
        "status": overall(evidence.status.value for evidence in found.values()),
        "max_abs_diff": detail("numerical_consistency", "max_abs_diff"),
        "max_rel_diff": detail("numerical_consistency", "max_rel_diff"),
        "latency_ms": detail("performance_benchmark", "artifact", "p50"),
        "path": detail("exports", "path"),
        "checks": {name: {"status": e.status.value, "message": e.headline} for name, e in found.items()},
    }


def overall(statuses: Iterable[str]) -> str:
    """The worst status; ``skipped`` only where everything was."""
    found = set(statuses)
    return next((status for status in ("fail", "warn", "ok", "skipped") if status in found), Status.SKIPPED.value)
