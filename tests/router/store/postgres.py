"""PostgresServer: a real PostgreSQL that the tests start for themselves and stop."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg

#: Where Debian keeps what is not on the path.
DEBIAN = Path("/usr/lib/postgresql")


class PostgresServer:
    """One server with its data in a temporary folder, and as many databases as are asked for."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="atelier-postgres-"))
        self._data = self._folder / "data"
        self._numbers = itertools.count(1)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def start(self) -> None:
        """Make the data folder on first use, and serve it on loopback."""
        if not self._data.exists():
            if user := _user():
                shutil.chown(self._folder, user)
            self._run("initdb", "-A", "trust", "-U", "atelier", "-E", "UTF8", "--no-sync")
        options = f"-p {self.port} -h 127.0.0.1 -k {self._folder} -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """End every connection and the server."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Forget the data."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql://atelier@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *args: str) -> None:
        command = [str(self._programs / program), "-D", str(self._data), *args]
        # NOTE: the server keeps pg_ctl's output open: a pipe would never end.
        with (self._folder / "output").open("ab") as output:
            subprocess.run(
                command,
                check=True,
                cwd=self._folder,
                stdout=output,
                stderr=output,
                **_as_user(),
            )


def find_programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``; None when PostgreSQL is not installed."""
    candidates = sorted(DEBIAN.glob("*/bin"), reverse=True)
    if found := shutil.which("initdb"):
        candidates.append(Path(found).parent)
    return next((path for path in candidates if (path / "pg_ctl").exists()), None)


def _user() -> str | None:
    """Whose the server is: it refuses to run as root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _as_user() -> dict[str, Any]:
    user = _user()
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
