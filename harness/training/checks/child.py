"""A process that does one piece of work and writes down what came of it; started by ``harness.training.checks.processes``."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.training.checks.parcel import Parcel
from harness.user_code import raised

PARCEL, ANSWER, STAGE = "parcel", "answer", "stage"
"""Names of the files in a child's folder."""


def main() -> int:
    """Answers the parcel in the folder that the command line names; returns the exit status."""
    folder = Path(sys.argv[1]).resolve()
    answer: dict[str, Any] = {"unpacked": False, "error": "", "text": "", "kind": "", "result": None}
    try:
        _note(folder, "starting")
        work, content, settings = Parcel.read(folder / PARCEL).unpack()
        answer["unpacked"] = True
        _note(folder, "working")
        settings.apply()
        answer["result"] = work(content)
    except (Exception, SystemExit) as error:
        answer["error"] = str(error) if isinstance(error, UserError) else raised(error)
        answer["text"], answer["kind"] = str(error), type(error).__name__
    _write(folder, answer)
    sys.stdout.flush()
    # A process group that waits for a process which is gone would keep this one from ending.
    os._exit(1 if answer["error"] else 0)


def _note(folder: Path, stage: str) -> None:
    (folder / STAGE).write_text(stage, encoding="utf-8")  # for the parent, should this process not live to say it


def _write(folder: Path, answer: dict[str, Any]) -> None:
    aside = folder / f"aside-{ANSWER}"
    with aside.open("wb") as file:
        pickle.dump(answer, file)
    os.replace(aside, folder / ANSWER)


if __name__ == "__main__":
    main()
