"""The door: what is said when it cannot start, and an orderly end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import app
from tests.running_server import ROOT, RunningServer, clean_environment, free_port, running_server


def started_wrongly(*flags: str, env: dict[str, str] | None = None) -> str:
    """Run app.py with flags it cannot start with; its one line on stderr."""
    command = [sys.executable, "app.py", *flags]
    run = subprocess.run(
        command, cwd=ROOT, env=clean_environment(env), capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 2, run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stderr.startswith("Quartet: ")
    return run.stderr


def test_the_help_names_every_flag_and_fits_a_terminal() -> None:
    run = subprocess.run(
        [sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    for flag in [
        "host",
        "port",
        "token",
        "data-dir",
        "database-url",
        "model-path",
        "model-type",
        "backend",
        "engine-url",
        "engine-args",
        "precision",
        "embedding-model",
        "version",
        "help",
    ]:
        assert f"--{flag}" in run.stdout
    assert "QUARTET_TOKEN" in run.stdout
    assert max(len(line) for line in run.stdout.splitlines()) <= 115


@pytest.mark.parametrize(("flag", "value"), [("--port", "70000"), ("--host", "nowhere.invalid")])
def test_a_wrong_flag_is_one_sentence(flag: str, value: str) -> None:
    assert flag in started_wrongly(flag, value)


def test_a_wrong_variable_is_one_sentence_too() -> None:
    assert "--port" in started_wrongly(env={"QUARTET_PORT": "http"})


def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        began = time.monotonic()
        line = started_wrongly("--port", str(port), "--data-dir", str(tmp_path))
    assert f"Port {port} is taken" in line
    assert "--port" in line
    assert time.monotonic() - began < 6  # before anything heavy is imported


def test_a_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = started_wrongly("--port", "0", "--data-dir", str(tmp_path / "file"))
    assert "--data-dir" in line
    assert str(tmp_path / "file") in line


def test_a_second_quartet_on_the_same_data_folder_is_refused_until_the_first_is_gone(
    server: RunningServer, tmp_path: Path
) -> None:
    line = started_wrongly("--port", "0", "--data-dir", str(server.data_dir))
    assert f"process {server.process.pid}" in line


def test_a_killed_quartet_leaves_no_lock(tmp_path: Path) -> None:
    code = "import app, pathlib, os, signal, sys; lock = app.claim(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    app.claim(tmp_path).close()


def test_a_damaged_database_is_one_sentence(tmp_path: Path) -> None:
    with running_server(tmp_path) as first:
        first.post("/api/knowledge-bases", json={"name": "x"})
    (database,) = first.data_dir.glob("*.db")
    database.write_bytes(b"this is no database" * 1_000)
    line = started_wrongly("--port", str(free_port()), "--data-dir", str(first.data_dir))
    assert "Another Quartet" not in line


def test_the_data_folder_is_private(server: RunningServer) -> None:
    assert oct(server.data_dir.stat().st_mode & 0o777) == "0o700"


def test_it_says_where_it_is_when_it_listens(server: RunningServer) -> None:
    assert f"Quartet is ready at {server.url} " in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(start_server: object, number: signal.Signals) -> None:
    running: RunningServer = start_server()  # type: ignore[operator]
    # An open page holds a connection that never ends by itself.
    with (
        httpx.Client(trust_env=False) as page,
        page.stream("GET", f"{running.url}/gradio_api/heartbeat/abc", timeout=30) as heartbeat,
    ):
        assert heartbeat.status_code == 200
        beats = heartbeat.iter_bytes()
        next(beats)
        began = time.monotonic()
        running.process.send_signal(number)
        assert running.process.wait(20) == 0
        assert time.monotonic() - began < 15
    assert "Traceback" not in running.log
    with pytest.raises(httpx.TransportError):
        httpx.get(running.url, trust_env=False)


def test_beyond_loopback_a_token_is_made_and_shown_once(start_server: object) -> None:
    running: RunningServer = start_server("--host", "0.0.0.0")  # type: ignore[operator]
    shown = re.findall(r"Token for this run .*: (\S+)$", running.log, re.MULTILINE)
    assert len(shown) == 1
    assert len(shown[0]) >= 32
    assert running.get("/api/status").status_code == 401
    running.headers["Authorization"] = shown[0]
    assert running.get("/api/status").status_code == 200
    assert running.log.count(shown[0]) == 1
    # The process list shows nobody the token.
    assert shown[0].encode() not in Path(f"/proc/{running.process.pid}/cmdline").read_bytes()


def test_stray_variables_do_not_steer_the_libraries() -> None:
    environment = {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_ANALYTICS_ENABLED": "True", "PATH": os.environ["PATH"]}
    app.quiet_libraries(environment)
    assert "GRADIO_ALLOWED_PATHS" not in environment
    assert environment["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "1"


def test_a_port_of_zero_takes_a_free_one() -> None:
    with app.open_port("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0


def test_free_ports_are_free() -> None:
    app.open_port("127.0.0.1", free_port()).close()
