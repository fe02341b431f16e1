"""The folder of a bundle: a new one takes the place of the old one whole, and of nothing but a bundle."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from harness.export.bundle.manifest import files_in, listed_in
from harness.export.formats.exporter import ExportError


def check_target(target: Path) -> Path:
    """The target, absolute.

    Raises:
        ExportError: There is something that is no bundle, or a bundle that holds something else.
    """
    target = target.expanduser().resolve()
    with _one_line_for(target):
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return target
        listed = listed_in(target)
        if listed is None:
            raise ExportError(f"{target} is there and is no bundle, so it is not replaced; name another folder, or delete it")
        foreign = [name for name in files_in(target) if name not in listed and "__pycache__" not in name]
        if foreign:
            raise ExportError(
                f"{target} holds {foreign[0]}, which is no part of the bundle there; move it away, or name another folder"
            )
    return target


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder that takes the target's name, and its place, once the block is done; where it fails, nothing was there."""
    with _one_line_for(target):
        missing = [parent for parent in target.parents if not parent.exists()]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _clean_up(target)
            partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
            try:
                with FileLock(partial / "lock"):  # held for as long as this process lives
                    new = partial / "new"
                    new.mkdir()
                    yield new
                    _exchange(new, target, partial / "old")
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except BaseException:
            with suppress(OSError):
                for parent in missing:
                    parent.rmdir()
            raise


def _exchange(new: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _clean_up(target: Path) -> None:
    """Removes what a process that was killed left of the same bundle, and puts back one that it had just moved away."""
    for partial in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        with suppress(OSError, Timeout), FileLock(partial / "lock", timeout=0):
            if (partial / "old").is_dir() and not target.exists():
                (partial / "old").rename(target)
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _one_line_for(target: Path) -> Iterator[None]:
    """Says in one line why a bundle cannot be written."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and Path(error.filename) in target.parents else ""
        raise ExportError(
            f"cannot write the bundle {target}: {error.strerror or error}{where}; nothing was written there"
        ) from None
