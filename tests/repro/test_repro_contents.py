"""What goes into a bundle, and that it works from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from small_runs import CONFIG, LOSSES, log, made, names, trainer

from harness.config import load_config
from harness.errors import UserError
from harness.experiments import ExperimentDB
from harness.repro import create_repro_bundle, repro
from harness.repro.contents import code_of_file, code_of_module, collect
from harness.repro.manifest import ReproError, names_in, needed, requirements
from harness.tasks import TaskSpec, TaskType


def write(folder: Path, **texts: str) -> Path:
    """Files of a folder; ``pkg__mod`` is ``pkg/mod.py``."""
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def manifest_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        found: dict[str, Any] = json.loads(archive.read("manifest.json"))
        return found


# The user's code


def test_a_file_brings_what_it_imports_from_its_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        model="import torch, layers\nfrom importlib import import_module\nimport_module('late')\nfrom blocks.wide import W\n",
        layers="def f():\n    from deeper import g\n",
        deeper="import layers\nfrom harness.adapters import Adapter\n",
        late="import sklearn.svm\n",
        blocks__wide="from . import narrow\n",
        blocks__narrow="import missing_package\n",
        harness="",
        unrelated="",
    )
    code = code_of_file(folder / "model.py")
    found = {file.relative_to(folder).as_posix() for file in code.files}
    assert found == {"model.py", "layers.py", "deeper.py", "late.py", "blocks/wide.py", "blocks/narrow.py"}
    assert code.outside == {
        "torch",
        "importlib",
        "sklearn",
        "missing_package",
        "harness",
    }  # a copy of the project is not the user's


def test_a_file_that_the_code_reads_is_noted(project: Path) -> None:
    (project / "code" / "words.txt").write_text("a b")
    path = project / "code" / "parts.py"
    path.write_text(path.read_text() + "\nWORDS = 'words.txt'\n")
    assert any(
        "the code names words.txt, which the bundle does not contain" in note for note in manifest_of(made(project))["notes"]
    )


def test_code_that_is_no_python_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, model="def (:")
    with pytest.raises(ReproError, match=r"model\.py cannot be parsed as Python: invalid syntax"):
        code_of_file(tmp_path / "model.py")


def test_an_installed_module_stays_where_it_is(tmp_path: Path) -> None:
    assert code_of_module("sklearn.svm", tmp_path) is None


FRESH = """
import sys
from pathlib import Path
from harness.adapters import make_adapter
from harness.config import load_config
from harness.models.loading import model_source

config = load_config(sys.argv[1])
model = model_source(config).build()
print(type(model).__name__, type(make_adapter(config.task_spec(), config.adapter, config.path.parent)).__name__)
folder = Path(sys.argv[1]).parent
own = [module.__file__ for module in list(sys.modules.values()) if "project" in (getattr(module, "__file__", None) or "")]
assert not own, own
"""


def rebuilt(path: Path, folder: Path) -> str:
    """What a process that has seen none of it builds from an unpacked bundle."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    done = subprocess.run([sys.executable, "-c", FRESH, str(folder / "config.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_model_and_adapter_of_two_folders_are_rebuilt_elsewhere(project: Path, tmp_path: Path) -> None:
    write(project / "other", own="from harness.adapters import Adapter\nfrom parts import NAME\nclass Own(Adapter):\n    pass\n")
    write(project / "other", parts="NAME = 'of the adapter'\n")
    config = {**CONFIG, "adapter": "other/own.py:Own"}
    contents = collect(config, project)
    assert {name for name in contents.files if name.endswith(".py")} == {
        "model/model.py",
        "model/parts.py",
        "adapter/own.py",
        "adapter/parts.py",
    }
    assert (contents.config["model_file"], contents.config["adapter"]) == ("model/model.py", "adapter/own.py:Own")


