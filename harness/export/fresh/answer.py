"""The child of ``harness.export.fresh.answers``: loads one artifact, and gives or refuses an answer to one batch after another.

Started as ``python -m harness.export.fresh.answer REQUEST.json``. Each answer is on disk before the next batch is tried, as any may be the last.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.export.fresh.loaders import LOADERS
from harness.export.fresh.replay import STAGE, one_line, stored_batches


def main() -> int:
    """Answers the request named on the command line; returns the exit status."""
    import numpy as np

    path = Path(sys.argv[1]).resolve()
    request, folder = json.loads(path.read_text(encoding="utf-8")), path.parent
    _, load = LOADERS[request["format"]]
    run = load(request)
    assert run is not None, "weights alone answer nothing"
    for number, batch in enumerate(stored_batches(folder, request)):
        (folder / STAGE).write_text(str(number), encoding="utf-8")
        try:
            np.save(folder / f"{number}.npy", run(batch))
        except Exception as error:  # what a runtime raises has no base class of its own
            (folder / f"{number}.txt").write_text(one_line(error), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
