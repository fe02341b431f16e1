"""A repro bundle: its contents, and its zip, which has the same bytes for the same content and is read only if every hash is right."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import stat
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from struct import error as StructError
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from harness import __version__
from harness.documents import without_secrets
from harness.errors import did_you_mean
from harness.experiments import ExperimentDB, RunRef
from harness.files import BLOCK, blocks_of, replacing
from harness.repro.comparison import MetricRecords
from harness.repro.contents import Contents, check_names, collect, files_below, free_place
from harness.repro.manifest import (
    CONFIG,
    ENVIRONMENT,
    MANIFEST,
    METRICS,
    OURS,
    README,
    REQUIREMENTS,
    FileFacts,
    Manifest,
    ReproError,
    is_inside,
    needed,
    requirements,
)
from harness.repro.manifest import env_snapshot as snapshot
from harness.repro.recorded import RecordedRun, config_of, read_run, why_not_rebuilt
from harness.wording import and_others

_EARLIEST = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = 0o100644 << 16
_UNIX = 3
_COMPRESSED_BYTES = 16 << 20
"""Larger files are stored as they are: they are weights or packed data, which take long and do not shrink."""


def write_archive(target: Path, files: Mapping[str, Path | bytes], facts: Mapping[str, FileFacts]) -> None:
    """Writes a zip aside and gives it its name once it is whole.

    Args:
        target: The zip; one that is there is replaced.
        files: Files or their content, by name.
        facts: What each must be; a file that was changed since is an error.

    Raises:
        ReproError: It cannot be written, or a file was changed; nothing is left behind.
    """
    try:
        with replacing(target) as partial, ZipFile(partial, "x") as archive:
            for name in sorted(files):
                _write(archive, name, files[name], facts[name])
    except OSError as error:
        where = f" ({error.filename})" if error.filename and Path(error.filename) in target.parents else ""
        raise ReproError(f"cannot write the bundle {target}: {error.strerror or error}{where}; nothing was written") from None


def _write(archive: ZipFile, name: str, content: Path | bytes, facts: FileFacts) -> None:
    info = ZipInfo(name, _EARLIEST)
    info.create_system, info.external_attr = _UNIX, _PLAIN_FILE
    info.compress_type = ZIP_DEFLATED if facts.bytes <= _COMPRESSED_BYTES else ZIP_STORED
    info.file_size = facts.bytes
    digest = hashlib.sha256()
    with archive.open(info, "w") as out:
        for block in [content] if isinstance(content, bytes) else blocks_of(content):
            digest.update(block)
            out.write(block)
    if digest.hexdigest() != facts.sha256:
        raise ReproError(f"{name} was changed while it was copied; make the bundle again")


_RATIO = 100
_SLACK = 512 << 20
"""What unpacks to more than this and ``_RATIO`` times its size is refused: texts shrink to a tenth, weights hardly."""

_ENCRYPTED = 0x1
_DAMAGED = (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError, OverflowError, StructError)
"""What ``zipfile`` raises for files that are no sound zip."""


@dataclass(frozen=True)
class Bundle:
    """A repro bundle whose files are, to the byte, those of its manifest.

    Attributes:
        path: The zip.
        manifest: What is in it.
        sha256: Of the manifest, which names those of all other files.
    """

    path: Path
    manifest: Manifest
    sha256: str
    _archive: ZipFile

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return b"".join(self._blocks(name))

    def read_json(self, name: str) -> Any:
        """The content of a JSON file.

        Raises:
            ReproError: It is none.
        """
        try:
            return json.loads(self.read(name).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ReproError(f"{self.path}: {name} is not JSON that can be read: {error}") from None

    def unpack(self, folder: Path) -> None:
        """Writes every file into an empty folder."""
        for name in (*self.manifest.files, MANIFEST):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                for block in self._blocks(name):
                    out.write(block)

    def _blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file, held to its hash once more, as the zip may be written to while it is read."""
        facts = self.manifest.files.get(name)
        return _checked(self._archive, name, facts.sha256 if facts else self.sha256)


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Opens a bundle and holds every file in it to the manifest.

    Raises:
        ReproError: It is no bundle, or not whole, or holds what no bundle has; the message names the file.
    """
    with ExitStack() as opened:
        try:
            stream = opened.enter_context(path.open("rb"))
            archive = opened.enter_context(ZipFile(stream))
            bundle = _verified(path, archive, path.stat().st_size)
        except ReproError as error:
            raise ReproError(f"{path}: {error}") from None
        except FileNotFoundError:
            raise ReproError(f"{path}: no such file") from None
        except OSError as error:
            raise ReproError(f"{path} cannot be read: {error.strerror or error}") from None
        except _DAMAGED as error:
            raise ReproError(f"{path} is not a zip file, or only a part of one: {error}") from None
        yield bundle


def _verified(path: Path, archive: ZipFile, size: int) -> Bundle:
    entries = _entries(archive, size)
    if MANIFEST not in entries:
        raise ReproError(f"it is not a repro bundle: it has no {MANIFEST}")
    content = b"".join(_checked(archive, MANIFEST, None))
    manifest = _parse(content)
    listed = {*manifest.files, MANIFEST}
    foreign, missing = sorted(entries.keys() - listed), sorted(listed - entries.keys())
    if foreign:
        raise ReproError(f"{foreign[0]} is not in the manifest{and_others(len(foreign) - 1, 'file')}")
    if missing:
        raise ReproError(f"{missing[0]} is missing{and_others(len(missing) - 1, 'file')}")
    for name, facts in manifest.files.items():
        if entries[name].file_size != facts.bytes:
            raise ReproError(f"{name} has {entries[name].file_size} bytes instead of {facts.bytes}")
        for _ in _checked(archive, name, facts.sha256):
            pass
    return Bundle(path, manifest, hashlib.sha256(content).hexdigest(), archive)


def _entries(archive: ZipFile, size: int) -> dict[str, ZipInfo]:
    """The entries of a zip by name: plain files with plain names, each once, that unpack to no more than they may."""
    found: dict[str, ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename  # of a name with a NUL, `filename` is only a part
        mode = info.external_attr >> 16
        if not is_inside(name):
            raise ReproError(f"{name!r} is not a path inside the bundle, refused")
        if name in found:
            raise ReproError(f"{name} is in it twice")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise ReproError(f"{name} is a link or no plain file, refused")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ReproError(f"{name} is encrypted or compressed in a way that bundles never are, refused")
        found[name] = info
    unpacked = sum(info.file_size for info in found.values())
    if unpacked > _SLACK + _RATIO * size or sum(info.compress_size for info in found.values()) > size:
        raise ReproError(f"its {size} bytes would unpack to {unpacked}, refused")
    return found


def _parse(content: bytes) -> Manifest:
    try:
        return Manifest.parse(json.loads(content.decode("utf-8")))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ReproError(f"{MANIFEST} is not a manifest of a repro bundle: {said}") from None


def _checked(archive: ZipFile, name: str, sha256: str | None) -> Iterator[bytes]:
    """The blocks of a file.

    Raises:
        ReproError: It cannot be unpacked, or has another sha256; this is known after the last block.
    """
    digest = hashlib.sha256()
    try:
        with archive.open(name) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                yield block
    except OSError as error:
        raise ReproError(f"{name} cannot be read: {error.strerror or error}") from None
    except _DAMAGED as error:
        raise ReproError(f"{name} is damaged: {error}") from None
    if sha256 is not None and digest.hexdigest() != sha256:
        raise ReproError(f"{name} was changed: its sha256 differs")


_DASHBOARDS = "dashboards"
_CLOCK_SECONDS = 2.0
"""The clocks of a database and of a file system may differ by so much."""


def create_repro_bundle(
    run_id: RunRef,
    training_cfg: Any = None,
    task_spec: Any = None,
    eval_cfg: Any = None,
    env_snapshot: Mapping[str, Any] | None = None,
    db: ExperimentDB | str | Path | None = None,
    dashboard_paths: Iterable[str | Path] | None = None,
    output_dir: str | Path = ".",
) -> Path:
    """Packs what rebuilds a run: its config, code, data, environment, metrics and dashboards.

    Args:
        run_id: The run: its id, a named reference, or its name.
        training_cfg: The training config, where it is not the one stored with the run; may be a whole ``SuiteConfig``.
        task_spec: The same for the task.
        eval_cfg: The same for the evaluation data.
        env_snapshot: What ``env_snapshot()`` gave where the run was trained; by default the ``environment`` stored with the run, or a new one.
        db: The database of the run, its file or its URL; by default ``experiments.db`` here.
        dashboard_paths: Files or folders of its dashboard; by default those logged with the run.
        output_dir: Where the zip goes.

    Returns:
        The zip, ``<name>-<id>-repro.zip``. The same run gives the same bytes.

    Warns:
        UserWarning: The zip cannot rebuild the run, as something is missing: it is only a record of it, and says so in its manifest.

    Raises:
        ExperimentError: There is no such run or database.
        ReproError: Something that the run was trained from is missing, or the zip cannot be written; nothing is left behind.
    """
    recorded = read_run(run_id, db)
    config = config_of(recorded, training_cfg, task_spec, eval_cfg)
    contents = collect(config.values, recorded.config_folder)
    known = env_snapshot if env_snapshot is not None else recorded.configs.get("environment")
    environment = without_secrets(snapshot() if known is None else known)
    names, unknown = needed(contents.imports, contents.data_names)
    notes = [*config.notes, *contents.notes, *(f"`{name}` is imported, and belongs to no installed package" for name in unknown)]
    notes += _changed_since(recorded, contents)
    missing = config.missing
    if config.is_python_model and not missing:
        missing = (*_not_in_it(contents, unknown), *why_not_rebuilt(recorded, contents))
    if known is None and recorded.record.host != socket.gethostname():
        notes.append("environment.json describes the machine that made the bundle; the run was trained on another")
    files: dict[str, Path | bytes] = {**contents.files, **_dashboards(recorded, dashboard_paths)}
    files |= {
        CONFIG: _json({**contents.config, "log_to_db": True}),
        ENVIRONMENT: _json(environment),
        METRICS: _json(MetricRecords.of_run(recorded).to_json()),
        REQUIREMENTS: requirements(names).encode(),
    }
    check_names(files)
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", recorded.record.name)
    target = Path(output_dir).expanduser().resolve() / f"{stem}-{recorded.record.id}-repro.zip"
    files[README] = _readme(recorded, target.name, contents, notes, missing).encode()
    facts = {name: _facts(content) for name, content in files.items()}
    manifest = _json(_manifest(recorded, facts, contents, notes, missing).to_json())
    write_archive(target, {**files, MANIFEST: manifest}, {**facts, MANIFEST: _facts(manifest)})
    if missing:
        warnings.warn(
            f"{target.name} is a record of {recorded.title} and cannot rebuild it. Missing: {'; '.join(missing)}",
            UserWarning,
            stacklevel=2,
        )
    return target


def _not_in_it(contents: Contents, unknown: Iterable[str]) -> list[str]:
    """The module of the model, where neither the bundle nor an installed package has it."""
    name = str(contents.config.get("model_import", "")).partition(":")[0].partition(".")[0]
    return [f"the package `{name}`, which is neither installed nor beside the run's data"] if name in unknown else []


def _manifest(
    recorded: RecordedRun, facts: dict[str, FileFacts], contents: Contents, notes: list[str], missing: tuple[str, ...]
) -> Manifest:
    record = recorded.record
    return Manifest(
        run={"id": record.id, "name": record.name, "task": record.task, "status": record.status},
        created=(record.finished or record.heartbeat).isoformat(timespec="seconds"),
        git_commit=record.git_commit,
        git_dirty=record.git_dirty,
        files=facts,
        external={name: FileFacts.of(path) for name, path in contents.external.items()},
        notes=tuple(notes),
        tool=f"{OURS} {__version__}",
        missing=missing,
    )


def _dashboards(recorded: RecordedRun, given: Iterable[str | Path] | None) -> dict[str, Path]:
    logged = [artifact.path for artifact in recorded.artifacts if artifact.kind == "dashboard"]
    paths = [Path(path).expanduser().resolve() for path in (logged if given is None else given)]
    missing = [path for path in paths if not path.exists()]
    if missing and given is not None:
        near = [entry.name for entry in missing[0].parent.iterdir()] if missing[0].parent.is_dir() else []
        raise ReproError(f"no such dashboard {missing[0]}.{did_you_mean(missing[0].name, near)}")
    files: dict[str, Path] = {}
    for path in dict.fromkeys(path for path in paths if path not in missing):
        folder = free_place(_DASHBOARDS, path, files).rpartition("/")[0]
        files.update({f"{folder}/{name}": file for name, file in files_below(path).items()})
    return files


def _changed_since(recorded: RecordedRun, contents: Contents) -> list[str]:
    """A note that names the files written after the run began, which may not be what it was trained from."""
    began = recorded.record.created.timestamp() + _CLOCK_SECONDS
    later = [name for name, path in (*contents.files.items(), *contents.external.items()) if path.stat().st_mtime > began]
    shown = f"{later[0]}{and_others(len(later) - 1, 'file')}" if later else ""
    return [f"{shown} changed after the run began, so it may have been trained from another version"] if later else []


def _facts(content: Path | bytes) -> FileFacts:
    return FileFacts(sha256(content).hexdigest(), len(content)) if isinstance(content, bytes) else FileFacts.of(content)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _readme(recorded: RecordedRun, filename: str, contents: Contents, notes: list[str], missing: tuple[str, ...]) -> str:
    record = recorded.record
    rows = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(recorded.last.items()))
    needs = " --data-dir FOLDER" if contents.external else ""
    commit = f" from commit {record.git_commit}{' with changes' if record.git_dirty else ''}" if record.git_commit else ""
    remarks = "".join(f"- {note}\n" for note in notes)
    how = f"""    pip install -r requirements.txt
    modeltiers repro {filename} --trust{needs}

rebuilds the run and compares its metrics with these. By hand: `modeltiers train --config config.json` in the unpacked folder."""
    if missing:
        how = "This is a record of the run. It cannot rebuild it. Missing:\n\n" + "\n".join(
            f"- {sentence}" for sentence in missing
        )
    return f"""# {recorded.title}

{record.task}, trained on {record.created:%Y-%m-%d}{commit}; {record.status}.

{how}

| metric | last value |
|---|---|
{rows}

{remarks}"""