def test_the_losses_of_a_declared_task_are_taken_along(project: Path) -> None:
    (project / "task").mkdir()
    (project / "task" / "losses.py").write_text("def total(*_): ...\ndef part(*_): ...\n")
    config = {
        **CONFIG,
        "loss": "task/losses.py:total",
        "outputs": {"scores": {"loss": "task/losses.py:part"}, "x": {"loss": "mse"}},
    }
    contents = collect(config, project)
    assert contents.config["loss"] == "adapter/losses.py:total"
    assert contents.config["outputs"] == {"scores": {"loss": "adapter/losses.py:part"}, "x": {"loss": "mse"}}
    assert contents.files["adapter/losses.py"] == project / "task" / "losses.py"


def test_the_code_of_data_and_metrics_is_taken_along(project: Path) -> None:
    (project / "task").mkdir()
    (project / "task" / "rows.py").write_text("def rows(): ...\ndef dice(outputs, batch): ...\n")
    data = {"train": {"dataset": "task/rows.py:rows"}, "eval": {"datamodule": "pkg.data:Module"}}
    contents = collect({**CONFIG, **data, "metrics": ["accuracy", "task/rows.py:dice"]}, project)
    assert contents.config["train"]["dataset"] == "adapter/rows.py:rows"
    assert contents.config["eval"]["datamodule"] == "pkg.data:Module"
    assert contents.config["metrics"] == ["accuracy", "adapter/rows.py:dice"]
    assert contents.files["adapter/rows.py"] == project / "task" / "rows.py"


def test_an_import_path_beside_the_config_is_rebuilt_elsewhere(project: Path, tmp_path: Path) -> None:
    write(project, pkg__net="from pkg.layers import make\ndef build():\n    return make()\n")
    write(project, pkg__layers="from torch import nn\ndef make():\n    return nn.Linear(3, 2)\n")
    (project / "pkg" / "__init__.py").write_text("")
    config = {key: value for key, value in CONFIG.items() if key != "model_file"} | {"model_import": "pkg.net:build"}
    (project / "cfg.json").write_text(json.dumps(config))
    log(project / "cfg.json", project / "runs.db", LOSSES)
    path = create_repro_bundle(2, db=project / "runs.db", output_dir=tmp_path)
    assert {"pkg/net.py", "pkg/layers.py", "pkg/__init__.py"} <= {*names(path)}
    assert rebuilt(path, tmp_path / "new") == "Linear Own"


# Data and weights


def test_two_files_of_one_name_keep_it_both(project: Path) -> None:
    for folder in ("a", "b"):
        (project / folder).mkdir()
        (project / folder / "rows.csv").write_text(folder)
    config = {**CONFIG, "train": {"path": "a/rows.csv"}, "eval": {"path": "b/rows.csv"}}
    contents = collect(config, project)
    assert {name: path.read_text() for name, path in contents.files.items() if name.startswith("data/")} == {
        "data/rows.csv": "a",
        "data/2/rows.csv": "b",
    }
    assert contents.config["eval"] == {"path": "data/2/rows.csv"}


def test_one_file_for_both_is_there_once(project: Path) -> None:
    contents = collect({**CONFIG, "eval": {"path": "./rows.csv", "split": "validation"}}, project)
    assert [name for name in contents.files if name.startswith("data/")] == ["data/rows.csv"]
    assert contents.config["eval"] == {"path": "data/rows.csv", "split": "validation"}


