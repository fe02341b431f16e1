"""Times how long it takes to find the first wrong operator of an ONNX file, beside PyTorch's own comparison of intermediates.

    python benchmarks/localisation.py [--rounds 3]

One tiny language model is exported; in its file an Add becomes a Sub. ``blame_onnx`` looks for it, a minimal failing file included, and
``torch.onnx.verification.verify_onnx_program`` compares the intermediates of the same export. Each gets one round unmeasured, as both
import on first use. In a second file a Neg is put in, which nothing else in the file gives away, so that the model is exported anew to
tell whether the exporter is at fault. Printed are the medians in seconds, their ratios, and what was found, as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.onnx.verification import verify_onnx_program

from harness.adapters import make_adapter
from harness.batches import Sizes, make_batch
from harness.export.blame import Blame
from harness.export.blame.onnx_files import blame_onnx
from harness.export.formats.exported_program import capture, quiet
from harness.export.formats.onnx import ONNXExporter
from harness.export.program import Program, make_program
from harness.models.stubs import LMStub
from harness.runtime import threads_for
from harness.tasks import TaskSpec, TaskType

TASK = TaskSpec(TaskType.CAUSAL_LM, vocab_size=64, max_seq_len=16)
BOUND = 1e-5


def tiny_program() -> Program:
    torch.manual_seed(0)
    sizes = Sizes(3, 11)
    model = LMStub(64, 16, width=32, depth=2, heads=2).eval()
    return make_program(model, make_adapter(TASK), TASK, make_batch(TASK, sizes), sizes)


def break_node(path: Path) -> str:
    """Makes the last residual addition but one a subtraction; gives its name."""
    model = onnx.load(path)
    made = {name for node in model.graph.node for name in node.output}
    residual = [n for n in model.graph.node if n.op_type == "Add" and set(n.input) <= made and n.name.startswith("node_add")]
    residual[-2].op_type = "Sub"
    onnx.save(model, path)
    return str(residual[-2].name)


def add_node(path: Path) -> None:
    """Negates what the last Gelu reads."""
    model = onnx.load(path)
    nodes = model.graph.node
    gelu = next(node for node in reversed(nodes) if node.op_type == "Gelu")
    nodes.insert(list(nodes).index(gelu), onnx.helper.make_node("Neg", [gelu.input[0]], ["negated"], name="planted"))
    gelu.input[0] = "negated"
    onnx.save(model, path)


def seconds(call: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Median of some calls after one that is not measured, and what the last gave."""
    times, result = [], call()
    for _ in range(rounds):
        begin = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    program = tiny_program()
    with tempfile.TemporaryDirectory() as folder, threads_for(program.forward):
        path, other = Path(folder) / "model.onnx", Path(folder) / "other.onnx"
        ONNXExporter().export(program, path)
        shutil.copy(path, other)
        broken = break_node(path)
        add_node(other)
        batch = make_batch(TASK, Sizes(2, 13), seed=1)

        def ours(file: Path) -> Blame:
            return blame_onnx(file, program, batch, BOUND, Path(folder) / "failing")

        with quiet():
            exported: Any = torch.onnx.export(
                capture(program).program, program.arguments, dynamo=True, optimize=False, verbose=False
            )

        def theirs() -> Any:
            with quiet():
                return verify_onnx_program(exported, program.arguments, compare_intermediates=True)

        blame_seconds, blame = seconds(lambda: ours(path), rounds)
        anew_seconds, anew = seconds(lambda: ours(other), rounds)
        verify_seconds, values = seconds(theirs, 1)
    report = {
        "blame_onnx_seconds": round(blame_seconds, 3),
        "with_a_fresh_export_seconds": round(anew_seconds, 3),
        "verify_onnx_program_seconds": round(verify_seconds, 3),
        "ratio": round(blame_seconds / verify_seconds, 4),
        "ratio_with_a_fresh_export": round(anew_seconds / verify_seconds, 4),
        "planted": broken,
        "found": blame.operator,
        "module": blame.module,
        "line": blame.line,
        "at_fault": blame.at_fault,
        "found_with_a_fresh_export": anew.operator,
        "failing_file": blame.failing_file is not None,
        "values_compared_by_verify": len(values),
    }
    print(json.dumps(report, indent=2))
    return 0 if broken in blame.operator and "planted" in anew.operator and report["ratio"] <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
