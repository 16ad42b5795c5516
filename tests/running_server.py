"""The real program for tests: starts `python app.py` on a free port with a data folder of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT = 90.0  # seconds; an import of Gradio on a busy machine


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class RunningServer:
    """A running `python app.py`. `headers` are what its clients have to send (the token, if there is one)."""

    process: subprocess.Popen[bytes]
    port: int
    data_dir: Path
    log_file: Path
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def client(self, timeout: float = 60.0) -> httpx.Client:
        """An HTTP client for it; close it after use."""
        # Plain HTTP: reading the machine's certificates would take longer than most requests.
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=timeout, trust_env=False, verify=False)

    def get(self, path: str, **options: object) -> httpx.Response:
        with self.client() as client:
            return client.request("GET", path, **options)  # type: ignore[arg-type]

    def post(self, path: str, **options: object) -> httpx.Response:
        with self.client() as client:
            return client.request("POST", path, **options)  # type: ignore[arg-type]

    def delete(self, path: str) -> httpx.Response:
        with self.client() as client:
            return client.delete(path)

    def wait_for_model(self, limit: float = 120.0) -> dict[str, object]:
        """Wait until the model it was started with is ready; fails with the server's reason when it never is."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            model: dict[str, object] = self.get("/api/status").json()["model"]
            if model["state"] in ("ready", "failed"):
                assert model["state"] == "ready", f"the model failed: {model['error']}\n{self.log}"
                return model
            time.sleep(0.1)
        raise AssertionError(f"the model was not ready within {limit} s\n{self.log}")

    def engine(self) -> psutil.Process:
        """The process below it that holds the weights, of the transformers engine."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if "backends.engines.transformers_server" in child.cmdline():
                return child
        raise AssertionError("no engine runs below the server")

    def stop(self) -> int:
        """End it as an operator would, and give its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(45)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        return self.process.returncode


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a server under test: nothing of the developer's settings, no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUARTET_", "GRADIO_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(extra or {})}


StartServer = Callable[..., RunningServer]  # what the fixture start_server gives


@contextmanager
def running_server(
    folder: Path, *flags: str, env: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """Start `python app.py` with these flags, wait until it answers, and end it afterwards."""
    port = free_port()
    data_dir = folder / "data"
    if "--data-dir" in flags:
        data_dir = Path(flags[flags.index("--data-dir") + 1])
    log_file = folder / f"server-{port}.log"
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--data-dir", str(data_dir), *flags]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(env), stdout=log, stderr=log)
    server = RunningServer(process, port, data_dir, log_file, dict(headers or {}))
    try:
        wait_until_up(server)
        yield server
    finally:
        server.stop()


def wait_until_up(server: RunningServer) -> None:
    """Wait for the first answer of /health; fails with the server's log when it ends or takes too long."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended with code {server.process.returncode}:\n{server.log}")
        try:
            httpx.get(f"{server.url}/health", timeout=START_LIMIT, trust_env=False, verify=False)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the server did not answer within {START_LIMIT:.0f} s:\n{server.log}")
