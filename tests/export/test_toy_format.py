"""A format is one file and one line: two that another package adds get by themselves what every format has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs" / "extending.md"

TRACED = '''
from harness.export.formats import Attempt, Exported, Exporter, by_position


def load_traced(path, inputs, threads=0):
    import torch

    return by_position(torch.jit.load(path), inputs, threads)


class TracedExporter(Exporter):
    """TorchScript under another name."""

    name = "traced"
    filename = "model.traced"
    standalone = (by_position, load_traced)

    def export(self, program, path):
        import torch

        torch.jit.trace(program.forward, program.arguments, check_trace=False).save(str(path))
        return Exported((Attempt("trace"),))

    def load(self, path, program):
        import torch

        module = torch.jit.load(str(path))
        return lambda batch: module(*program.ordered(batch)).detach()
'''

MODEL = """
from torch import nn

class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(5, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, features):
        return self.head(self.hidden(features).tanh())

build_model = Scores
"""

OF_EVERY_FILE = {"exports", "validation", "fresh_process", "numerical_consistency", "performance_benchmark"}
OF_COMPUTATIONS = {"dynamic_axes", "inference_mode", "invalid_input"}


@dataclass(frozen=True)
class Place:
    """A folder with a model, its config, and a package that adds two formats."""

    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.folder / "package"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "MODELTIERS_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def modeltiers(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "harness", *arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("toy")
    package = folder / "package"
    facts = package / "toy_formats-1.0.dist-info"
    facts.mkdir(parents=True)
    snippet = GUIDE.read_text(encoding="utf-8").partition('title="npz_format.py"\n')[2].partition("```")[0]
    (package / "npz_format.py").write_text(snippet)
    (package / "traced_format.py").write_text(TRACED)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-formats\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[modeltiers.formats]\nnpz = npz_format:NpzExporter\ntraced = traced_format:TracedExporter\nbroken = nowhere:Exporter\n"
    )
    (folder / "model.py").write_text(MODEL)
    keys = {"task_type": "tabular_classification", "num_features": 5, "num_classes": 3, "model_file": "model.py", "tier": "4"}
    for name, formats in {"cfg": ["npz", "traced"], "mistaken": ["npzz", "broken"]}.items():
        (folder / f"{name}.json").write_text(json.dumps({**keys, "export": {"formats": formats, "export_dir": "files"}}))
    (folder / "pytest.ini").write_text("[pytest]\n")
    return Place(folder)


@pytest.fixture(scope="module")
def verdicts(place: Place) -> dict[str, str]:
    """The verdict of each test of tier 4 by its name, of a run of pytest."""
    done = place.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--model-config", "cfg.json", "--model-report", "report")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    report = json.loads((place.folder / "report" / "health_report.json").read_text())
    return {check["check_name"].partition("::")[2]: check["status"] for check in report["checks"]}


@pytest.mark.parametrize(("format", "expected"), [("npz", OF_EVERY_FILE), ("traced", OF_EVERY_FILE | OF_COMPUTATIONS)])
def test_it_has_the_tests_of_its_kind_and_passes(format: str, expected: set[str], verdicts: dict[str, str]) -> None:
    found = {name.partition("[")[0]: status for name, status in verdicts.items() if name.endswith(f"[{format}]")}
    assert found.keys() == expected
    assert "failed" not in found.values()


def test_the_command_exports_it(place: Place) -> None:
    done = place.modeltiers("export", "--config", "cfg.json", "--format", "npz", "--output", "made", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["export"] == {"npz": str(Path("made") / "model.npz")}


def test_a_bundle_runs_and_verifies_it(place: Place) -> None:
    done = place.modeltiers("bundle", "--config", "cfg.json", "--no-health", "--output", "bundle")
    assert done.returncode == 0, done.stderr
    readme = (place.folder / "bundle" / "README.md").read_text()
    assert "| traced | `artifacts/model.traced` |" in readme
    assert "python inference.py --format traced" in readme
    script = place.run("bundle/inference.py", "--format", "traced", "--golden")
    assert script.returncode == 0, script.stderr
    verified = place.modeltiers("bundle", "verify", "bundle", "--json")
    found = {finding["name"]: finding["status"] for finding in json.loads(verified.stdout)["findings"]}
    assert {name: found[name] for name in ("npz", "traced", "inference.py")} == dict.fromkeys(
        ("npz", "traced", "inference.py"), "ok"
    )


def test_the_schema_and_the_table_of_the_documentation_have_it(place: Place) -> None:
    code = "import json, reference; from harness.config import json_schema; print(json.dumps([json_schema(), reference.exporters()]))"
    done = place.run("-c", f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); {code}")
    assert done.returncode == 0, done.stderr
    schema, table = json.loads(done.stdout)
    assert {"npz", "traced"} <= set(schema["$defs"]["ExportConfig"]["properties"]["formats"]["items"]["enum"])
    assert "| `npz` | `model.npz` | weights |" in table
    assert "| `traced` | `model.traced` | computation |" in table


def test_a_misspelt_name_has_a_suggestion_and_a_broken_package_is_named(place: Place) -> None:
    done = place.modeltiers("export", "--config", "mistaken.json")
    assert done.returncode == 2
    assert '`export.formats.0`: got "npzz"' in done.stderr
    assert "Did you mean 'npz'?" in done.stderr
    named = place.modeltiers("export", "--config", "cfg.json", "--format", "broken", "--output", "made")
    assert named.returncode == 2
    assert (
        "the format 'broken' cannot be loaded: the entry point 'nowhere:Exporter' of toy-formats: ModuleNotFoundError"
        in named.stderr
    )
