"""A small run, its bundle, and bundles that were tampered with."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.config import load_config
from harness.experiments import ExperimentDB
from harness.models.loading import model_source
from harness.repro import create_repro_bundle, env_snapshot

MODEL = "from parts import body\n\ndef build_model():\n    return body()\n"
PARTS = "from torch import nn\n\ndef body():\n    return nn.Linear(3, 2)\n"
ADAPTER = "from harness.adapters import Adapter\n\nclass Own(Adapter):\n    pass\n"
CONFIG = {
    "task_type": "tabular_classification",
    "num_features": 3,
    "num_classes": 2,
    "model_file": "code/model.py",
    "adapter": "code/own.py:Own",
    "train": {"path": "rows.csv"},
    "run_name": "tiny run",
}

LOSSES = [1.0, *(0.5 for _ in range(10)), 0.25]


def log(config: Path, db_path: Path, losses: list[float]) -> None:
    loaded = load_config(config)
    with ExperimentDB(db_path) as db, db.start_run(config=loaded, facts={"config_path": str(config)}) as run:
        for step, loss in enumerate(losses):
            run.log_metrics({"val_loss": loss, "seconds": step * 1.5}, step)


def trainer(losses: list[float]) -> Callable[[Path], Mapping[str, Any]]:
    def train(config: Path) -> Mapping[str, Any]:
        loaded = load_config(config)
        model_source(loaded).build()
        assert (config.parent / str(loaded.train and loaded.train.path)).is_file()
        log(config, config.parent / "experiments.db", losses)
        return {}

    return train


@cache
def snapshot() -> dict[str, Any]:
    """That of this process, which takes a while."""
    return env_snapshot()


def made(project: Path, **options: Any) -> Path:
    options = {"env_snapshot": snapshot(), **options}
    return create_repro_bundle(1, db=project / "runs.db", output_dir=project.parent / "out", **options)


def make_project(folder: Path) -> Path:
    """A config with everything it names, and a run of it in ``runs.db``."""
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "model.py").write_text(MODEL)
    (folder / "code" / "parts.py").write_text(PARTS)
    (folder / "code" / "own.py").write_text(ADAPTER)
    (folder / "code" / "unrelated.py").write_text("raise SystemExit")
    (folder / "rows.csv").write_text("a,b,c,label\n" + "1,2,3,0\n4,5,6,1\n" * 10)
    (folder / "cfg.json").write_text(json.dumps(CONFIG))
    log(folder / "cfg.json", folder / "runs.db", LOSSES)
    return folder


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def tampered(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def relisted(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A bundle with other files, and a manifest that agrees with them, as whoever changed them would make it."""

    def tamper(files: dict[str, bytes]) -> None:
        change(files)
        manifest = json.loads(files.pop("manifest.json"))
        manifest["files"] = {name: {"sha256": sha256(text).hexdigest(), "bytes": len(text)} for name, text in files.items()}
        files["manifest.json"] = json.dumps(manifest).encode()

    return tampered(path, tamper)


def edited_config(path: Path, **values: Any) -> Path:
    """A bundle whose config has other values; ``None`` removes one."""

    def edit(files: dict[str, bytes]) -> None:
        config = {**json.loads(files["config.json"]), **values}
        files["config.json"] = json.dumps({key: value for key, value in config.items() if value is not None}).encode()

    return relisted(path, edit)
