"""A gist whose code the scan cannot see through, tested in isolation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx  # noqa: F401  # loads native code, which an in-process run must not unload
import onnxruntime  # noqa: F401
import pytest
from gist_server import MODEL, GistServer

import pytest_modeltiers.fixtures
import pytest_modeltiers.report
import pytest_modeltiers.terminal  # noqa: F401
from harness.catalogue import CATALOGUE
from harness.gists.cache import open_gist

pytestmark = [
    pytest.mark.usefixtures("environment"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs the sandbox of Linux"),
]

DODGES = "import numpy as np\nnp.zeros(4).tofile(MARK)\n"


def test_a_gist_is_fetched_here_and_run_there(server: GistServer, pytester: pytest.Pytester, tmp_path: Path) -> None:
    server.publish("sound", {"model.py": MODEL})
    server.publish("dodges", {"model.py": DODGES.replace("MARK", repr(str(tmp_path / "mark"))) + MODEL})
    keys = {
        "task_name": "lm_tiny",
        "tier": "1",
        "vocab_size": 32,
        "max_seq_len": 16,
        "isolation": "process",
        "properties": {name: False for name in CATALOGUE if name != "causal"},
    }
    for name in ("sound", "dodges"):
        (pytester.path / f"{name}.json").write_text(json.dumps(keys | {"gist_id": name, "gist_sha256": open_gist(name).sha256}))

    before = set(sys.modules)
    quiet = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    result = pytester.runpytest_inprocess(
        "--model-config", "sound.json", "--model-config", "dodges.json", "--continue-on-collection-errors", *quiet
    )

    assert result.parseoutcomes() == {"passed": 1, "errors": 1}
    result.stdout.fnmatch_lines(["*importing */model.py raised RefusedError: refused by isolation: the code writes */mark*"])
    assert not (tmp_path / "mark").exists()
    assert not any(name.startswith("model_") for name in set(sys.modules) - before)
