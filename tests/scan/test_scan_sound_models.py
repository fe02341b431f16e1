"""Models that are known to be sound: not one finding."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from harness.scan import scan_source

ROOT = Path(__file__).parents[2]
SAVE_THEMSELVES = ("loaded.py", "tabular.py")
"""Models with a ``save_pretrained`` or ``save``, which write files and are told so."""

OWN = [
    *sorted(p for p in (ROOT / "tests" / "planted_bugs" / "tier1").glob("*.py") if p.name not in SAVE_THEMSELVES),
    ROOT / "harness" / "models" / "stubs.py",
    *sorted((ROOT / "examples").rglob("*model*.py")),
]
EVERY = 20


def files_of_transformers() -> list[Path]:
    spec = importlib.util.find_spec("transformers")
    folder = Path(spec.origin).parent / "models" if spec is not None and spec.origin else Path("nowhere")
    return sorted(folder.glob("*/modeling_*.py"))[::EVERY]


@pytest.mark.parametrize("path", [*OWN, *files_of_transformers()], ids=lambda path: path.name)
def test_a_sound_model_has_no_finding(path: Path) -> None:
    assert scan_source(path.read_bytes(), path.name) == []