def test_a_folder_of_data_comes_whole_by_way_of_links_and_ends(project: Path) -> None:
    for name in ("images/cat/1.png", "elsewhere/2.png", "images/.hidden/3.png"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(name)
    (project / "images" / "dog").symlink_to(project / "elsewhere")
    (project / "images" / "cat" / "again").symlink_to(project / "images")
    contents = collect({**CONFIG, "train": {"path": "images"}}, project)
    assert contents.data_names == ["data/images/cat/1.png", "data/images/dog/2.png"]


def test_weights_and_outputs_lie_in_the_bundle(project: Path) -> None:
    (project / "w.safetensors").write_bytes(b"w")
    (project / "c.ckpt").write_bytes(b"c")
    config = {
        **CONFIG,
        "weights": "w.safetensors",
        "resume_from_checkpoint": str(project / "c.ckpt"),
        "checkpoint_dir": "/tmp/mine",
        "export": {"formats": ["onnx"], "export_dir": "/tmp/exports"},
        "db_path": "postgresql://me:hunter2@host/db",
    }
    found = collect(config, project).config
    assert (found["weights"], found["resume_from_checkpoint"]) == ("weights/w.safetensors", "weights/c.ckpt")
    assert (found["checkpoint_dir"], found["export"]["export_dir"]) == ("checkpoints", "exports")
    assert found["db_path"] == "experiments.db"
    assert config["export"] == {"formats": ["onnx"], "export_dir": "/tmp/exports"}


@pytest.mark.skipif(os.name == "nt", reason="no such name there")
def test_a_name_that_other_systems_do_not_take_is_refused(project: Path) -> None:
    (project / "a:b.csv").write_text("")
    with pytest.raises(ReproError, match=r"'data/a:b\.csv' is not a valid file name"):
        collect({**CONFIG, "train": {"path": "a:b.csv"}}, project)


def test_missing_data_can_be_given_later(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.repro.contents.collect.__defaults__", (10,))
    path, out = made(project), tmp_path / "new"
    with pytest.raises(ReproError, match="say where it is by --data-dir"):
        repro(path, trust=True, output_dir=out, train=trainer(LOSSES))
    assert not out.exists()
    with pytest.raises(ReproError, match=r"code/rows\.csv: no such file; --data-dir must have rows\.csv"):
        repro(path, trust=True, output_dir=out, data_dir=project / "code", train=trainer(LOSSES))
    assert repro(path, trust=True, output_dir=out, data_dir=project, train=trainer(LOSSES)).status.value == "ok"


# Dashboards, environment, notes


def test_dashboards_of_one_name_and_folders(project: Path) -> None:
    for name in ("a/x.png", "b/x.png", "site/index.html", "site/img/1.png"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(name)
    path = made(project, dashboard_paths=[project / "a" / "x.png", project / "b" / "x.png", project / "site"])
    assert [name for name in names(path) if name.startswith("dashboards/")] == [
        "dashboards/2/x.png",
        "dashboards/site/img/1.png",
        "dashboards/site/index.html",
        "dashboards/x.png",
    ]


def test_logged_dashboards_are_taken_and_one_that_is_gone_is_not_missed(project: Path) -> None:
    with ExperimentDB(project / "runs.db") as db:
        for name in ("kept.html", "gone.html"):
            (project / name).write_text(name)
            db.log_artifact(1, project / name, "dashboard")
    (project / "gone.html").unlink()
    assert [name for name in names(made(project)) if name.startswith("dashboards/")] == ["dashboards/kept.html"]
    with pytest.raises(ReproError, match=r"no such dashboard .*gone\.html"):
        made(project, dashboard_paths=[project / "gone.html"])


def test_a_snapshot_that_was_given_is_stored_without_its_secrets(project: Path) -> None:
    with zipfile.ZipFile(made(project, env_snapshot={"api_key": "hunter2", "folder": Path("a")})) as archive:
        assert json.loads(archive.read("environment.json")) == {"api_key": "***", "folder": "a"}


def test_the_environment_stored_with_the_run_comes_before_a_new_one(project: Path) -> None:
    with ExperimentDB(project / "runs.db") as db:
        db.log_config(1, "environment", {"torch": {"version": "of the run"}})
    with zipfile.ZipFile(made(project, env_snapshot=None)) as archive:
        assert json.loads(archive.read("environment.json")) == {"torch": {"version": "of the run"}}


def test_another_machine_s_environment_is_noted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    notes = manifest_of(made(project, env_snapshot=None))["notes"]
    assert notes == ["environment.json describes the machine that made the bundle; the run was trained on another"]


def test_files_written_since_are_noted(project: Path) -> None:
    assert manifest_of(made(project))["notes"] == []
    os.utime(project / "code" / "parts.py", (4e9, 4e9))
    (note,) = manifest_of(made(project))["notes"]
    assert note.startswith("model/parts.py changed after the run began")


def test_hidden_keys_and_unknown_ones_are_noted(project: Path) -> None:
    training = {**CONFIG, "model_kwargs": {"api_key": "hunter2"}, "gradient_magic": 1}
    path = made(project, training_cfg=training)
    assert manifest_of(path)["notes"] == [
        "left out of config.json because a config has no such keys: gradient_magic",
        "model_kwargs.api_key was a secret and is left out of config.json: put it back before a rerun",
    ]


def test_the_readme_names_the_bundle(project: Path) -> None:
    path = made(project)
    with zipfile.ZipFile(path) as archive:
        assert f"modeltiers repro {path.name} --trust\n" in archive.read("README.md").decode()


# Configs that are put together


def test_a_run_of_parts_makes_a_config(project: Path, tmp_path: Path) -> None:
    task = TaskSpec(TaskType.CAUSAL_LM, vocab_size=23, max_seq_len=12)
    with ExperimentDB(project / "runs.db") as db, db.start_run("parts", {"epochs": 3}, task, {"dataset_id": "lm_tiny_v1"}) as run:
        run.log_metric("val_loss", 1.0)
    with pytest.warns(UserWarning, match="cannot rebuild it. Missing: which model was trained"):
        path = create_repro_bundle("parts", db=project / "runs.db", output_dir=tmp_path)
    with zipfile.ZipFile(path) as archive:
        archive.extract("config.json", tmp_path)
    config = load_config(tmp_path / "config.json")
    assert (config.epochs, config.task_spec().vocab_size, config.eval and config.eval.dataset_id) == (3, 23, "lm_tiny_v1")
    assert manifest_of(path)["missing"] == [
        "which model was trained: the run was not made by `modeltiers train` or `run_training`"
    ]


def test_a_run_without_configs_is_one_line(project: Path) -> None:
    with ExperimentDB(project / "runs.db") as db, db.start_run("bare"):
        pass
    with pytest.raises(ReproError, match=r"run 2 \(bare\): what is stored of it is not a valid config: no `task_type`") as caught:
        create_repro_bundle("bare", db=project / "runs.db")
    assert "\n" not in str(caught.value)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {*tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"experiments\.db: no such database"):
        create_repro_bundle(1)
    assert {*tmp_path.iterdir()} == before


# Requirements


def test_requirements_are_what_is_imported_pinned() -> None:
    found, unknown = needed({"sklearn", "json", "harness", "no_such_module"}, ["data/a.png", "data/b.parquet"])
    assert {"torch", "numpy", "scikit-learn", "pillow", "pyarrow", "pytest-modeltiers"} <= {*found}
    assert unknown == ["no_such_module"]
    text = requirements(found)
    assert names_in(text) == found
    assert "+" not in text


# Where it is unpacked


def test_a_folder_with_something_in_it_is_not_used(project: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ReproError, match="mine is not empty; name another folder"):
        repro(made(project), trust=True, output_dir=tmp_path / "mine", train=trainer(LOSSES))


def test_a_full_disk_while_unpacking_leaves_nothing(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = made(project), Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "xb" and self.name == "parts.py":
            raise OSError(28, "No space left on device")
        return real(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ReproError, match="new cannot be written: No space left on device; nothing was left there"):
        repro(path, trust=True, output_dir=tmp_path / "new", train=trainer(LOSSES))
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(ReproError, match="No space left on device"):
        repro(path, trust=True, train=trainer(LOSSES))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_bundle_that_cannot_be_written_leaves_nothing(project: Path) -> None:
    (project / "file").write_text("")
    with pytest.raises(ReproError, match=r"cannot write the bundle .*File exists|Not a directory"):
        create_repro_bundle(1, db=project / "runs.db", output_dir=project / "file")
    with pytest.raises(ReproError, match="nothing was written"):
        create_repro_bundle(1, db=project / "runs.db", output_dir=project / "file" / "deeper")
