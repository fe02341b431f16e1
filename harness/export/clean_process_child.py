"""The process that loads one exported file, runs it on the batches of a request, and writes what it saw and measured.

Started by ``harness.export.clean_process`` with the path of a request. An exporter's module and what stands at the top of this file are
all that a file meets besides NumPy and the runtime of its format.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import LeavesProcessError
from harness.files import replacing, write_whole
from harness.processes import without_collector

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from harness.export.formats import Arrays, Exporter, Run
    from harness.export.formats.weights_files import TensorFacts

ANSWER, INPUTS, OUTPUTS, STAGE = "answer.json", "inputs.npz", "outputs.npz", "stage"
"""Names of the files that lie beside the request."""

_REBUILDING = ("harness.config", "harness.adapters", "harness.models.loading", "harness.export.program")
"""What a model is built with, for formats that hold only weights."""

_FURTHER_CALLS = 5
_FURTHER_SECONDS = 2.0
_LONGEST_LINE = 1000
_SHOWN = 3


class MisfitError(ValueError):
    """The file loads, and does not hold the weights that it should."""


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
        exporter = requested_exporter(self.request)
        rebuilds = exporter.kind == "weights" and bool(self.request["config"])
        with self._timed("import_seconds", "importing"), without_collector():
            for name in ("numpy", *exporter.runs_with, *(_REBUILDING if rebuilds else ())):
                importlib.import_module(name)
        with self._timed("load_seconds", "loading"):
            run = load(exporter, self.request)
        if run is None:
            return
        batches = stored_batches(self.folder, self.request)
        with self._timed("first_call_seconds", "running"):
            first = run(batches[0])
        self.answer["warm_call_seconds"] = _median_call(run, batches[0])
        outputs = [first, *(run(batch) for batch in batches[1:])]
        _write_arrays(self.folder / OUTPUTS, [array for found in outputs for array in _in_order(found, self.request)])

    @contextmanager
    def _timed(self, key: str, stage: str) -> Iterator[None]:
        self.stage = stage
        (self.folder / STAGE).write_text(stage, encoding="utf-8")  # for the parent, should this process not live to say it
        begin = time.perf_counter()
        yield
        self.answer[key] = time.perf_counter() - begin


def answer_each(request: dict[str, Any], folder: Path) -> None:
    """Runs one batch after another; each answer is on disk before the next batch is tried, as any may be the last."""
    run = load(requested_exporter(request), request)
    assert run is not None, "weights answer nothing"
    for number, batch in enumerate(stored_batches(folder, request)):
        (folder / STAGE).write_text(str(number), encoding="utf-8")
        try:
            _write_arrays(folder / f"{number}.npz", _in_order(run(batch), request))
        except Exception as error:  # what runtimes raise shares no base class
            (folder / f"{number}.txt").write_text(one_line(error), encoding="utf-8")


def requested_exporter(request: dict[str, Any]) -> Exporter:
    """The exporter that a request names by its module and class."""
    module, _, name = request["exporter"].partition(":")
    exporter: Exporter = getattr(importlib.import_module(module), name)()
    return exporter


def load(exporter: Exporter, request: dict[str, Any]) -> Run | None:
    """The file as a function from named arrays to its outputs; ``None`` of weights that no config says how to run, once they are checked."""
    if exporter.kind == "weights":
        return _with_weights(exporter, request)
    run: Run = exporter.standalone[-1](request["artifact"], request["fields"], request["threads"])
    return run


def _with_weights(exporter: Exporter, request: dict[str, Any]) -> Run | None:
    """Runs a model built from its config with the weights; without a config, compares them with what is expected."""
    import torch

    from harness.export.formats import by_position
    from harness.export.formats.weights_files import TensorFacts, facts_of

    torch.set_num_threads(request["threads"])
    state = exporter.read_weights(Path(request["artifact"]))
    if not request["config"]:
        if request["expected"] is None:
            raise MisfitError("there is nothing to compare its weights with, and no config says how to build the model")
        _check(state, {name: TensorFacts.from_json(entry) for name, entry in request["expected"].items()})
        return None
    from harness.adapters import make_adapter
    from harness.config import load_config
    from harness.export.program import OutputsOf

    config = load_config(request["config"])
    model = _build(config)
    _check(state, facts_of(model.state_dict(), values=False))
    model.load_state_dict(state, strict=False)  # what is missing now is tied to something that is there
    adapter = make_adapter(config.task_spec(), config.adapter, config.path.parent)
    forward = OutputsOf(model, adapter, tuple(request["fields"]), tuple(request["outputs"]))
    return by_position(forward, request["fields"], request["threads"])


def _build(config: Any) -> nn.Module:
    """The config's model with fresh weights, on the CPU."""
    from dataclasses import replace

    from harness.models.loading import model_source

    return replace(model_source(config), weights=None, device="cpu").build()


def _check(state: dict[str, Any], expected: Mapping[str, TensorFacts]) -> None:
    from harness.export.formats.weights_files import misfits

    wrong = misfits(state, expected)
    if wrong:
        raise MisfitError("its weights do not fit: " + "; ".join(f"{what}: {_shown(names)}" for what, names in wrong.items()))


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _in_order(found: Any, request: dict[str, Any]) -> list[Any]:
    """What a file returned, in the order of the model's outputs."""
    from harness.export.formats import outputs_by_name

    return list(outputs_by_name(request["outputs"], found).values())


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
    kind = "" if isinstance(error, LeavesProcessError) else f"{type(error).__name__}: "
    return f"{kind}{line[:_LONGEST_LINE]}"


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
    # In the order of the process that asks, where a package of the user's comes before an installed one of its name.
    sys.path[:] = [*request["import_paths"], *(entry for entry in sys.path if entry not in request["import_paths"])]
    if request["one_by_one"]:
        answer_each(request, path.parent)
        return 0
    answer = Replay(request, path.parent).run()
    write_whole(path.with_name(ANSWER), json.dumps(answer))
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
