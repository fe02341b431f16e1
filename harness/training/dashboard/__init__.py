"""The dashboard of a training: its curves as a picture, and as a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from harness.files import write_whole
from harness.training.events import Plan
from harness.training.history import History

__all__ = ["write_dashboard"]

_NO_FACTS: Mapping[str, str] = MappingProxyType({})


def write_dashboard(history: History, plan: Plan, folder: Path, facts: Mapping[str, str] = _NO_FACTS) -> dict[str, Path]:
    """Writes the curves of a training as a picture, and as a page that needs nothing else.

    Args:
        history: What was measured so far; nothing at all is fine.
        plan: What was about to happen.
        folder: Where the files go; made if it is not there. Files of an earlier dashboard are replaced.
        facts: What else to say of the run, such as the values of its config, by label.

    Returns:
        ``png`` and ``html``, the paths of ``dashboard.png`` and ``dashboard.html``.

    Raises:
        OSError: The folder or the files cannot be written.
    """
    from harness.training.dashboard.charts import charts_of
    from harness.training.dashboard.page import to_html, to_png

    charts = charts_of(history, plan)
    contents = {"png": to_png(charts, history, plan), "html": to_html(charts, history, plan, facts).encode(errors="replace")}
    return {kind: write_whole(folder / f"dashboard.{kind}", content) for kind, content in contents.items()}
