"""Twelve kinds of models: from the file alone to a report, by ``init``, a few lines of the user's, and one more command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fences import DOCS, fences
from page_run import PageRun

from harness.cli import main
from harness.config import load_config
from harness.evidence import Status
from harness.models.loading import model_source
from pytest_modeltiers.live import judge_model

Keys = dict[str, Any]

_CLASSES = {"kind": "class_scores"}

KINDS: dict[str, Keys] = {
    "segmentation": {"outputs": {"output": {**_CLASSES, "classes": 1}}},
    "forecasting": {"outputs": {"output": {"loss": "l1"}}},
    "recommender": {"outputs": {"output": {"kind": "binary_scores"}}},
    "graphs": {"outputs": {"output": _CLASSES}, "axes": {"nodes": {"order": "none"}, "edges": {"order": "none"}}},
    "point_clouds": {"outputs": {"output": _CLASSES}, "axes": {"time": {"order": "none"}}},
    "speech": {"outputs": {"0": {"kind": "ctc_scores"}}, "axes": {"time": {"min": 4, "padding": "right"}}},
    "diffusion": {"outputs": {"output": {"loss": "huber"}}},
    "autoencoders": {
        "inputs": {"x": {"values": {"range": [0, 1]}}},
        "outputs": {"0": {"name": "recon", "at": 0, "fits": False}, "mu": {"kind": "other"}, "logvar": {"kind": "other"}},
        "labels": {"recon": {"from": "x"}},
        "loss": ":vae_loss",
    },
    "detection": {
        "outputs": {"pred_logits": {**_CLASSES, "fits": False}, "pred_boxes": {"fits": False}},
        "labels": {
            "classes": {"axes": ["batch", "objects"], "values": {"ids": 4}},
            "boxes": {"axes": ["batch", "objects", 4], "values": {"range": [0, 1]}},
            "count": {"axes": ["batch"], "values": {"lengths_of": "objects"}},
        },
        "axes": {"objects": {"max": 6}, "height": {"min": 16}, "width": {"min": 16}},
        "loss": "losses.py:of_sets",
    },
    "policies": {
        "outputs": {"0": {"name": "logits", "at": 0, **_CLASSES}, "1": {"name": "value", "at": 1}},
        "labels": {
            "action": {"axes": ["batch"], "values": {"ids": 3}},
            "old_log_prob": {"axes": ["batch"], "values": {"range": [-1.2, -1.0]}},
            "advantage": {"axes": ["batch"]},
            "returns": {"axes": ["batch"]},
        },
        "loss": ":ppo_loss",
    },
    "pairs": {
        "outputs": {"2": {"name": "scale", "at": 2}},
        "loss": {"function": ":clip_loss", "over": "batch"},
    },
    "state": {},
}
"""By the page that shows the model: what a user adds to the config that ``init`` wrote; ``name`` renames an output."""

LOSSES = '''
import torch
import torch.nn.functional as F


def of_sets(outputs, batch):
    """Each real object with the query of its place; the other queries say that there is nothing (class 4)."""
    queries = outputs["pred_logits"].shape[1]
    classes = F.pad(batch["classes"], (0, queries))[:, :queries]
    boxes = F.pad(batch["boxes"], (0, 0, 0, queries))[:, :queries]
    real = torch.arange(queries, device=classes.device) < batch["count"][:, None]
    scores = F.cross_entropy(outputs["pred_logits"].flatten(0, 1), classes.masked_fill(~real, 4).flatten())
    return scores + 5 * ((outputs["pred_boxes"] - boxes).abs().mean(-1) * real).sum() / real.sum()
'''


def config_of(kind: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """What ``init`` writes for the model of a page, with the user's lines."""
    run = PageRun(folder, capfd)
    for fence in fences((DOCS / "kinds" / f"{kind}.md").read_text(encoding="utf-8")):
        if fence.title is not None and fence.title.endswith(".py"):
            run.do(fence)
    (folder / "losses.py").write_text(LOSSES, encoding="utf-8")
    config = folder / "modeltiers.json"
    assert main(["init", str(folder / "model.py"), "--output", str(config), "--no-run"]) == 0
    keys = json.loads(config.read_text(encoding="utf-8"))
    for part, lines in KINDS[kind].items():
        if part not in ("inputs", "outputs", "axes"):
            keys[part] = lines
            continue
        known = keys.setdefault(part, {})
        for name, line in lines.items():
            known[name] = {**known.get(name, {}), **line}
    if "outputs" in keys:
        keys["outputs"] = {entry.pop("name", name): entry for name, entry in keys["outputs"].items()}
    config.write_text(json.dumps(keys), encoding="utf-8")
    return config


@pytest.mark.parametrize("kind", KINDS)
def test_the_promises_of_what_init_wrote_hold(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = load_config(config_of(kind, tmp_path, capfd))
    only = ("shape_contract", "declared_outputs", "batch_independence", "input_dependence", "permutation", "carried_state")
    found = judge_model(model_source(config).build, config.task_spec(), only=only, share=0.2)
    assert {label: each.message for label, each in found.items() if each.status is Status.FAIL} == {}
    assert found["shape_contract"].status is Status.OK


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_users_labels_and_loss_are_trained_monitored_and_exported(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_of(kind, tmp_path, capfd)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELTIERS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "rows.py").write_text(_ROWS.format(config=config.name), encoding="utf-8")
    keys = json.loads(config.read_text(encoding="utf-8"))
    rows = {} if kind == "state" else {"eval": {"dataset": "rows.py:rows", "batch_size": 1}}
    config.write_text(json.dumps({**keys, **rows, "tier": ["3", "4", "5"]}), encoding="utf-8")
    chosen = "training_loss or step_updates or (numerical_consistency and (torch_export or onnx)) or evaluation"
    arguments = ["--model-config", str(config), "-q", "-p", "no:cacheprovider", "-k", chosen, "--model-report", "report"]
    status = pytest.main(arguments)
    report = json.loads((tmp_path / "report" / "health_report.json").read_text(encoding="utf-8"))
    passed = {check["check_name"] for check in report["checks"] if check["status"] in ("passed", "warning")}
    assert status == 0, [check["message"] for check in report["checks"] if check["status"] == "failed"]
    tiers = {name.partition("::")[0] for name in passed}
    assert tiers == {
        "tier3",
        "tier4",
        *([] if kind == "pairs" else ["tier5"]),
    }  # a loss over the pairs of a batch is none of a row


_ROWS = '''
"""Rows of the user's: every input and label by its name, one row each."""
from pathlib import Path

from harness.config import load_config
from harness.tasks.axes import BATCH


def rows():
    signature = load_config(Path(__file__).parent / "{config}").task_spec().signature
    found = []
    for seed in range(40):
        batch = signature.make_batch(signature.typical_sizes() | {{BATCH: 1}}, seed)
        found.append({{
            name: value[0] if BATCH in signature.axes_of(name) else value
            for name, value in batch.items()
            if name not in signature.label_sources
        }})
    return found
'''
