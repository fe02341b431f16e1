"""The child of a fresh run: loads one artifact, runs it on golden inputs, and writes what it saw and measured.

Started as ``python -m harness.export.fresh.replay REQUEST.json`` by ``harness.export.fresh.run``. What stands at the top of this file and of
``harness.export.fresh.loaders`` is all that an ONNX artifact meets besides NumPy and ONNX Runtime.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.export.fresh.loaders import LOADERS, REBUILDING, WEIGHTS_ONLY
from harness.files import replacing, write_whole

if TYPE_CHECKING:
    import numpy as np

    from harness.export.fresh.loaders import Arrays, Run

ANSWER, INPUTS, OUTPUTS, STAGE = "answer.json", "inputs.npz", "outputs.npz", "stage"
"""Names of the files that lie beside the request."""

_FURTHER_CALLS = 5
_FURTHER_SECONDS = 2.0
_LONGEST_LINE = 1000


class Replay:
    """One run of one artifact.

    Attributes:
        request: What the parent asked for.
        folder: Where the files of the run lie.
        answer: What was measured so far, in seconds and bytes.
        stage: What is being done, for messages.
    """

    def __init__(self, request: dict[str, Any], folder: Path) -> None:
        self.request = request
        self.folder = folder
        self.answer: dict[str, Any] = {}
        self.stage = "starting"

    def run(self) -> dict[str, Any]:
        """Does it; whatever is raised becomes the answer's ``error``."""
        try:
            self._run()
        except (Exception, SystemExit) as error:
            self.answer["error"] = f"{self.stage} raised {one_line(error)}"
        self.answer["peak_bytes"] = _peak_bytes()
        self.answer["packages"] = _packages()
        return self.answer

    def _run(self) -> None:
        kind = self.request["format"]
        imports, load = LOADERS[kind]
        rebuilds = bool(self.request["config"])
        with self._timed("import_seconds", "importing"):
            for name in (*imports, *(REBUILDING if rebuilds and kind in WEIGHTS_ONLY else ())):
                importlib.import_module(name)
        with self._timed("load_seconds", "loading"):
            run = load(self.request)
        if run is None:
            return
        batches = stored_batches(self.folder, self.request)
        with self._timed("first_call_seconds", "running"):
            first = run(batches[0])
        self.answer["warm_call_seconds"] = _median_call(run, batches[0])
        outputs = [first, *(run(batch) for batch in batches[1:])]
        _write_arrays(self.folder / OUTPUTS, outputs)

    @contextmanager
    def _timed(self, key: str, stage: str) -> Iterator[None]:
        self.stage = stage
        (self.folder / STAGE).write_text(stage, encoding="utf-8")  # for the parent, should this process not live to say it
        begin = time.perf_counter()
        yield
        self.answer[key] = time.perf_counter() - begin


def stored_batches(folder: Path, request: dict[str, Any]) -> list[Arrays]:
    """The inputs of a request, which are stored field by field, batch by batch."""
    import numpy as np

    with np.load(folder / INPUTS, allow_pickle=False) as stored:
        arrays = iter([stored[name] for name in stored.files])
    return [{name: next(arrays) for name in request["fields"]} for _ in range(request["batches"])]


def _median_call(run: Run, batch: Arrays) -> float:
    """Seconds of the median of a few calls, of fewer where they are long."""
    times: list[float] = []
    while not times or (len(times) < _FURTHER_CALLS and sum(times) < _FURTHER_SECONDS):
        begin = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def _peak_bytes() -> int | None:
    """Most memory this process held at once, in bytes; ``None`` where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's ru_maxrss starts at what the parent held when it forked
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), "")
        if line:
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _packages() -> list[str]:
    """Packages imported so far, other than the standard library and private modules."""
    tops = {name.partition(".")[0] for name in sys.modules}
    return sorted(top for top in tops - sys.stdlib_module_names if not top.startswith("_"))


def one_line(error: BaseException) -> str:
    """The line of an exception that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    line = lines[-1] if "TorchScript interpreter" in lines[0] else lines[0]
    line = next((line for line in lines if "unsupported" in line.lower()), line)  # torch.load says it in its third line or later
    return f"{type(error).__name__}: {line[:_LONGEST_LINE]}"


def _write_arrays(path: Path, arrays: list[np.ndarray[Any, Any]]) -> None:
    import numpy as np

    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, *arrays)


def main() -> int:
    """Answers the request named on the command line; returns the exit status."""
    path = Path(sys.argv[1]).resolve()
    request = json.loads(path.read_text(encoding="utf-8"))
    if request["run_in"]:
        os.chdir(request["run_in"])
    sys.path.extend(entry for entry in request["import_paths"] if entry not in sys.path)
    answer = Replay(request, path.parent).run()
    write_whole(path.with_name(ANSWER), json.dumps(answer))
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
