"""The weights that a run ended with: a reference profile of the run is one of its model's answers too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.experiments.run_parts import measure

if TYPE_CHECKING:
    from harness.experiments.database import ExperimentDB
    from harness.experiments.records import RunRef

_LAST = "checkpoint"


@dataclass(frozen=True)
class RunWeights:
    """The last checkpoint of a run, or why it cannot be used.

    Attributes:
        path: The file; ``None`` where it cannot be used.
        lacking: Why, in words; empty where it can.
    """

    path: Path | None
    lacking: str = ""


def weights_of_run(db: ExperimentDB, run: RunRef) -> RunWeights:
    """The last checkpoint of a run, whose weights are those that its stored scores are of.

    Args:
        db: The database.
        run: The run.

    Raises:
        UnknownRunError: There is no such run.
    """
    logged = [artifact for artifact in db.get_artifacts(run) if artifact.kind == _LAST]
    if not logged:
        return RunWeights(None, "the run has no checkpoint")
    path = Path(logged[-1].path)
    if not path.is_file():
        return RunWeights(None, f"the run's checkpoint {path} is gone")
    if measure(path).sha256 != logged[-1].sha256:
        return RunWeights(None, f"the run's checkpoint {path} was written to since")
    return RunWeights(path)
