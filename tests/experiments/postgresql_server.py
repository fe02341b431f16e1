"""A private PostgreSQL server for the tests: on a socket in its own folder, without a port."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))


def user() -> str | None:
    """The account the server runs under: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def why_not() -> str:
    """Why no server can be started here; empty where one can."""
    if not any((folder / "initdb").exists() for folder in PROGRAMS):
        return "PostgreSQL's server programs are not in /usr/lib/postgresql/*/bin"
    return "" if user() else "PostgreSQL does not run as root, and there is no other account"


class PostgresqlServer:
    def __init__(self) -> None:
        # A socket's path holds about 100 characters, fewer than pytest's folders have.
        self.folder = Path(tempfile.mkdtemp(prefix="mt-pg-", dir="/tmp"))
        self._schemas = itertools.count()
        self._become = {"user": user()} if os.geteuid() == 0 else {}
        self.folder.chmod(0o755)
        data = self.folder / "data"
        data.mkdir()
        if self._become:
            shutil.chown(self.folder, user())
            shutil.chown(data, user())
        self._run("initdb", "-D", str(data), "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    def start(self) -> None:
        options = [f"-c{key}={value}" for key, value in {"listen_addresses": "", "fsync": "off", "max_connections": 40}.items()]
        command = [PROGRAMS[-1] / "postgres", "-D", self.folder / "data", "-k", self.folder, *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._become)
        deadline = time.monotonic() + 30
        while subprocess.run([PROGRAMS[-1] / "pg_isready", "-q", "-h", self.folder], check=False).returncode:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # "fast": it ends the connections and writes what it has
        self._process.wait(30)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """The address of an empty schema."""
        schema = f"s{next(self._schemas)}"
        self.run_sql(f"CREATE SCHEMA {schema}")
        return f"postgresql://tester@/postgres?host={self.folder}&options=-csearch_path%3D{schema}"

    def run_sql(self, statement: str) -> None:
        self._run("psql", "-q", "-h", str(self.folder), "-U", "tester", "-c", statement, "postgres")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([PROGRAMS[-1] / program, *arguments], cwd=self.folder, check=True, capture_output=True, **self._become)
