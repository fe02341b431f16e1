"""What the attempts are made on: files, a process, listeners and secrets that the test made itself; and what became of them."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import pty
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

GROUPS = ("files", "processes", "network", "secrets", "resources")
HERE = Path(__file__).parent

_BYSTANDER = """
import sys, time
kept = "SECRET"
print("ready", flush=True)
sys.stdin.read()
"""


def attempts() -> dict[str, str]:
    """The code of every attempt on the machine, by ``group::python_name`` or ``group::native_name``."""
    found = {}
    for group in GROUPS:
        module = importlib.import_module(f"attempts_on_{group}")
        found |= {f"{group}::python_{name}": code for name, code in module.PYTHON.items()}
        found |= {f"{group}::native_{name}": code for name, code in module.NATIVE.items()}
    return found


class Field:
    """The things that are attacked.

    Args:
        folder: An empty folder for all of it.
        code: The attempts.
    """

    def __init__(self, folder: Path, code: Mapping[str, str]) -> None:
        self.code = dict(code)
        self.secret = f"secret-{secrets.token_hex(8)}"
        self.marks, self.home, self.project = folder / "marks", folder / "home", folder / "project"
        self.hidden = folder / "elsewhere" / "secret"
        self.connected: set[str] = set()
        self._each = {name: self._place(number) for number, name in enumerate(code)}
        self._hide()
        self._listeners = dict(self._listen(folder))
        self._master, self._terminal = pty.openpty()
        self._shared = secrets.randbelow(2**30) + 1
        self._bystander = self._start_bystander()

    def job(self, folder: Path) -> dict[str, Any]:
        """What ``attack_child.run_all`` is asked to do, in its own folder."""
        at = {name: found.getsockname() for name, found in self._listeners.items()}
        unix = b"\x01\x00" + os.fsencode(at["datagram"]) + b"\0"
        names = {
            "folder": str(self.marks),
            "secret": self.secret,
            "hidden": str(self.hidden),
            "home": str(self.home),
            "project": str(self.project),
            "pid": self._bystander.pid,
            "terminal": os.ttyname(self._terminal),
            "port": at["tcp"][1],
            "udp": at["udp"][1],
            "stream": at["stream"],
            "datagram": at["datagram"],
            "abstract": os.fsdecode(at["abstract"]),
            "unix_address": os.fsdecode(unix),
            "shared": self._shared,
        }
        file = str(self.project / "model.py")
        return {"attempts": self.code, "names": names, "each": self._each, "file": file, "folder": str(folder)}

    @contextlib.contextmanager
    def watched(self) -> Iterator[set[str]]:
        """Names of the attempts whose file was found locked, while they run."""
        locked: set[str] = set()
        done = threading.Event()

        def look() -> None:
            waiting = {name for name, code in self.code.items() if "'locked'" in code}
            while not done.wait(0.05):
                locked.update(name for name in waiting if _is_locked(Path(self._each[name]["canary"])))

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        yield locked
        done.set()
        watcher.join()

    def harmed(self) -> set[str]:
        """Names of the attempts that left something behind, or changed or removed what was there."""
        return {name for name, mine in self._each.items() if _is_harmed(mine)}

    def close(self) -> None:
        """Ends the bystander and the listeners."""
        self._bystander.kill()
        self._bystander.communicate()
        for listener in self._listeners.values():
            listener.close()
        for descriptor in (self._master, self._terminal):
            os.close(descriptor)

    def _place(self, number: int) -> dict[str, str]:
        place = self.marks / f"{number}"
        (place / "canary").mkdir(parents=True)
        (place / "empty").mkdir()
        (place / "canary" / "file").write_text("unharmed")
        return {"mark": str(place / "mark"), "canary": str(place / "canary" / "file"), "empty": str(place / "empty")}

    def _hide(self) -> None:
        inside = f"[default]\npassword = {self.secret}\n"
        netrc = f"machine nowhere login me password {self.secret}\n"
        places = {
            **dict.fromkeys((self.hidden, self.home / ".aws/credentials", self.home / ".ssh/id_mark"), inside),
            **dict.fromkeys(
                (self.home / ".cache/huggingface/token", self.project / ".git/config", self.project / ".env"), inside
            ),
            self.home / ".netrc": netrc,
            self.project / "model.py": "",
        }
        for file, content in places.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    def _listen(self, folder: Path) -> Iterator[tuple[str, socket.socket]]:
        kinds = {"tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))}
        kinds["udp"] = (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        kinds["stream"] = (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "s"))  # type: ignore[assignment]
        kinds["datagram"] = (socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "d"))  # type: ignore[assignment]
        kinds["abstract"] = (socket.AF_UNIX, socket.SOCK_STREAM, f"\0modeltiers-{secrets.token_hex(8)}")  # type: ignore[assignment]
        for name, (family, kind, address) in kinds.items():
            listener = socket.socket(family, kind)
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            threading.Thread(target=self._serve, args=(name, listener, kind), daemon=True).start()
            yield name, listener

    def _serve(self, name: str, listener: socket.socket, kind: int) -> None:
        with contextlib.suppress(OSError):  # until it is closed
            while True:
                if kind == socket.SOCK_DGRAM:
                    listener.recv(10)
                else:
                    listener.accept()[0].close()
                self.connected.add(name)

    def _start_bystander(self) -> subprocess.Popen[bytes]:
        """A process that holds the secret in its environment, its arguments, its folder and an open file."""
        with self.hidden.open() as file:
            process = subprocess.Popen(
                [sys.executable, "-c", _BYSTANDER.replace("SECRET", self.secret), self.secret],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "MARK_TOKEN": self.secret},
                cwd=self.hidden.parent,
                pass_fds=[file.fileno()],
                start_new_session=True,
            )
        assert process.stdout is not None
        process.stdout.readline()
        return process


def run_without_isolation(field: Field, folder: Path) -> dict[str, str]:
    """How the attempts end in a process like any other: most are through, which is what makes the others mean something."""
    folder.mkdir()
    job, answer = folder / "job.json", folder / "answer.json"
    job.write_text(json.dumps(field.job(folder)))
    environment = {
        **os.environ,
        "MARK_TOKEN": field.secret,
        "PYTHONPATH": os.pathsep.join(map(str, [HERE, *filter(None, sys.path)])),
    }
    command = [sys.executable, str(HERE / "attack_child.py"), str(job), str(answer)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False, close_fds=False)
    if not answer.is_file():
        raise AssertionError(f"the attempts ended their process: {done.returncode}\n{done.stderr[-3000:]}")
    found: dict[str, str] = json.loads(answer.read_text())
    return found


def _is_harmed(mine: Mapping[str, str]) -> bool:
    canary = Path(mine["canary"])
    intact = canary.is_file() and canary.read_text() == "unharmed" and not os.listxattr(canary) and Path(mine["empty"]).is_dir()
    place = Path(mine["mark"]).parent
    return not intact or {entry.name for entry in place.iterdir()} != {"canary", "empty"}


def _is_locked(file: Path) -> bool:
    """Whether somebody else holds a lock of either kind."""
    try:
        with file.open("r+") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(opened, fcntl.LOCK_UN)
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def remove(folder: Path) -> None:
    """Removes a field, whatever the attempts made of it."""
    shutil.rmtree(folder, ignore_errors=True)
