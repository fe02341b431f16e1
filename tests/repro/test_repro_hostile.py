"""Bundles that someone made to do harm, and bundles that were damaged on the way: refused in one line, before anything is written."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from small_runs import LOSSES, edited_config, made, relisted, trainer

from harness.config import EvalConfig, ExportConfig, SuiteConfig
from harness.repro import repro
from harness.repro.bundle import open_bundle
from harness.repro.contents import INPUTS, OUTPUTS
from harness.repro.manifest import ReproError, is_inside

Change = Callable[[zipfile.ZipFile], None]


def nothing_runs(_config: Path) -> Mapping[str, Any]:
    raise AssertionError("it ran")


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ReproError) as caught:
        repro(path, trust=True, train=nothing_runs, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def add_link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("data/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


def add_folder(archive: zipfile.ZipFile) -> None:
    archive.writestr("empty/", "")


def add_twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("README.md", "another")


def add_bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("data/zeros", bytes(1 << 20), zipfile.ZIP_DEFLATED)


def add_other_packing(archive: zipfile.ZipFile) -> None:
    archive.writestr("data/packed", b"x" * 100, zipfile.ZIP_BZIP2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add_link, "data/link is a link or no plain file, refused"),
        (add_folder, "'empty/' is not a path inside the bundle, refused"),
        (add_twice, "README.md is in it twice"),
        (add_bomb, "bytes would unpack to"),
        (add_other_packing, "data/packed is encrypted or compressed"),
    ],
)
def test_what_no_bundle_has_is_refused(change: Change, said: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.repro.bundle._SLACK", 1 << 16)
    path = made(project)
    with zipfile.ZipFile(path, "a") as archive:
        change(archive)
    assert said in refused(path)


@pytest.mark.parametrize(
    "name", ["/abs", "../up", "a/../../up", "a\\b", "c:x", "~/home", "a//b", "./a", "", ".", "a/", "nul\0", "line\nend", "\udc80"]
)
def test_no_other_name_is_inside(name: str) -> None:
    assert not is_inside(name)


def test_a_flipped_byte_is_found_or_changes_nothing(project: Path) -> None:
    path = made(project)
    whole = path.read_bytes()
    with open_bundle(path) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files}
    found = 0
    for position in range(0, len(whole), 19):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        try:
            with open_bundle(path) as bundle:
                # Bytes such as an entry's time are no content.
                assert {name: bundle.read(name) for name in bundle.manifest.files} == files, position
        except ReproError:
            found += 1
    assert found > len(whole) / 19 * 0.7


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train": {"path": "/etc/passwd"}}, "`train.path` names '/etc/passwd', which is not in the bundle"),
        ({"model_file": "~/model.py"}, "`model_file` names '~/model.py', which is not in the bundle"),
        ({"adapter": "../own.py:Own"}, "`adapter` names '../own.py', which is not in the bundle"),
        ({"loss": {"function": "../own.py:loss"}}, "`loss.function` names '../own.py', which is not in the bundle"),
        ({"checkpoint_dir": "../elsewhere"}, "`checkpoint_dir` names '../elsewhere', a place outside the bundle"),
        ({"db_path": "/tmp/runs.db"}, "`db_path` names '/tmp/runs.db', a place outside the bundle"),
        ({"export": {"export_dir": "/tmp"}}, "`export.export_dir` names '/tmp', a place outside the bundle"),
        ({"checkpoint_dir": None, "run_name": "/tmp/x"}, "checkpoints of a `run_name` '/tmp/x' would be outside"),
        ({"checkpoint_dir": None, "run_name": "../../x"}, "checkpoints of a `run_name` '../../x' would be outside"),
        ({"checkpoint_dir": None, "run_name": "C:\\x"}, "would be outside"),
    ],
)
def test_a_config_reaches_no_further_than_the_bundle(values: dict[str, Any], said: str, project: Path) -> None:
    assert said in refused(edited_config(made(project), **values))


def test_a_run_s_name_may_be_any_text(project: Path) -> None:
    path = edited_config(made(project), run_name="/lm: tiny/..")  # checkpoints do not go by it
    assert repro(path, trust=True, train=trainer(LOSSES)).status.value == "ok"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, content) for name in ("environment.json", "metrics.json", "config.json") for content in (b"[]", b"{", b"\xff")),
        ("metrics.json", b'{"last": []}'),
        ("metrics.json", b'{"last": {"a": {}}, "history": {}}'),
        ("config.json", b'{"task_name": "lm_tinny"}'),
    ],
)
def test_a_file_that_holds_something_else_is_one_line(name: str, content: bytes, project: Path) -> None:
    assert name in refused(relisted(made(project), lambda files: files.update({name: content})))


def stub_only(files: dict[str, bytes]) -> None:
    config = json.loads(files["config.json"])
    for name in [name for name in files if name.startswith(("model/", "data/"))]:
        del files[name]
    for key in ("model_file", "adapter", "train"):
        del config[key]
    files["config.json"] = json.dumps(config).encode()


def test_an_embedded_model_needs_no_trust(project: Path) -> None:
    result = repro(relisted(made(project), stub_only), train=lambda _config: {"eval_summary": {"val_loss": 0.25}})
    assert (result.status.value, result.code) == ("ok", ())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_import": "os:system"}, "`model_import` os:system"),
        ({"gist_id": "0123"}, "`gist_id` 0123"),
        ({"export": {"trust": ["0" * 64]}}, "`export.trust`"),
    ],
)
def test_a_config_alone_can_ask_for_code(values: dict[str, Any], said: str, project: Path) -> None:
    path = edited_config(relisted(made(project), stub_only), **values)
    result = repro(path, train=nothing_runs)
    assert result.folder is None
    assert said in str(result)


def test_a_python_file_that_nothing_names_is_code_too(project: Path) -> None:
    def plant(files: dict[str, bytes]) -> None:
        stub_only(files)
        files["torch.py"] = b"raise SystemExit"

    result = repro(relisted(made(project), plant), train=nothing_runs)
    assert [code.name for code in result.code] == ["torch.py"]


def text_keys() -> set[str]:
    groups = {"": SuiteConfig, "train.": EvalConfig, "export.": ExportConfig}
    return {f"{prefix}{key}" for prefix, group in groups.items() for key, field in group.model_fields.items() if _is_text(field)}


def _is_text(field: Any) -> bool:
    annotation = str(field.annotation)
    return "str" in annotation and "Literal" not in annotation and "list[" not in annotation and "dict[" not in annotation


def test_every_text_key_of_a_config_is_known_to_name_a_file_or_not() -> None:
    """A new key that names a file must be in ``config_paths``, or else a bundle leaves the file out, and could write anywhere."""
    no_paths = {"call", "task_name", "model_import", "gist_id", "gist_revision", "preset", "model_factory", "device", "run_name"}
    no_paths |= {
        "gist_sha256",
        "baseline_run_id",
        "reference_profile_id",
        "train.dataset_id",
        "train.split",
        "train.group",
        "train.windows",
    }
    assert text_keys() - no_paths <= {*INPUTS, *OUTPUTS}
