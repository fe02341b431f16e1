"""Whether a bundle is whole, and computes what its model computed: hashes first, then every artifact in a process of its own.

Nothing is loaded or run before every hash is right. Hashes that are right say that a bundle is whole, not who made it, so formats that can
run code are loaded only where the bundle was made on this machine, or is trusted.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

import harness
from harness.batches import Batch
from harness.config import ExportConfig
from harness.evidence import Evidence, Status, counted
from harness.export.bundle import GOLDEN, INFERENCE, KIND, MANIFEST, SIGNATURE, VERSION, files_in, made_here
from harness.export.bundle_layouts import inference_script, runnable
from harness.export.cache import file_hash
from harness.export.exporter import ExportError, MissingPackageError
from harness.export.formats import FORMATS
from harness.export.fresh import run_fresh
from harness.export.replay import ANSWER
from harness.properties.difference import difference

_SHOWN = 20


@dataclass(frozen=True)
class BundleReport:
    """What was found out about a bundle.

    Attributes:
        folder: The bundle.
        sha256: Of its manifest, which names those of all other files.
        findings: First the files, then each format and ``inference.py``, by these names.
    """

    folder: Path
    sha256: str
    findings: tuple[Evidence, ...]

    @property
    def status(self) -> Status:
        """The worst finding."""
        return max((finding.status for finding in self.findings), key=lambda status: status.severity)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.status is not Status.FAIL

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "status": self.status.value,
            "ok": self.ok,
            "bundle": str(self.folder),
            "sha256": self.sha256,
            "findings": [finding.to_json() for finding in self.findings],
        }

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = [f"bundle {self.folder}", f"sha256 of {MANIFEST}: {self.sha256}"]
        for finding in self.findings:
            figures = f" ({finding.comparison})" if finding.comparison else ""
            lines.append(f"{finding.status.value:7}  {finding.name:{width}}  {finding.message}{figures}")
        return "\n".join(lines)


def verify_bundle(folder: str | Path, trust: bool = False, timeout: float = 120.0) -> BundleReport:
    """Holds a bundle's files to their hashes, and then every artifact to the golden logits.

    Args:
        folder: The bundle.
        trust: Whether formats that can run code are loaded even where the bundle was not made on this machine.
        timeout: Seconds until a process is stopped.

    Raises:
        ExportError: The folder is no bundle.
    """
    folder = Path(folder).expanduser().resolve()
    manifest = _read_manifest(folder)
    sha256 = file_hash(folder / MANIFEST)
    try:
        listed, formats = _parse(manifest)
        wrong = list(_mistakes(folder, listed))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        listed, formats, wrong = {}, {}, [f"{MANIFEST} cannot be understood: {type(error).__name__}: {error}"]
    if wrong:
        findings = [Evidence("files", Status.FAIL, mistake) for mistake in wrong[:_SHOWN]]
        findings += [Evidence("files", Status.FAIL, f"and {len(wrong) - _SHOWN} more")] if len(wrong) > _SHOWN else []
        findings += [
            Evidence(format, Status.SKIPPED, "not loaded, since the files are not those of the manifest") for format in formats
        ]
        return BundleReport(folder, sha256, tuple(findings))
    whole = Evidence("files", Status.OK, f"{counted(len(listed), 'file')}, each with the sha256 that the manifest gives")
    try:
        golden = _read_golden(folder, listed, formats)
    except (LookupError, TypeError, ValueError, AttributeError, OSError, BadZipFile) as error:
        message = f"cannot be understood, so nothing was loaded: {type(error).__name__}: {error}"
        return BundleReport(folder, sha256, (whole, Evidence("golden", Status.FAIL, message)))
    replays = Replays(folder, formats, golden, made_here(folder), trust, timeout)
    return BundleReport(folder, sha256, (whole, *replays.findings()))


@dataclass(frozen=True)
class Golden:
    """What artifacts are held to.

    Attributes:
        names: Files of the inputs.
        inputs: The inputs, in the dtypes of the signature.
        outputs: The model's logits for them.
        tolerances: By format, the largest difference for each batch; ``None`` for one that it does not take.
        state: What is known of each tensor of the model's state dict.
    """

    names: tuple[str, ...]
    inputs: tuple[Batch, ...]
    outputs: tuple[Tensor, ...]
    tolerances: dict[str, tuple[float | None, ...]]
    state: dict[str, dict[str, Any]]

    def taken(self, format: str) -> list[int]:
        """Numbers of the batches that a format takes."""
        return [number for number, tolerance in enumerate(self.tolerances[format]) if tolerance is not None]


@dataclass(frozen=True)
class Replays:
    """The replays of a bundle whose files are those of its manifest.

    Attributes:
        folder: The bundle.
        files: The file of each format.
        golden: What they are held to.
        origin: What this machine remembers of making it; empty where it was made elsewhere.
        trust: Whether formats that can run code are loaded all the same.
        timeout: Seconds until a process is stopped.
    """

    folder: Path
    files: dict[str, str]
    golden: Golden
    origin: dict[str, Any]
    trust: bool
    timeout: float

    def findings(self) -> Iterator[Evidence]:
        """Evidence of where the bundle comes from, of each format, and of its script."""
        yield self._made()
        replayed = {format: self._replay(format) for format in self.files}
        yield from replayed.values()
        yield self._script(runnable(format for format, found in replayed.items() if found.status is Status.OK))

    def _made(self) -> Evidence:
        if self.origin:
            return Evidence("origin", Status.OK, "made on this machine")
        if self.trust:
            return Evidence("origin", Status.OK, "made elsewhere, and trusted as you said")
        message = f"made elsewhere: hashes do not say by whom, so compare the sha256 of {MANIFEST} with the one its maker gives"
        return Evidence("origin", Status.SKIPPED, message)

    def _replay(self, format: str) -> Evidence:
        if format not in FORMATS:
            return Evidence(format, Status.WARN, "not replayed: this version knows no such format")
        exporter, path = FORMATS[format].from_options(ExportConfig()), self.folder / self.files[format]
        try:
            exporter.check_available()
        except MissingPackageError as error:
            return Evidence(format, Status.WARN, f"not replayed: {error}")
        if exporter.holds_code and not (self.origin or self.trust):
            message = "not replayed: loading it can run code, and the bundle was not made on this machine (`--trust`)"
            return Evidence(format, Status.WARN, message)
        if exporter.weights_only:
            return self._weights(format, path)
        if _runtime(format) == "onnx":
            from harness.export.onnx_file import read

            try:
                read(path)  # refuses weights outside the bundle
            except ExportError as error:
                return Evidence(format, Status.FAIL, str(error))
        return self._run(format, path)

    def _run(self, format: str, path: Path, config: Path | None = None) -> Evidence:
        """Runs an artifact in a process of its own on every golden batch it takes."""
        taken = self.golden.taken(format)
        batches = [self.golden.inputs[number] for number in taken]
        run = run_fresh(
            _runtime(format),
            path,
            tuple(self.golden.inputs[0]),
            batches,
            config=config,
            timeout=self.timeout,
            threads=torch.get_num_threads(),
        )
        if run.error:
            return Evidence(format, Status.FAIL, f"in a process of its own: {run.error}")
        return self._judge(format, dict(zip(taken, run.outputs, strict=True)))

    def _judge(self, name: str, outputs: Mapping[int, Tensor], format: str = "") -> Evidence:
        """Holds logits to the golden ones of the batches they are for."""
        held: list[tuple[float, float]] = []
        for number, logits in outputs.items():
            tolerance = self.golden.tolerances[format or name][number]
            held.append((_gap(logits, self.golden.outputs[number]), 0.0 if tolerance is None else tolerance))
        measured, bound = max(held, key=lambda pair: pair[0] / pair[1] if pair[1] else pair[0])
        if math.isinf(measured):
            return Evidence(name, Status.FAIL, "gives logits of another shape than the golden ones, or that are not finite")
        if measured > bound:
            cause = "an artifact of other weights, or a runtime of another version that computes otherwise"
            return Evidence(name, Status.FAIL, "gives other logits than the golden ones", measured, bound, cause=cause)
        return Evidence(name, Status.OK, f"gives the golden logits of {_batches(len(held))}", measured, bound)

    def _weights(self, format: str, path: Path) -> Evidence:
        """Fills the model that a config of this machine builds; where there is none, holds the weights to what is recorded of them."""
        config, why = Path(self.origin.get("config") or ""), ""
        if config.is_file():
            found = self._run(format, path, config)
            if found.status is Status.OK:
                return Evidence(
                    format, Status.OK, f"{found.message} in the model that {config.name} builds", found.measured, found.bound
                )
            why = found.message
        error = _hold_weights(format, path, self.golden.state, self.timeout)
        if error:
            return Evidence(format, Status.FAIL, f"in a process of its own: {error}")
        if why:
            message = f"holds the weights it had, but not for the model that {config} builds now: {why}"
            return Evidence(format, Status.WARN, message, cause="code or a config that was changed since the bundle was made")
        held = counted(len(self.golden.state), "tensor")
        message = f"{held} of the recorded name, shape, dtype and sha256; running them takes the model's code"
        return Evidence(format, Status.OK, message)

    def _script(self, formats: Sequence[str]) -> Evidence:
        """Runs ``inference.py`` on a golden batch, where it is the script that this version writes."""
        script = self.folder / INFERENCE
        if script.read_bytes() != inference_script().encode():
            return Evidence(INFERENCE, Status.SKIPPED, "not run: it is not the script that this version writes")
        if not formats:
            return Evidence(INFERENCE, Status.SKIPPED, "not run: none of its formats was replayed")
        format = formats[0]
        number = self.golden.taken(format)[0]
        with tempfile.TemporaryDirectory(prefix="modeltiers-bundle-", ignore_cleanup_errors=True) as scratch:
            outputs = Path(scratch) / "outputs.npz"
            inputs = self.folder / "golden" / self.golden.names[number]
            arguments = [str(script), "--format", format, "--inputs", str(inputs), "--outputs", str(outputs)]
            error = _child(_RUN_SCRIPT, arguments, Path(scratch), self.timeout)
            if error:
                return Evidence(INFERENCE, Status.FAIL, error)
            logits = _load_arrays(outputs)["logits"]
        found = self._judge(INFERENCE, {number: torch.from_numpy(logits)}, format)
        return replace(found, message=f"with {format}, {found.message}")


def _batches(count: int) -> str:
    return "1 batch" if count == 1 else f"{count} batches"


def _runtime(format: str) -> str:
    return FORMATS[format].runs_as or format


def _read_manifest(folder: Path) -> Any:
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise ExportError(f"{folder} is no bundle: it has no {MANIFEST}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{path} cannot be read, so nothing can be said of the bundle: {type(error).__name__}: {error}"
        ) from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise ExportError(f"{folder} is no bundle: its {MANIFEST} is something else's")
    return found


def _parse(manifest: dict[str, Any]) -> tuple[dict[str, tuple[str, int]], dict[str, str]]:
    """Sha256 and size of each file, and the file of each format.

    Raises:
        ValueError: Something is missing, or names a place outside the bundle.
    """
    if manifest["version"] != VERSION:
        raise ValueError(f"it has version {manifest['version']}, and this project reads version {VERSION}")
    listed = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest["files"].items()}
    formats = {str(format): str(name) for format, name in manifest["formats"].items()}
    for name in listed:
        if not _inside(name):
            raise ValueError(f"{name!r} is no path inside the bundle, refused")
    for name in (*formats.values(), GOLDEN, SIGNATURE, INFERENCE):
        if name not in listed:
            raise ValueError(f"it does not list {name}")
    return listed, formats


def _inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name == "/".join(parts) and parts != () and ".." not in parts and not {"\\", ":", "\0"} & {*name}


def _mistakes(folder: Path, listed: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    """What is wrong with the files, a sentence each; only plain files are opened."""
    present = {*files_in(folder)} - {MANIFEST}
    for name in sorted(present - listed.keys()):
        hint = " (an import of inference.py leaves it)" if "__pycache__" in name else ""
        yield f"{name} is not in the manifest{hint}; delete it"
    for name, (sha256, size) in listed.items():
        path = folder / name
        if name not in present:
            yield f"{name} is missing"
        elif not S_ISREG(path.lstat().st_mode):
            yield f"{name} is a link or no plain file, refused"
        elif path.stat().st_size != size:
            yield f"{name} has {path.stat().st_size} bytes instead of {size}"
        elif file_hash(path) != sha256:
            yield f"{name} was changed: its sha256 is another one"


def _read_golden(folder: Path, listed: Container[str], formats: Mapping[str, str]) -> Golden:
    golden = json.loads((folder / GOLDEN).read_text(encoding="utf-8"))
    signature = json.loads((folder / SIGNATURE).read_text(encoding="utf-8"))
    for format, name in formats.items():
        # The script loads what the signature names, by the runtime it names: that must not be another file, or one that runs code.
        if format in FORMATS and signature["artifacts"][format] != {"file": name, "runtime": _runtime(format)}:
            raise ValueError(f"{SIGNATURE} has another file or runtime for {format} than the manifest")
    dtypes = {str(declared["name"]): _dtype(declared["dtype"]) for declared in signature["inputs"]}
    inputs, outputs = [], []
    for batch in golden["batches"]:
        for name in (batch["inputs"], batch["outputs"]):
            if f"golden/{name}" not in listed:
                raise ValueError(f"golden/{name} is not in the manifest")
        arrays = _load_arrays(folder / "golden" / batch["inputs"])
        inputs.append({name: torch.from_numpy(arrays[name]).to(dtype) for name, dtype in dtypes.items()})
        outputs.append(torch.from_numpy(_load_arrays(folder / "golden" / batch["outputs"])["logits"]))
    tolerances = {
        format: tuple(None if "refused" in held else float(held["tolerance"]) for held in golden["formats"][format])
        for format in formats
    }
    if any(len(held) != len(inputs) or not any(tolerance is not None for tolerance in held) for held in tolerances.values()):
        raise ValueError("a format has nothing to be held to")
    names = tuple(batch["inputs"] for batch in golden["batches"])
    return Golden(names, tuple(inputs), tuple(outputs), tolerances, dict(golden["state"]))


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is no dtype")
    return dtype


def _load_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _gap(logits: Tensor, expected: Tensor) -> float:
    """Largest difference of the finite logits; infinite where others are finite, or none."""
    finite = expected.isfinite()
    if logits.shape != expected.shape or not torch.equal(logits.isfinite(), finite):
        return float("inf")
    return difference(logits[finite], expected[finite])


def _hold_weights(format: str, path: Path, expected: Mapping[str, Any], timeout: float) -> str:
    """Loads weights in a process of its own and holds them to what is known of each; returns what is wrong."""
    with tempfile.TemporaryDirectory(prefix="modeltiers-bundle-", ignore_cleanup_errors=True) as scratch:
        request = Path(scratch) / "request.json"
        known = {"format": format, "artifact": str(path), "config": None, "expected": dict(expected)}
        run = {"fields": {}, "batches": 0, "threads": torch.get_num_threads(), "folder": None, "import_paths": []}
        request.write_text(json.dumps({**known, **run}), encoding="utf-8")
        error = _child(_RUN_REPLAY, [str(request)], Path(scratch), timeout)
        answer = Path(scratch) / ANSWER
        if answer.is_file():
            return str(json.loads(answer.read_text(encoding="utf-8")).get("error", ""))
        return error or "it gave no answer"


_RUN_SCRIPT = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""Runs a script without its folder on the path, where a bundle may have put anything."""

_ROOT = str(Path(harness.__file__).parent.parent)
_RUN_REPLAY = f"import sys; sys.path.append({_ROOT!r}); from harness.export.replay import main; sys.exit(main())"


def _child(code: str, arguments: Sequence[str], folder: Path, timeout: float) -> str:
    """Runs code in a process of its own, in an empty folder; returns what went wrong."""
    command = [sys.executable, "-B", "-c", code, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"not done after {timeout:g} s, so it was stopped"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return f"ended with status {done.returncode}" + (f": {said[-1].strip()}" if said else "")
