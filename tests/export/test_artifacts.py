"""Exported files on disk: found again, replaced, refused, and never half there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from planted_bugs.tier4.exports import make_exports, onnx_by_hand
from planted_bugs.tier4.models import Scores

from harness.errors import UserError
from harness.export.export_model import export_model
from harness.export.formats import ExportError
from harness.export.store import Cache, CacheWarning, find_artifact, manifest_path
from harness.files import file_hash, json_hash
from harness.runtime import seeded

FORMATS = ("torchscript", "onnx", "pytorch", "safetensors", "torch_export")


def scores(seed: int = 0) -> Scores:
    with seeded(seed):
        return Scores()


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_run_finds_the_file(format: str, tmp_path: Path) -> None:
    first = make_exports(scores(), tmp_path, format).artifact(format)
    before = first.path.stat().st_mtime_ns
    again = make_exports(scores(), tmp_path, format).artifact(format)
    assert again.ours
    assert again.seconds == 0
    assert again.path.stat().st_mtime_ns == before


def test_other_weights_replace_it(tmp_path: Path) -> None:
    first = make_exports(scores(), tmp_path).artifact("onnx")
    content = file_hash(first.path)
    second = make_exports(scores(1), tmp_path).artifact("onnx")
    assert second.ours
    assert file_hash(second.path) != content


def test_another_opset_is_another_file(tmp_path: Path) -> None:
    first = make_exports(scores(), tmp_path, opset_version=18)
    second = make_exports(scores(), tmp_path, opset_version=20)
    assert first.artifact("onnx").manifest != second.artifact("onnx").manifest


def test_a_file_of_someone_else_is_judged_and_left_alone(tmp_path: Path) -> None:
    onnx_by_hand(scores(), tmp_path / "model.onnx")
    content = file_hash(tmp_path / "model.onnx")
    artifact = make_exports(scores(), tmp_path).artifact("onnx")
    assert artifact.manifest is None
    assert not artifact.ours
    assert file_hash(artifact.path) == content


@pytest.mark.parametrize("format", ["torchscript", "torch_export"])
def test_a_file_that_could_run_code_is_not_loaded_without_consent(format: str, tmp_path: Path) -> None:
    path = make_exports(scores(), tmp_path, format).artifact(format).path
    manifest_path(path).unlink()
    with pytest.raises(ExportError, match="not written by this project"):
        make_exports(scores(), tmp_path, format).runner(format)
    trusting = make_exports(scores(), tmp_path, format, trust=[file_hash(path)])
    assert trusting.runner(format)({"features": torch.randn(2, 5)})["logits"].shape == (2, 3)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = make_exports(scores(), tmp_path, "safetensors").artifact("safetensors").path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = find_artifact(path)
    assert found is not None
    assert found.changed


def test_a_malicious_state_dict_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"hidden.weight": Evil()}, tmp_path / "model.pt")
    with pytest.raises(ExportError, match="would run code"):
        make_exports(scores(), tmp_path, "pytorch").runner("pytorch")
    assert not (tmp_path / "ran").exists()


def test_weights_outside_their_folder_are_refused(tmp_path: Path) -> None:
    import onnx
    from onnx.external_data_helper import set_external_data

    folder = tmp_path / "files"
    folder.mkdir()
    onnx_by_hand(scores(), folder / "model.onnx")
    model = onnx.load(folder / "model.onnx")
    (tmp_path / "secret").write_bytes(b"0" * 1000)
    set_external_data(model.graph.initializer[0], "../secret")
    model.graph.initializer[0].ClearField("raw_data")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="keeps weights in other files"):
        make_exports(scores(), folder).runner("onnx")
    trusting = make_exports(scores(), folder, trust=[file_hash(folder / "model.onnx")])
    with pytest.raises(ExportError, match="outside its own folder"):
        trusting.runner("onnx")


def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    folder = Path("/proc/self/task") if os.geteuid() == 0 else tmp_path  # root may write nearly everywhere
    with pytest.raises(ExportError, match="cannot write into"):
        make_exports(scores(), folder, "pytorch").artifact("pytorch")


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ExportError, match=r"cannot write into .*taken"):
        make_exports(scores(), tmp_path / "taken").artifact("pytorch")


def test_a_full_disk_is_one_line_and_leaves_nothing() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    script = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from planted_bugs.tier4.exports import make_exports
        from planted_bugs.tier4.models import Scores
        from harness.export.formats import ExportError
        exports = make_exports(Scores(), Path(sys.argv[1]), "pytorch")
        exports.program, exports.identity
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
        import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            exports.artifact("pytorch")
        except ExportError as error:
            print(error)
        print("floor", exports.floor.epsilon > 0)
    """)
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        environment = {**os.environ, "MODELTIERS_CACHE": f"{name}/cache"}
        done = subprocess.run(
            [sys.executable, "-c", script, f"{name}/files"],
            cwd=Path(__file__).parents[1],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said, floor = done.stdout.splitlines()
        assert said == f"the cache {name}/cache has no room: File too large; MODELTIERS_CACHE names another folder", done.stderr
        assert floor == "floor True"
        assert f"CacheWarning: the cache {name}/cache keeps nothing: File too large" in done.stderr
        assert not list(Path(name).rglob("model.pt"))


@pytest.mark.parametrize(
    "kept", ["[]", "null", '{"scale": 1}', '{"float64": "x", "last_place": [], "scale": 0, "epsilon": 0}', "[" * 100_000, "{"]
)
def test_an_entry_of_another_shape_is_made_anew(kept: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    exports = make_exports(scores(), None, "pytorch")
    exports.cache = cache
    known = exports.floor
    (entry,) = (tmp_path / "values").iterdir()
    right = json.loads(entry.read_text())
    entry.write_text(kept)
    again = make_exports(scores(), None, "pytorch")
    again.cache = cache

    with pytest.warns(CacheWarning, match="has another shape and is made again"):
        assert again.floor.epsilon == known.epsilon

    assert json.loads(entry.read_text()).keys() == right.keys()


def test_killed_in_the_middle_it_leaves_no_half_file(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from planted_bugs.tier4.exports import make_exports
        from planted_bugs.tier4.models import Scores
        from harness.export import store
        copy = store._copy_whole
        def slow(source, target):
            print("copying", flush=True)
            time.sleep(60)
        store._copy_whole = slow
        make_exports(Scores(), Path(sys.argv[1]), "pytorch").artifact("pytorch")
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "copying\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "model.pt").exists()
    assert make_exports(scores(), tmp_path, "pytorch").artifact("pytorch").ours


def test_processes_that_start_together_export_once(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from planted_bugs.tier4.exports import make_exports
        from planted_bugs.tier4.models import Scores
        from harness.runtime import seeded
        with seeded(0):
            model = Scores()
        print(make_exports(model, None, "pytorch").artifact("pytorch").seconds > 0)
    """)
    environment = {**os.environ, "MODELTIERS_CACHE": str(tmp_path)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=Path(__file__).parents[1], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    answers = [child.communicate()[0].strip() for child in children]
    assert sorted(answers) == ["False", "False", "True"]
    assert len(list((tmp_path / "files").iterdir())) == 1


def test_what_fails_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.files(json_hash("x"), fail)
    assert list((tmp_path / "files").iterdir()) == []


def test_a_damaged_cache_entry_is_said(tmp_path: Path) -> None:
    exports = make_exports(scores(), None, "pytorch")
    exports.cache = Cache(tmp_path)
    path = exports.artifact("pytorch").path
    path.write_bytes(b"")
    again = make_exports(scores(), None, "pytorch")
    again.cache = Cache(tmp_path)
    assert again.artifact("pytorch").ours
    assert again.runner("pytorch")({"features": torch.randn(2, 5)})["logits"].shape == (2, 3)


def test_old_entries_are_forgotten(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    old = cache.files(json_hash("old"), lambda folder: (folder / "x").write_text("") and None)
    long_ago = time.time() - 90 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    cache.files(json_hash("new"), lambda folder: (folder / "x").write_text("") and None)
    assert not old.exists()


def test_a_damaged_value_is_computed_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.values("key", lambda: {"a": 1})
    (tmp_path / "values" / "key.json").write_text("{")
    assert cache.values("key", lambda: {"a": 2}) == {"a": 2}


def test_export_model_writes_a_file_a_format(tmp_path: Path) -> None:
    files = export_model(scores(), None, make_exports(scores(), None).subject.task, tmp_path, FORMATS)
    assert list(files) == list(FORMATS)
    for format, path in files.items():
        manifest = json.loads(manifest_path(path).read_text())
        assert manifest["format"] == format
        assert manifest["files"] == {path.name: file_hash(path)}
        assert manifest["fields"] == ["features"]


def test_an_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no export format 'onxx'.* Did you mean 'onnx'"):
        export_model(scores(), None, make_exports(scores(), None).subject.task, tmp_path, ["onxx"])


def test_quantisation_needs_onnx(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='needs "onnx"'):
        export_model(scores(), None, make_exports(scores(), None).subject.task, tmp_path, ["pytorch"], quantization="dynamic")


def test_an_onnx_file_shows_no_path_of_its_maker(tmp_path: Path) -> None:
    content = make_exports(scores(), tmp_path).artifact("onnx").path.read_bytes()
    assert str(Path(__file__).parents[1]).encode() not in content
    assert b"models.py" not in content
